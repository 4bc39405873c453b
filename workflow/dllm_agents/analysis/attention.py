"""Attention dynamics by workflow stage (DLLM Agent): where the tokens of a reply look while they are decoded.

A stored episode is played again with its own answers, which gives every prompt as it was. For a reply, the forwards that settled its
tokens are run again (an AR model settles one a forward, a diffusion model several, with the tokens not yet settled masked), and the
attention of the rows that predicted those tokens is averaged over layers and heads. Its mass is summed over the spans of the prompt.
The paper's text neither defines nor shows it; this definition is this project's.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm_agents import benchmarks, foreign, tool_calls
from dllm_agents.agents.play import Player
from dllm_agents.agents.policy import Message
from dllm_agents.agents.recording import Answer, Replay, StreamedAnswer
from dllm_agents.benchmarks.search_reply import Reply, parse_reply
from dllm_agents.client.client import Completion
from dllm_agents.commands import add_paths, named_directory, say
from dllm_agents.config import Config
from dllm_agents.config import load as load_config
from dllm_agents.config.roles import TEAM_WORKFLOWS
from dllm_agents.decoding.settings import Decoding
from dllm_agents.errors import StageError
from dllm_agents.files import read_jsonl
from dllm_agents.frames import write_frame
from dllm_agents.models.attention import attention_weights
from dllm_agents.models.loading import Model, load_model
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
        raise NotImplementedError("attention is read in teams of a planner, which stream nothing")


def measure(config: Config, agent: str, tasks_path: Path, episodes_path: Path, models: Mapping[str, Path], output: Path) -> int:
    """Write the attention of an agent's replies, one row per reply; returns how many. `models`: backbone -> checkpoint directory.

    Raises StageError for an agent that does not plan, and for a role whose checkpoint is not given.
    """
    entry = config.agents[agent]
    if entry.workflow not in TEAM_WORKFLOWS:
        teams = " or ".join(sorted(TEAM_WORKFLOWS))
        raise StageError(f"agents.{agent}: attention by stage is read in teams; name an agent with workflow: {teams}")
    tasks = {task.id: task for task in read_jsonl(tasks_path, Task)}
    benchmark = benchmarks.load(next(iter(tasks.values())).benchmark, config)
    backbones = config.agent_backbones(agent, benchmark.name)
    missing = sorted(set(backbones.values()) - set(models))
    if missing:
        raise StageError(f"attention: no checkpoint of {missing[0]}; give it as --model {missing[0]}=DIR")
    loaded = {name: load_model(directory, config.backbones[name].dtype) for name, directory in models.items()}
    player = Player(config, agent, benchmark)
    rows: list[Attention] = []
    for episode in read_jsonl(episodes_path, TracedEpisode):
        if episode.ended == "error":
            continue
        listening = Listening(episode, tuple(backbones))
        player.play(_quick(tasks[episode.task_id]), listening)
        for stage, exchange in by_stage(episode, listening.exchanges):
            name = backbones[exchange.role]
            attention = look(loaded[name], exchange, spans_of(episode, exchange))
            if attention is not None:
                rows.append(attention.model_copy(update={"task_id": episode.task_id, "agent": agent, "backbone": name, "stage": stage}))
    return write_frame(output, rows, Attention)


def _quick(task: Task) -> Task:
    """The task without the delay of its searches, which a replay need not wait for."""
    return task.model_copy(update={"data": task.data | {"tool_delay": 0.0}})


def by_stage(episode: Episode, exchanges: Sequence[Said]) -> list[tuple[str, Said]]:
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
        for call in tool_calls.read(step.action or "")[1] if episode.team else ():
            plan += _texts(call["arguments"].get("queries"))
    if episode.team:  # whose prompts show results as JSON, or what was picked out of it
        results += [text for line in results for text in _texts(_value(line)) if " " in text and text not in plan]
    return {"question": [episode.goal], "results": results, "plan": plan}


def _texts(value: Any) -> Iterator[str]:
    """The texts in plain data, however deep."""
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(item)


def _value(line: str) -> Any:
    """The value of a line of JSON; None for a line that was cut."""
    try:
        return foreign.loads(line)
    except ValueError:
        return None


class Seen(NamedTuple):
    """A forward of a reply: the tokens it saw, the rows that predicted what it settled, and where the block begins that its own tokens see
    both ways."""

    token_ids: Tensor
    rows: Tensor
    block_start: int | None = None


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
    decoding = exchange.completion.decoding
    forwards = (seen_by(model, ids, count, trace, forward, decoding) for forward in _spread(sorted(set(trace))))
    # [layers, heads, rows, keys] -> [rows, keys]
    heads = [attention_weights(model, *seen).mean((0, 1)) for seen in forwards]
    mass = _mass(heads, kinds)
    entropies = torch.cat([_entropy(weights[:, :count]) for weights in heads])
    names = {"task_id": "", "agent": "", "backbone": "", "stage": "", "entropy": float(entropies.mean())}
    counts = {"rows": sum(map(len, heads)), "prompt_tokens": count}
    return Attention.model_validate(names | counts | {kind: mass[kind] for kind in (*SPANS, "own")})


def seen_by(model: Model, ids: Tensor, count: int, trace: Sequence[int], forward: int, decoding: Decoding | None) -> Seen:
    """What one forward of a reply saw: `ids` are `count` of the prompt and the reply's, `trace` the forward that settled each of these."""
    places = torch.tensor([place for place, step in enumerate(trace) if step == forward])
    by_token = model.mask_id is None or (decoding is not None and decoding.strategy == "ar")
    rows = count + places - int(by_token or model.shift)
    start: int | None = None
    length = len(ids)
    if model.attention == "context_causal" and not by_token:
        block = decoding and decoding.block_length or model.block_length or len(trace)
        start = count + int(places[0]) // block * block
        # A block's first token is decided by the pass over all before it, where every token sees its past alone.
        by_token, length = count + int(places[0]) == start, start + block
    if by_token:
        return Seen(ids[: int(rows.max()) + 1], rows)
    assert model.mask_id is not None, "only diffusion models settle tokens in any order"
    shown = torch.full((max(length, len(ids)),), model.mask_id)
    early = torch.tensor([step < forward for step in trace])
    shown[:count], shown[count : len(ids)][early] = ids[:count], ids[count:][early]
    return Seen(shown[:length], rows, start)


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
