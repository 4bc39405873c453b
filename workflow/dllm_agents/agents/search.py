"""The search agent (DLLM-Searcher): ReAct with a search tool, and P-ReAct, which searches while it is still thinking.

Three ways to act, over the same environment and prompts:
- `react`: the reply is decoded to its end, then its call is made (section 3.2);
- `p_react`: a diffusion backbone decodes the call before the thinking (equations 6 and 7, in `decoding.tool_prefill`), and the call is
  made the moment it is complete in the stream, while thinking goes on (section 4.4);
  How such a turn ends in an answer is not published: `tool_prefill.rule` decides which turns get the tags of a call, and which those of
  an answer. An answer in front of the call wins over it (the search is then wasted);
- `tool_first`: the autoregressive control, told by its prompt to write the call before the thinking (section 5.3.3), made as early.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from dllm_agents import prompts, thoughts
from dllm_agents.agents.policy import Complete, EpisodeLimit, Message, Stream, ending_of
from dllm_agents.agents.react import call_seed
from dllm_agents.benchmarks import dialects
from dllm_agents.benchmarks.base import Environment, Step
from dllm_agents.benchmarks.search_reply import REPLY_PATTERN, Reply, complete_call, parse_reply
from dllm_agents.client.client import PromptTooLong
from dllm_agents.client.streaming import Partial
from dllm_agents.config.dialects import DIALECTS
from dllm_agents.records import Call, Ending, EpisodeStep, Outcome, SearchMeasures, Task
from dllm_agents.tool_calls import call_text

MAX_ACTION_CHARACTERS = 4000
"""Longest part of an unreadable reply that is passed to the environment."""
HELD_TO = {"regex": REPLY_PATTERN}
"""The constraint of every reply of an agent with `constrain`."""
Acting = Literal["react", "p_react", "tool_first"]
SEARCH_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search for passages; gives the ten best for each query.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "array", "items": {"type": "string"}, "description": "one or more queries"}},
            "required": ["query"],
        },
    },
}


@dataclass(frozen=True)
class Turn:
    """One reply and what came of it. Times are seconds since the question to the backbone was sent."""

    call: Call
    reply: Reply | str
    step: Step
    decoded: float
    dispatched: float
    answered: float
    call_first: bool = False
    """Whether the call was made before the thought was closed."""

    @property
    def tool_seconds(self) -> float:
        """How long the environment took."""
        return self.answered - self.dispatched

    @property
    def overlap(self) -> float:
        """Tool wait hidden behind decoding; 0 when the call was made after it."""
        return max(0.0, min(self.decoded, self.answered) - self.dispatched)

    @property
    def seconds(self) -> float:
        """Wall time of the turn."""
        return max(self.decoded, self.answered)


def play(
    environment: Environment,
    task: Task,
    backbone: Stream,
    *,
    style: str,
    acting: Acting = "react",
    attempts: int = 1,
    max_steps: int = 5,
    seed: int = 42,
    constrain: bool = False,
    dialect: str | None = None,
) -> Outcome:
    """Play a question, in the tags of a `dialect` or in ours. An episode ends with its answer, after `max_steps` turns, or with a reply
    that no call or answer can be read from after `attempts` completions in all (the published agent stops at the first). A prompt that
    does not fit the context loses its oldest turns, whole ones, until it does. With `constrain` only replies that can be read, in our
    tags, can be written."""
    constraint = HELD_TO if constrain and dialect is None else None
    outcome = Outcome(initial_observation=environment.reset())
    turns: list[Turn] = []
    dropped = 0

    def ask(index: int, attempt: int, dropped: int) -> tuple[Turn, int]:
        """One turn, dropping the oldest turns until the prompt fits; returns it and how many are dropped now."""
        key = call_seed(seed, task, index, attempt)
        while True:
            if dialect is None:
                messages = prompts.search_messages(style, task.goal, outcome.steps[dropped:], max_steps, acting == "tool_first")
            else:
                tags = DIALECTS[dialect]
                exchanged = [(dialects.closed(tags, turn.call.text), turn.step.observation) for turn in turns[dropped:]]
                messages = prompts.dialect_messages(style, dialect, task.goal, exchanged, max_steps, tags.growing)
            try:
                parts = backbone(messages, seed=key, turn=index, constraint=constraint)
                return _take_turn(environment, parts, pool, acting != "react", dialect), dropped
            except PromptTooLong:
                if dropped >= len(outcome.steps):
                    raise
                dropped += 1

    ended: Ending | None = None
    try:
        with ThreadPoolExecutor(1) as pool:
            for index in range(max_steps):
                for attempt in range(1, attempts + 1):
                    turn, dropped = ask(index, attempt, dropped)
                    if isinstance(turn.reply, Reply):
                        break
                turns.append(turn)
                outcome.steps.append(_record(index, attempt, turn))
                if turn.step.done or isinstance(turn.reply, str):
                    break
    except (EpisodeLimit, PromptTooLong) as stop:
        ended = ending_of(stop)
    _finish(environment, outcome, turns)
    outcome.ended = ended or outcome.ended
    return outcome


def whole(complete: Complete) -> Stream:
    """A backbone without streaming, as a stream of its one whole answer."""

    def ask(messages: Sequence[Message], *, seed: int, turn: int, constraint: dict[str, Any] | None = None) -> Iterator[Partial | Call]:
        yield complete(messages, seed=seed) if constraint is None else complete(messages, seed=seed, constraint=constraint)

    return ask


def read_reply(call: Call, dialect: str | None = None) -> Reply | str:
    """Parse a reply in the tags of a dialect, or in ours."""
    if dialect is None:
        return parse_reply(call.whole_text.strip())
    return dialects.read(DIALECTS[dialect], call.text, whole=call.finish_reason != "length")


def _take_turn(
    environment: Environment, parts: Iterator[Partial | Call], pool: ThreadPoolExecutor, early: bool, dialect: str | None = None
) -> Turn:
    """Read one answer and carry out its action; with `early` a call is made as soon as it is complete."""
    started = time.perf_counter()
    running: Future[tuple[Step, float]] | None = None
    call, dispatched, call_first = None, 0.0, False
    answer: Call | None = None
    try:
        for part in parts:
            if not isinstance(part, Partial):
                answer = part
            elif early and running is None and (call := early_call(part)) is not None:
                dispatched, call_first = time.perf_counter() - started, thoughts.CLOSE not in part.content
                running = pool.submit(_timed_step, environment, call.action)
        decoded = time.perf_counter() - started
    finally:
        # A stream that fails must not leave its search running into the next episode.
        ahead = running.result() if running is not None else None
    if answer is None:
        raise RuntimeError("the stream ended without a completion")
    text, reply = answer.whole_text.strip(), read_reply(answer, dialect)
    if ahead is not None and call is not None and isinstance(reply, Reply) and reply.queries == call.queries:
        return Turn(answer, reply, ahead[0], decoded, dispatched, ahead[1] - started, call_first)
    dispatched = time.perf_counter() - started
    step, finished = _timed_step(environment, reply.action if isinstance(reply, Reply) else text[:MAX_ACTION_CHARACTERS])
    return Turn(answer, reply, step, dispatched, dispatched, finished - started)


def _timed_step(environment: Environment, action: str) -> tuple[Step, float]:
    return environment.step(action), time.perf_counter()


def early_call(part: Partial) -> Reply | None:
    """The first call that is complete in a snapshot, if it is one that can be made."""
    call = call_text(part.tool_calls[0]) if part.tool_calls else complete_call(part.content)
    reply = parse_reply(call) if call is not None else None
    return reply if isinstance(reply, Reply) else None


def _record(index: int, attempts: int, turn: Turn) -> EpisodeStep:
    reply = turn.reply
    return EpisodeStep(
        index=index,
        call=turn.call.key,
        thought=reply.thought if isinstance(reply, Reply) else None,
        action=reply.action if isinstance(reply, Reply) else None,
        observation=turn.step.observation,
        progress=turn.step.progress,
        valid=turn.step.valid,
        done=turn.step.done,
        attempts=attempts,
        environment_seconds=turn.tool_seconds,
        error=reply if isinstance(reply, str) else None,
    )


def _finish(environment: Environment, outcome: Outcome, turns: Sequence[Turn]) -> None:
    """Read the outcome off the environment, and where the time went off the turns."""
    last = turns[-1].reply if turns else None
    answer = last.answer if isinstance(last, Reply) else None
    outcome.success, outcome.answer = environment.success, answer
    outcome.native_score = environment.native_score
    if answer is not None:
        outcome.ended = "success" if environment.success else "answered"
    elif isinstance(last, str):
        outcome.ended = "no_action"
    calls = [turn for turn in turns if isinstance(turn.reply, Reply) and turn.reply.queries]
    outcome.search = SearchMeasures(
        format_failure=last if isinstance(last, str) else None,
        tool_calls=len(calls),
        calls_before_thought=sum(turn.call_first for turn in calls),
        decoding_seconds=sum(turn.decoded for turn in turns),
        tool_seconds=sum(turn.tool_seconds for turn in turns),
        overlap_seconds=sum(turn.overlap for turn in turns),
        turns_seconds=sum(turn.seconds for turn in turns),
    )
