"""Attention dynamics by workflow stage (DLLM Agent): where the tokens of a reply look while they are decoded.

A stored episode is played again with its own answers, which gives every prompt as it was. For a reply, the forwards that settled its
tokens are run again (an AR model settles one a forward, a diffusion model several, with the tokens not yet settled masked), and the
attention of the rows that predicted those tokens is averaged over layers and heads. Its mass is summed over the spans of the prompt.
The paper's own definition is not public; this one is this project's.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm_agents import benchmarks
from dllm_agents.agents.play import Player
from dllm_agents.agents.policy import Message
from dllm_agents.agents.recording import Answer, Replay, StreamedAnswer
from dllm_agents.benchmarks.search_reply import Reply, parse_reply
from dllm_agents.client.client import Completion
from dllm_agents.commands import add_paths, named_directory, say
from dllm_agents.config import Config
from dllm_agents.config import load as load_config
from dllm_agents.errors import StageError
from dllm_agents.files import read_jsonl
from dllm_agents.frames import write_frame
from dllm_agents.models.attention import attention_weights
from dllm_agents.models.loading import Model, load
from dllm_agents.records import Attention, Episode, Task, TracedEpisode

STAGES = ("plan", "search", "write")
SPANS = ("question", "plan", "results", "format")
FORWARDS = 4
"""Forwards of a reply that are looked at, at even distances."""


class Said(NamedTuple):
    """One reply of an episode and the prompt it was given to."""

    role: str
    seed: int
    messages: Sequence[Message]
    completion: Completion


class Listening(Replay):
    """Stored answers that note the prompts they answer, for a workflow without streams."""

    def __init__(self, episode: TracedEpisode, roles: Sequence[str]) -> None:
        super().__init__(episode, roles)
        self.exchanges: list[Said] = []

    def complete(self, role: str) -> Answer | None:
        stored = super().complete(role)
        if stored is None:
            return None

        def ask(messages: Sequence[Message], *, seed: int, constraint: dict[str, Any] | None = None) -> Completion:
            completion = stored(messages, seed=seed)
            self.exchanges.append(Said(role, seed, messages, completion))
            return completion

        return ask

    def stream(self, role: str) -> StreamedAnswer:
        raise NotImplementedError("attention is read in the planner workflow, which streams nothing")


def measure(config: Config, agent: str, tasks_path: Path, episodes_path: Path, models: Mapping[str, Path], output: Path) -> int:
    """Write the attention of an agent's replies, one row per reply; returns how many. `models`: backbone -> checkpoint directory.

    Raises StageError for an agent that does not plan, and for a role whose checkpoint is not given.
    """
    entry = config.agents[agent]
    if entry.workflow != "planner":
        raise StageError(f"agents.{agent}: attention by stage is read in the planner workflow; name an agent with workflow: planner")
    tasks = {task.id: task for task in read_jsonl(tasks_path, Task)}
    benchmark = benchmarks.load(next(iter(tasks.values())).benchmark, config)
    backbones = config.agent_backbones(agent, benchmark.name)
    missing = sorted(set(backbones.values()) - set(models))
    if missing:
        raise StageError(f"attention: no checkpoint of {missing[0]}; give it as --model {missing[0]}=DIR")
    loaded = {name: load(directory) for name, directory in models.items()}
    player = Player(config, agent, benchmark)
    rows: list[Attention] = []
    for episode in read_jsonl(episodes_path, TracedEpisode):
        if episode.ended == "error":
            continue
        listening = Listening(episode, tuple(backbones))
        player.play(_quick(tasks[episode.task_id]), listening)
        for stage, exchange in _by_stage(episode, listening.exchanges):
            name = backbones[exchange.role]
            attention = look(loaded[name], exchange, spans_of(episode, exchange))
            if attention is not None:
                rows.append(attention.model_copy(update={"task_id": episode.task_id, "agent": agent, "backbone": name, "stage": stage}))
    return write_frame(output, rows, Attention)


def _quick(task: Task) -> Task:
    """The task without the delay of its searches, which a replay need not wait for."""
    return task.model_copy(update={"data": task.data | {"tool_delay": 0.0}})


def _by_stage(episode: Episode, exchanges: Sequence[Said]) -> list[tuple[str, Said]]:
    """(stage, reply), whichever of several seekers was faster. The stage is that of the step the reply became."""
    stages = {step.call: step.stage for step in episode.steps}
    staged = [(stages.get((item.role, item.seed)), item) for item in exchanges]
    named = [(stage, item) for stage, item in staged if stage is not None]
    return sorted(named, key=lambda pair: (STAGES.index(pair[0]), pair[1].seed))


def spans_of(episode: Episode, exchange: Said) -> dict[str, list[str]]:
    """The texts of a prompt by what they are: the question, the plan (sub-questions and queries), and tool results."""
    plan = [step for steps in (episode.planner.plans if episode.planner else ()) for step in steps]
    results: list[str] = []
    for step in episode.steps:
        results += step.observation.splitlines()
        reply = parse_reply(step.action or "")
        if isinstance(reply, Reply):
            plan += reply.queries
            results += [reply.answer] if reply.answer else []
    return {"question": [episode.goal], "results": results, "plan": plan}


def look(model: Model, exchange: Said, spans: Mapping[str, Sequence[str]]) -> Attention | None:
    """The attention of a reply's tokens while they were decoded, over the spans of its prompt and what was settled of the reply itself.
    None for a reply without tokens, or one of whose tokens cannot be told from its text."""
    words = model.tokenizer
    rendered = words.apply_chat_template(list(exchange.messages), add_generation_prompt=True, tokenize=False)
    prompt = words(rendered, add_special_tokens=False, return_offsets_mapping=True)
    trace, texts = exchange.completion.reveal_step or [], exchange.completion.tokens or []
    reply = [token for text in texts for token in words(text, add_special_tokens=False)["input_ids"]]
    # Text that is no single token again, such as half a letter, would stand at other places than it was decoded at.
    if not reply or not len(reply) == len(texts) == len(trace):
        return None
    places = marked(rendered, spans)
    kinds = [_kind(start, stop, places) for start, stop in prompt["offset_mapping"]]
    count = len(kinds)
    ids = torch.tensor(prompt["input_ids"] + reply)
    heads = []
    for forward in _spread(sorted(set(trace))):
        settled = [position for position, step in enumerate(trace) if step == forward]
        shown = ids.clone()
        if model.mask_id is not None:
            late = torch.tensor([position for position, step in enumerate(trace) if step >= forward])
            shown[count + late] = model.mask_id
        rows = torch.tensor([count + position - (model.mask_id is None or model.shift) for position in settled])
        # [layers, heads, rows, keys] -> [rows, keys]
        heads.append(attention_weights(model, shown[: int(rows.max()) + 1] if model.mask_id is None else shown)[:, :, rows].mean((0, 1)))
    mass = _mass(heads, kinds)
    entropies = torch.cat([_entropy(weights[:, :count]) for weights in heads])
    names = {"task_id": "", "agent": "", "backbone": "", "stage": "", "entropy": float(entropies.mean())}
    counts = {"rows": sum(map(len, heads)), "prompt_tokens": count}
    return Attention.model_validate(names | counts | {kind: mass[kind] for kind in (*SPANS, "own")})


def marked(text: str, spans: Mapping[str, Sequence[str]]) -> list[tuple[int, int, str]]:
    """(start, stop, kind) of every place in a text where one of the spans stands; the first kind that marks a place keeps it."""
    places: list[tuple[int, int, str]] = []
    for kind, texts in spans.items():
        for piece in sorted(set(filter(None, texts)), key=len, reverse=True):
            start = text.find(piece)
            while start >= 0:
                stop = start + len(piece)
                if all(stop <= first or start >= last for first, last, _ in places):
                    places.append((start, stop, kind))
                start = text.find(piece, stop)
    return places


def _kind(start: int, stop: int, places: Sequence[tuple[int, int, str]]) -> str:
    middle = (start + stop) / 2
    return next((kind for first, last, kind in places if first <= middle < last), "format")


def _spread(forwards: Sequence[int]) -> list[int]:
    return [forwards[index * len(forwards) // FORWARDS] for index in range(FORWARDS)] if len(forwards) > FORWARDS else list(forwards)


def _mass(heads: Sequence[Tensor], kinds: Sequence[str]) -> dict[str, float]:
    """Mean attention mass per span, over all rows; what falls on the reply itself is `own`."""
    total: dict[str, float] = defaultdict(float)
    rows = sum(len(weights) for weights in heads)
    for weights in heads:
        sums = weights.sum(0)
        for key, value in enumerate(sums.tolist()):
            total[kinds[key] if key < len(kinds) else "own"] += value / rows
    return total


def _entropy(weights: Tensor) -> Tensor:
    """Entropy [rows] of the attention on the prompt [rows, keys] as a share of the greatest possible, so that prompts of different
    length compare."""
    shares = weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum(-1)
    return entropy / max(torch.log(torch.tensor(float(weights.shape[-1]))).item(), 1e-12)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agent", required=True)
    add_paths(parser, tasks="", episodes="", output="")
    text = "checkpoints of its roles"
    parser.add_argument("--model", nargs="+", default=[], type=named_directory, metavar="BACKBONE=DIR", help=text)


def run(args: argparse.Namespace) -> None:
    count = measure(load_config(args.config), args.agent, args.tasks, args.episodes, dict(args.model), args.output)
    say(f"{args.output}: attention of {count} replies")
