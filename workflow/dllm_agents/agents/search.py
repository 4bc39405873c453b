"""The search agent (DLLM-Searcher): ReAct with a search tool, and P-ReAct, which searches while it is still thinking.

Three ways to act, over the same environment and prompts:
- `react`: the reply is decoded to its end, then its call is made (section 3.2);
- `p_react`: a diffusion backbone decodes the call before the thinking (equations 6 and 7, in `decoding.tool_prefill`), and the call is
  made the moment it is complete in the stream, while thinking goes on (section 4.4);
  How such a turn ends in an answer is not published. Here `tool_prefill.rule` decides whether a turn calls at all, an answer in front
  of the call wins over it (the search is then wasted), and no tags are forced on the last turn;
- `tool_first`: the autoregressive control, told by its prompt to write the call before the thinking (section 5.3.3), made as early.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from dllm_agents import prompts
from dllm_agents.agents.policy import Complete, CompletionLike, EpisodeLimit, Message, add_usage, ending_of, step_cost
from dllm_agents.agents.react import MAX_COMPLETION_CHARACTERS, Played, call_seed
from dllm_agents.benchmarks.base import Environment, Step
from dllm_agents.benchmarks.qa_accuracy import answer_words, contains_words
from dllm_agents.benchmarks.search_reply import Reply, complete_call, parse_reply
from dllm_agents.client.client import Client, Completion, PromptTooLong
from dllm_agents.client.streaming import Partial, stream
from dllm_agents.decoding.settings import Decoding
from dllm_agents.records import Ending, Episode, EpisodeStep, Task
from dllm_agents.tool_calls import call_text

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


class Stream(Protocol):
    """Ask a backbone and watch its answer grow: snapshots, then the completion. `final` marks the last turn, in which no call may be
    forced on it. Raises PromptTooLong before the first snapshot."""

    def __call__(self, messages: Sequence[Message], *, seed: int, final: bool) -> Iterator[Partial | CompletionLike]: ...


@dataclass(frozen=True)
class Turn:
    """One reply and what came of it. Times are seconds since the question to the backbone was sent."""

    completion: CompletionLike
    text: str
    reply: Reply | str
    step: Step
    decoded: float
    dispatched: float
    answered: float
    call_first: bool | None
    """Whether the call was made before the thought was closed; None when it was not made early."""
    wasted: bool = False
    """Whether a call was made early that the whole reply does not make."""

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
) -> Played:
    """Play a question. An episode ends with its answer, after `max_steps` turns, or with a reply that no call or answer can be read
    from after `attempts` completions in all (the published agent stops at the first). A prompt that does not fit the context
    loses its oldest turns, whole ones, until it does."""
    played = Played(initial_observation=environment.reset())
    turns: list[Turn] = []
    dropped = 0

    def ask(index: int, attempt: int, dropped: int) -> tuple[Turn, int]:
        """One turn, dropping the oldest turns until the prompt fits; returns it and how many are dropped now."""
        key = call_seed(seed, task, index, attempt)
        while True:
            messages = prompts.search_messages(style, task.goal, played.steps[dropped:], max_steps, acting == "tool_first")
            try:
                parts = backbone(messages, seed=key, final=index == max_steps - 1)
                return _take_turn(environment, parts, pool, early=acting != "react"), dropped
            except PromptTooLong:
                if dropped >= len(played.steps):
                    raise
                dropped += 1

    ended: Ending | None = None
    try:
        with ThreadPoolExecutor(1) as pool:
            for index in range(max_steps):
                for attempt in range(1, attempts + 1):
                    turn, dropped = ask(index, attempt, dropped)
                    add_usage(played.usage, "policy", turn.completion)
                    if isinstance(turn.reply, Reply):
                        break
                turns.append(turn)
                played.steps.append(_record(index, attempt, turn))
                if turn.step.done or isinstance(turn.reply, str):
                    break
    except (EpisodeLimit, PromptTooLong) as stop:
        ended = ending_of(stop)
    _finish(environment, task, acting, played, turns)
    played.ended = ended or played.ended
    return played


def streamed(client: Client, decoding: Decoding) -> Stream:
    """A served backbone as a stream. The last turn has to answer, so no tool-call tags are forced on it."""

    def ask(messages: Sequence[Message], *, seed: int, final: bool) -> Iterator[Partial | CompletionLike]:
        chosen = decoding.model_copy(update={"tool_prefill": None}) if final else decoding
        return stream(client, messages, decoding=chosen, seed=seed, tools=[SEARCH_TOOL])

    return ask


def snapshots(complete: Complete) -> Stream:
    """A backbone that cannot stream, as a stream of one whole answer."""

    def ask(messages: Sequence[Message], *, seed: int, final: bool) -> Iterator[Partial | CompletionLike]:
        yield complete(messages, seed=seed)

    return ask


def _take_turn(environment: Environment, parts: Iterator[Partial | CompletionLike], pool: ThreadPoolExecutor, early: bool) -> Turn:
    """Read one answer and carry out its action; with `early` a call is made as soon as it is complete."""
    started = time.perf_counter()
    running: Future[tuple[Step, float]] | None = None
    call, dispatched, call_first = None, 0.0, None
    completion: CompletionLike | None = None
    try:
        for part in parts:
            if not isinstance(part, Partial):
                completion = part
            elif early and running is None and (call := early_call(part)) is not None:
                dispatched, call_first = time.perf_counter() - started, "</think>" not in part.content
                running = pool.submit(_timed_step, environment, call.action)
        decoded = time.perf_counter() - started
    finally:
        # A stream that fails must not leave its search running into the next episode.
        made = running.result() if running is not None else None
    if completion is None:
        raise RuntimeError("the stream ended without a completion")
    text = whole_text(completion)
    reply = parse_reply(text)
    if made is not None and call is not None and isinstance(reply, Reply) and reply.queries == call.queries:
        return Turn(completion, text, reply, made[0], decoded, dispatched, made[1] - started, call_first)
    dispatched = time.perf_counter() - started
    step, finished = _timed_step(environment, reply.action if isinstance(reply, Reply) else text[:MAX_COMPLETION_CHARACTERS])
    return Turn(completion, text, reply, step, dispatched, dispatched, finished - started, None, wasted=made is not None)


def _timed_step(environment: Environment, action: str) -> tuple[Step, float]:
    return environment.step(action), time.perf_counter()


def early_call(part: Partial) -> Reply | None:
    """The first call that is complete in a snapshot, if it is one that can be made."""
    call = call_text(part.tool_calls[0]) if part.tool_calls else complete_call(part.content)
    reply = parse_reply(call) if call is not None else None
    return reply if isinstance(reply, Reply) else None


def whole_text(completion: CompletionLike) -> str:
    """A completion as text, with the tool calls that the server took out of it put behind it."""
    calls = completion.tool_calls if isinstance(completion, Completion) else ()
    return "\n".join(part for part in (completion.text.strip(), *map(call_text, calls)) if part)


def _record(index: int, attempts: int, turn: Turn) -> EpisodeStep:
    reply, completion = turn.reply, turn.completion
    return EpisodeStep(
        index=index,
        completion=turn.text[:MAX_COMPLETION_CHARACTERS],
        thought=reply.thought if isinstance(reply, Reply) else None,
        action=reply.action if isinstance(reply, Reply) else None,
        observation=turn.step.observation,
        progress=turn.step.progress,
        valid=turn.step.valid,
        done=turn.step.done,
        attempts=attempts,
        environment_seconds=turn.tool_seconds,
        error=reply if isinstance(reply, str) else None,
        **(step_cost(completion) | {"seconds": turn.decoded}),
    )


def _finish(environment: Environment, task: Task, acting: Acting, played: Played, turns: Sequence[Turn]) -> None:
    """Read the outcome off the environment; `extra` holds what the search tables need."""
    last = turns[-1].reply if turns else None
    answer = last.answer if isinstance(last, Reply) else None
    played.success, played.answer = environment.success, answer
    played.native_score = environment.native_score
    if answer is not None:
        played.ended = "success" if environment.success else "answered"
    elif isinstance(last, str):
        played.ended = "no_action"
    calls = [turn for turn in turns if isinstance(turn.reply, Reply) and turn.reply.queries]
    played.extra = {
        "acting": acting,
        "tool_delay": task.data.get("tool_delay", 0.0),
        "format_failure": last if isinstance(last, str) else None,
        "hops": len(task.data.get("hops", [])),
        "answer_words": answer_words(answer or ""),
        "acc_r_words": contains_words(answer or "", task.data["answers"]),
        "tool_calls": len(calls),
        "queries": sum(len(turn.reply.queries) for turn in calls if isinstance(turn.reply, Reply)),
        "calls_made_early": sum(turn.call_first is not None for turn in calls),
        "calls_before_thought": sum(turn.call_first is True for turn in calls),
        "calls_wasted": sum(turn.wasted for turn in turns),
        "decoding_seconds": sum(turn.decoded for turn in turns),
        "tool_seconds": sum(turn.tool_seconds for turn in turns),
        "overlap_seconds": sum(turn.overlap for turn in turns),
        "turns_seconds": sum(turn.seconds for turn in turns),
        "per_turn_seconds": [turn.seconds for turn in turns],
    }


class LatencySplit(NamedTuple):
    """Where P-ReAct's time went, against ReAct's on the same question: saved = overlap + decoding + tool, in seconds."""

    saved: float
    overlap: float
    decoding: float
    tool: float


def latency_split(react: Episode, parallel: Episode) -> LatencySplit:
    """The saving of `parallel` over `react` on one question (Searcher Figure 3): `overlap`, tool wait hidden behind decoding;
    `decoding`, less time spent decoding (shorter thinking, fewer turns); `tool`, less time spent in tools (fewer calls).
    Raises ValueError when the episodes are of different questions."""
    if react.task_id != parallel.task_id:
        raise ValueError(f"episodes of different tasks: {react.task_id} and {parallel.task_id}")
    first, second = react.extra, parallel.extra
    overlap = second["overlap_seconds"] - first["overlap_seconds"]
    decoding, tool = (first[key] - second[key] for key in ("decoding_seconds", "tool_seconds"))
    return LatencySplit(first["turns_seconds"] - second["turns_seconds"], overlap, decoding, tool)
