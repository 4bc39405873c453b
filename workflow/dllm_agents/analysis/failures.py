"""How episodes fail: one rule-based taxonomy for all workflows, every failure with its evidence. Linear in the number of steps.

Retry loops follow DiffuAgent section 4.1 ("three or more consecutive repetitive actions"; the caption of Figure 3 says "more than
3", which is the same record with count > 3). The three classes of Figure 4 come from the official checker's error type through
`dllm_agents.analysis.bfcl_errors`; our own reading of the same calls, by jsonschema against the offered tools, is kept beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, UnknownType, ValidationError

from dllm_agents import thoughts
from dllm_agents.analysis.layouts import Call, layout, parse_calls
from dllm_agents.records import Episode, EpisodeStep, Failure, FailureSource, Turn

TAXONOMY: dict[str, str] = {
    "loop": "the same action three or more times in a row",
    "unclosed_thought": "a thought that is begun and never closed",
    "format": "text without an action that parses",
    "schema": "a tool call that is malformed (Figure 4: JSON Schema Error)",
    "parameter_value": "a tool call with wrong, missing or unknown arguments (Figure 4: Parameter / Value Error)",
    "wrong_function": "a call of a function that is not the right one, or not offered (Figure 4: Wrong Function)",
    "invalid_action": "a parsed action that the environment refuses",
    "premature_exit": "the episode ended before the goal and before the step limit",
    "step_limit": "the step limit came first",
    "empty": "no text at all",
    "truncated": "the completion ran into its token limit",
    "prompt_too_long": "the prompt does not fit the backbone's context, however much of the history is left out",
    "server": "the backbone's server or the environment gave an error",
}
MALFORMED = frozenset({"schema", "format", "empty"})
"""The classes of replies that cannot be read as an action at all."""
ERROR = "server"
"""The class that is no failure of the agent: such episodes are counted beside the others."""
LOOP_LENGTH = 3
EVIDENCE_CHARACTERS = 200
BESIDE_CHECKER: FailureSource = "beside checker"
# BFCL's words for types in its Python sets. As its checker does, an integer passes for a float and never the reverse.
ToolValidator = validators.extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "any": lambda checker, value: True,
            "dict": lambda checker, value: isinstance(value, dict),
            "float": lambda checker, value: checker.is_type(value, "number"),
            "integer": lambda checker, value: isinstance(value, int) and not isinstance(value, bool),
            "tuple": lambda checker, value: isinstance(value, list | tuple),
        }
    ),
)


class Run(NamedTuple):
    """A maximal run of identical consecutive items: `first` to `last` inclusive."""

    first: int
    last: int

    @property
    def length(self) -> int:
        return self.last - self.first + 1


def runs(actions: Iterable[str | None]) -> Iterator[Run]:
    """The maximal runs of identical consecutive actions, in order. None is no action: it is in no run and separates runs."""
    for action, group in groupby(enumerate(actions), key=lambda pair: pair[1]):
        indices = [index for index, _ in group]
        if action is not None:
            yield Run(indices[0], indices[-1])


def loops(episode: Episode, loop_length: int = LOOP_LENGTH) -> list[Failure]:
    """The retry loops: runs of at least `loop_length` identical consecutive actions, each with its steps and the action.

    `count` is the run's length (so "more than 3" is count > 3); `detail` says whether the observation never changed in it.
    """
    retries = []
    for run in runs(step.action for step in episode.steps):
        if run.length >= loop_length:
            steps = episode.steps[run.first : run.last + 1]
            unchanged = len({step.observation for step in steps}) == 1
            detail = "unchanged observation" if unchanged else "changing observation"
            retries.append(_failure(episode, "loop", detail, steps, steps[0].action or ""))
    return retries


def classify(
    episode: Episode,
    error_type: str | None = None,
    loop_length: int = LOOP_LENGTH,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[Failure]:
    """All failures of an episode with their evidence, in the order of TAXONOMY; an episode may have several, a good one may have some.

    `error_type` is the official checker's verdict (`Score.error_type`). With `tools`, the function documents that were offered, every
    call's arguments are checked too. A single answer is the official checker's to judge, so there these findings have the source
    BESIDE_CHECKER and are not counted; in a conversation, where that checker judges what the calls did, they are.
    """
    failures = loops(episode, loop_length)
    turns = episode.turns()
    for kind, rule in _TURN_RULES.items():
        failed = [turn for turn in turns if rule(turn)]
        if failed:
            first = failed[0].step
            text = first.error or failed[0].text or first.action or first.observation
            failures.append(_failure(episode, kind, _turn_detail(kind, failed[0]), [turn.step for turn in failed], text))
    failures += _judged_failures(episode, error_type, tools is not None) + _call_failures(episode, tools) + _ending_failures(episode)
    order = list(TAXONOMY)
    return sorted(failures, key=lambda failure: (order.index(failure.kind), failure.first_step))


def argument_failures(calls: Sequence[Call], tools: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(kind, detail) of every call that does not fit the offered tools (function documents with name and parameters, OpenAI's or BFCL's
    of its Python sets), by jsonschema. Parameters that a tool does not declare are refused."""
    offered = {str(tool.get("name", tool.get("function", {}).get("name"))): tool.get("function", tool) for tool in tools}
    problems = []
    for call in calls:
        if call.name not in offered:
            problems.append(("wrong_function", f"{call.name}: not offered"))
            continue
        schema = {**offered[call.name].get("parameters", {}), "additionalProperties": False}
        try:
            error = next(iter(ToolValidator(schema).iter_errors(call.arguments)), None)
        except (SchemaError, ValidationError, UnknownType, TypeError, RecursionError):
            continue  # a tool document that is no schema cannot convict a call
        if error is not None:
            where = ".".join(str(part) for part in error.absolute_path) or call.name
            problems.append(("parameter_value", f"{where}: {error.validator}"))
    return problems


_TURN_RULES: dict[str, Callable[[Turn], bool]] = {
    # A step's error names its format failure; a planner's search that was skipped has one and no text, and is no reply at all.
    "empty": lambda turn: turn.step.error in (None, "empty output") and turn.step.action is None and not turn.text.strip(),
    "unclosed_thought": lambda turn: thoughts.unclosed(turn.text),
    "format": lambda turn: turn.step.action is None and bool(turn.text.strip()) and not thoughts.unclosed(turn.text),
    "invalid_action": lambda turn: turn.step.action is not None and not turn.step.valid,
    "truncated": lambda turn: turn.call is not None and turn.call.finish_reason == "length",
}


def _turn_detail(kind: str, turn: Turn) -> str:
    if kind == "format":
        return "no action" if "action:" not in turn.text.lower() else "thought missing or out of order"
    return ""


def _judged_failures(episode: Episode, error_type: str | None, python: bool) -> list[Failure]:
    """What the official checker found in a single answer, in its Figure 4 class; where it cannot read `python` calls, also their layout."""
    if error_type is None:
        return []
    from dllm_agents.analysis.bfcl_errors import error_class

    kind, text, last = error_class(error_type), episode.answer or "", episode.steps[-1:]
    if kind is None:
        return []
    unread = [_failure(episode, kind, layout(text), last, text, BESIDE_CHECKER)] if python and error_type.startswith("ast_decoder") else []
    return [_failure(episode, kind, error_type, last, text, "checker"), *unread]


def _call_failures(episode: Episode, tools: Sequence[Mapping[str, Any]] | None) -> list[Failure]:
    """Calls that do not fit the offered tools. A reply without a call ends a turn of a conversation; as a single answer it is malformed."""
    if tools is None:
        return []
    single = episode.answer is not None
    steps_of: dict[tuple[str, str], list[EpisodeStep]] = {}
    for step in episode.steps:
        text = thoughts.behind(step.action or "").strip()
        calls = parse_calls(text) if text else None
        problems = argument_failures(calls, tools) if calls is not None else [("schema", "not a call")] * single
        for problem in dict.fromkeys(problems):
            steps_of.setdefault(problem, []).append(step)
    source: FailureSource = BESIDE_CHECKER if single else "rules"
    return [_failure(episode, kind, detail, steps, steps[0].action or "", source) for (kind, detail), steps in steps_of.items()]


def _ending_failures(episode: Episode) -> list[Failure]:
    if episode.success:
        return []
    last = episode.steps[-1:]
    if episode.ended == "error":
        return [_failure(episode, "server", "episode", last, episode.error or "")]
    if episode.ended in ("early_exit", "done"):
        detail = "verifier" if episode.ended == "early_exit" else "environment"
        return [_failure(episode, "premature_exit", detail, last, last[0].observation if last else "")]
    if episode.ended == "prompt_too_long":
        return [_failure(episode, "prompt_too_long", "", last, last[0].observation if last else episode.goal)]
    if episode.ended == "step_limit":
        return [_failure(episode, "step_limit", "", last, last[0].action or "" if last else "")]
    if not episode.steps:
        return [_failure(episode, "empty", "no step", [], "")]
    return []


def _failure(
    episode: Episode, kind: str, detail: str, steps: Sequence[EpisodeStep], evidence: str, source: FailureSource = "rules"
) -> Failure:
    return Failure(
        task_id=episode.task_id,
        benchmark=episode.benchmark,
        category=episode.category,
        agent=episode.agent,
        kind=kind,
        detail=detail[:EVIDENCE_CHARACTERS],
        source=source,
        first_step=steps[0].index if steps else -1,
        last_step=steps[-1].index if steps else -1,
        count=max(1, len(steps)),
        evidence=evidence[:EVIDENCE_CHARACTERS],
    )
