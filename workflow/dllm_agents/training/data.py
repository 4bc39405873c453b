"""Training examples from accepted trajectories: the prompt an agent would read at a step, and the teacher's reply to it."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dllm_agents import benchmarks, prompts
from dllm_agents.agents.deepdiver.teacher import taught_replies as deepdiver_replies
from dllm_agents.agents.planner_teacher import taught_replies as planner_replies
from dllm_agents.benchmarks.base import Benchmark
from dllm_agents.benchmarks.multihop_qa import MultiHopQA
from dllm_agents.benchmarks.search_reply import reply_text
from dllm_agents.config import Config, TrainingBudget
from dllm_agents.decoding.session import filled
from dllm_agents.errors import StageError
from dllm_agents.files import iter_jsonl
from dllm_agents.records import EpisodeStep, Pair, Trajectory
from dllm_agents.serving.templates import control_pattern
from dllm_agents.training.objectives import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SEEKERS_EVERY = 3  # tasks, where an agent searches alone too: what a seeker says is shorter and easier than that
FEWEST_GROUPS = 20  # of tasks or worlds, of which some are held out


class Exchange(NamedTuple):
    """One reply of the teacher as text. `sources` are the strings of the environment and the teacher alone, without the prompt around them;
    `call` is the tool call that the reply ends in, if it does; `role` who in a team replies, empty for an agent alone."""

    task: str
    messages: list[dict[str, str]]
    reply: str
    sources: tuple[str, ...]
    call: str = ""
    role: str = ""


def exchanges(benchmark: Benchmark, trajectory: Trajectory, style: str, tool_first: bool = False) -> list[Exchange]:
    """One exchange per step with an action, rendered by the templates that rollouts use. The history holds what was executed; the
    reply is the teacher's label for the state it led to, on search tasks `tool_first` with the thought behind the call."""
    task = trajectory.task
    if benchmark.workflow == "tool_calling":
        messages = prompts.tool_messages(style, benchmark, task)
        return [Exchange(task.id, messages, step.action, ()) for step in trajectory.steps[:1] if step.action is not None]
    history = [as_executed(step) for step in trajectory.steps]
    pairs = []
    for index, step in enumerate(trajectory.steps):
        if step.action is None:
            continue
        call = ""
        seen = history[index - 1].observation if index else trajectory.initial_observation
        if benchmark.workflow == "search":
            messages = prompts.search_messages(style, task.goal, history[:index], benchmark.max_steps, tool_first)
            reply, action = reply_text(step.thought or "", step.action, tool_first), step.action
            call = step.action if step.action.startswith("<tool_call>") else ""
        else:
            messages = prompts.embodied_messages(style, task.benchmark, task.goal, trajectory.initial_observation, history[:index])
            reply = action = prompts.react_completion(step.thought or "", step.action)
        pairs.append(Exchange(task.id, messages, reply, (task.goal, seen, action), call))
    return pairs


TEAM_TEACHERS: dict[str, Callable[..., Sequence[tuple[str, list[dict[str, str]], str]]]] = {
    "planner": planner_replies,
    "deepdiver": deepdiver_replies,
}
"""Workflow -> what the oracle says in its roles."""


def team_exchanges(benchmark: Benchmark, trajectory: Trajectory, style: str, workflow: str) -> list[Exchange]:
    """What the oracle says in every role of a team on a search task whose gold hops are told, so that one backbone can play a whole team;
    none for any other task."""
    task = trajectory.task
    if not isinstance(benchmark, MultiHopQA) or not task.data["hops"] or not all(hop["text"] for hop in task.data["hops"]):
        return []
    with benchmark.environment(task) as environment:
        taught = TEAM_TEACHERS[workflow](task, environment, style)
    # What never changes in DeepDiver's calls is most of them: as phrases they take half the tokens.
    return [Exchange(task.id, messages, reply, (reply,) if workflow == "deepdiver" else (), role=role) for role, messages, reply in taught]


def accepted(config: Config, backbone: str, name: str, source: Path, worlds: dict[str, str]) -> list[Exchange]:
    """What a benchmark's accepted trajectories teach; notes in `worlds` what each task shares its facts with. Raises StageError for a file
    without an action."""
    benchmark, entry = benchmarks.load(name, config), config.backbones[backbone]
    teams, alone = config.team_workflows(name), config.acts_alone(backbone, name)
    if entry.training and entry.training.layout == "trajectory":  # a team's replies are conversations where their prompts have turns
        teams = [team for team in teams if team == "deepdiver" and prompts.has_template(entry.prompt, "deepdiver_turn.j2")]
    taught = []
    # A backbone that plays both ways is taught them in turn, task by task.
    orders = config.call_orders(backbone, name)
    for number, (trajectory, tool_first) in enumerate(zip(iter_jsonl(source, Trajectory), cycle(orders), strict=False)):
        world = trajectory.task.data.get("world")
        worlds[trajectory.task.id] = trajectory.task.id if world is None else f"{name} world {world}"
        if alone or not teams:
            taught += exchanges(benchmark, trajectory, entry.prompt, tool_first)
        seekers = number % SEEKERS_EVERY == 0 or not alone
        replies = [reply for team in teams for reply in team_exchanges(benchmark, trajectory, entry.prompt, team)]
        taught += [reply for reply in replies if seekers or reply.role != "seeker"]
    if not taught:
        raise StageError(f"{source}: no accepted trajectory with an action; collect more (benchmarks.{name}.train_tasks)")
    return taught


def fitting(examples: Sequence[Example], taught: Sequence[Exchange], budget: TrainingBudget, source: Path) -> list[tuple[str, Example]]:
    """(task, example) of the examples within the budget's limits; the others are counted and a task of them is named. Raises StageError
    when none is."""
    kept = [
        (exchange.task, example)
        for exchange, example in zip(taught, examples, strict=True)
        if len(example.ids) - sum(example.generated) <= budget.max_prompt_tokens and sum(example.generated) <= budget.response_tokens
    ]
    if not kept:
        generated = [sum(example.generated) for example in examples]
        prompt = min(len(example.ids) - count for example, count in zip(examples, generated, strict=True))
        longest = f"{prompt} prompt and {min(generated)} response tokens"
        raise StageError(f"{source}: no example fits; the shortest need {longest}: raise max_prompt_tokens or response_tokens")
    if dropped := len(examples) - len(kept):
        tasks = {task for task, _ in kept}
        first = next((exchange.task for exchange in taught if exchange.task not in tasks), taught[0].task)
        limits = f"{budget.max_prompt_tokens} prompt or {budget.response_tokens} response tokens"
        print(f"{source}: {dropped} of {len(examples)} examples left out (over {limits}), e.g. of {first}", file=sys.stderr)
    return kept


def whole(trajectories: Sequence[tuple[str, Example]], budget: TrainingBudget, turns: int, source: Path) -> list[tuple[str, Example]]:
    """The trajectories that fit the limits of so many turns together; those that do not are counted and one is named."""
    most = turns * (budget.max_prompt_tokens + budget.response_tokens)
    kept = [(task, example) for task, example in trajectories if len(example.ids) <= most]
    if not kept:
        shortest = min(len(example.ids) for _, example in trajectories)
        raise StageError(f"{source}: no trajectory fits {most} tokens; the shortest has {shortest}: raise max_prompt_tokens")
    if len(kept) < len(trajectories):
        left = next(task for task, example in trajectories if len(example.ids) > most)
        print(f"{source}: {len(trajectories) - len(kept)} trajectories left out (over {most} tokens), e.g. {left}", file=sys.stderr)
    return kept


def differing(benchmark: Benchmark, pair: Pair, style: str) -> tuple[list[Exchange], list[Exchange]]:
    """The exchanges of a pair's winner and loser without those that both begin with: of equal prompt and reply, they are as likely on
    either side and cancel in the preference loss."""
    assert pair.winner is not None and pair.loser is not None
    winner, loser = exchanges(benchmark, pair.winner, style), exchanges(benchmark, pair.loser, style)
    shared = 0
    while shared < min(len(winner), len(loser)) - 1 and winner[shared][1:3] == loser[shared][1:3]:
        shared += 1
    return winner[shared:], loser[shared:]


def as_executed(step: EpisodeStep) -> EpisodeStep:
    """The step as an agent that had played it would remember it: its own action, and no thought that speaks of another one."""
    if step.executed is None or step.executed == step.action:
        return step
    return step.model_copy(update={"action": step.executed, "thought": None, "executed": None})


def encode(tokenizer: PreTrainedTokenizerFast, exchanges: Sequence[Exchange], block_length: int | None = None) -> list[Example]:
    """Exchanges as token ids, the reply closed by the end token. With a `block_length` prompts are filled up on the left to whole blocks,
    and the beginning of what the next prompt goes on with, a tool response, stands in the rest of the reply's last block.

    Raises StageError naming a task whose text holds a control token, or whose reply has tokens that are half a tool call and half what is
    before it.
    """
    _check_texts(tokenizer, exchanges)
    conversations = [exchange.messages for exchange in exchanges]
    rendered = list(map(str, tokenizer.apply_chat_template(conversations, add_generation_prompt=True, tokenize=False)))
    prompt_ids = tokenizer.backend_tokenizer.encode_batch_fast(rendered, add_special_tokens=False)
    reply_ids = tokenizer.backend_tokenizer.encode_batch_fast([exchange.reply for exchange in exchanges], add_special_tokens=False)
    pieces = [_up_to_call(exchange) for exchange in exchanges]
    heads, calls = (tokenizer.backend_tokenizer.encode_batch_fast(part, add_special_tokens=False) for part in zip(*pieces, strict=True))
    end = tokenizer.eos_token_id
    examples = []
    for at, (exchange, prompt, reply, head, call) in enumerate(zip(exchanges, prompt_ids, reply_ids, heads, calls, strict=True)):
        if reply.ids[: len(head.ids)] != head.ids or reply.ids[: len(call.ids)] != call.ids:
            raise StageError(f"task {exchange.task}: its spans do not fit its tokens, one of which is half in a tool call")
        context = filled(prompt.ids, block_length, tokenizer) if block_length else prompt.ids
        example = Example.exchange(context, [*reply.ids, end])
        before = f"{rendered[at]}{exchange.reply}{tokenizer.eos_token}"
        if block_length and at + 1 < len(exchanges) and exchanges[at + 1].task == exchange.task and rendered[at + 1].startswith(before):
            tail = tokenizer.encode(rendered[at + 1][len(before) :], add_special_tokens=False)[: -len(example.ids) % block_length]
            example = Example([*example.ids, *tail], [*example.generated, *[False] * len(tail)])
        first, last = (len(context) + len(part.ids) for part in (head, call))
        examples.append(example._replace(calls=[first <= place < last for place in range(len(example.ids))], role=exchange.role))
    return examples


def _check_texts(tokenizer: PreTrainedTokenizerFast, exchanges: Sequence[Exchange]) -> None:
    """Raises StageError naming a task whose text would become a control token, or the mask."""
    controls = control_pattern(tokenizer)
    for exchange in exchanges:
        text = exchange.reply + "".join(message["content"] for message in exchange.messages)
        if match := controls.search(text):
            raise StageError(f"task {exchange.task}: its text holds the control token {match[0]}; remove it from the trajectory")


def _up_to_call(exchange: Exchange) -> tuple[str, str]:
    """The reply up to its call and up to the call's end; twice the whole of one without a call."""
    before, call, _ = exchange.reply.partition(exchange.call) if exchange.call else (exchange.reply, "", "")
    return before, before + call


def conversations(tokenizer: PreTrainedTokenizerFast, exchanges: Sequence[Exchange]) -> list[tuple[str, Example]]:
    """(task, example) of whole conversations: context, reply, tool response, reply and so on, only the replies generated.

    A chat template that writes earlier replies anew (Qwen3's drops their thoughts) makes a later prompt differ from what was before it:
    there a new example begins with the prompt as the rollout will send it, so that every reply is learnt in the context it will have.

    The exchanges of a conversation stand together, first to last; one of fewer messages begins another, a seeker's behind its planner's.
    Raises StageError naming the task when the messages of one do not go on from those before, which are then no turns of a conversation, or
    when a text holds a control token.
    """
    _check_texts(tokenizer, exchanges)
    examples: list[tuple[str, Example]] = []
    ids: list[int] = []
    generated: list[bool] = []
    text, end = "", str(tokenizer.eos_token)
    for at, exchange in enumerate(exchanges):
        before = exchanges[at - 1] if at and exchanges[at - 1].task == exchange.task else None
        if before is not None and len(exchange.messages) < len(before.messages):
            before = None
        if before is not None and exchange.messages[: len(before.messages)] != before.messages:
            raise StageError(
                f"task {exchange.task}: its spans do not fit its tokens, since a later prompt does not go on from an earlier one; "
                "training.layout trajectory needs a prompt style with turns, and trajectories without exploration"
            )
        prompt = str(tokenizer.apply_chat_template(exchange.messages, add_generation_prompt=True, tokenize=False))
        if before is None or not prompt.startswith(text):
            if ids:
                examples.append((exchanges[at - 1].task, Example(ids, generated)))
            ids, generated, text = [], [], ""
        for piece, flag in ((prompt[len(text) :], False), (exchange.reply + end, True)):
            new = tokenizer.encode(piece, add_special_tokens=False)
            ids += new
            generated += [flag] * len(new)
        text = prompt + exchange.reply + end
    return [*examples, (exchanges[-1].task, Example(ids, generated))] if ids else examples


def split(count: int, share: float, groups: Sequence[str], seed: int) -> tuple[list[int], list[int]]:
    """(training, validation) indices; the examples of one group (task, world) stay on one side. Nothing is held out of few groups."""
    names = sorted(set(groups))
    random.Random(seed).shuffle(names)
    held = set(names[: max(1, round(share * len(names)))]) if share and len(names) >= FEWEST_GROUPS else set()
    return [i for i in range(count) if groups[i] not in held], [i for i in range(count) if groups[i] in held]


class Batches:
    """Indices of the i-th batch, for any i: every epoch is shuffled anew from the seed, and `pool` batches at a time are sorted by
    length, so that little is spent on padding."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, pool: int = 32) -> None:
        self.lengths = lengths
        self.size, self.seed, self.pool = min(batch_size, len(lengths)), seed, pool
        self.number, self.epoch = -1, list[list[int]]()

    def __getitem__(self, index: int) -> list[int]:
        number, place = divmod(index, len(self.lengths) // self.size)
        if number != self.number:
            self.number, self.epoch = number, self._shuffled(number)
        return self.epoch[place]

    def _shuffled(self, number: int) -> list[list[int]]:
        generator = random.Random(f"{self.seed}:{number}")
        order = list(range(len(self.lengths)))
        generator.shuffle(order)
        del order[len(order) // self.size * self.size :]
        epoch = []
        for start in range(0, len(order), self.size * self.pool):
            near = sorted(order[start : start + self.size * self.pool], key=lambda i: self.lengths[i])
            epoch += [near[at : at + self.size] for at in range(0, len(near), self.size)]
        generator.shuffle(epoch)
        return epoch
