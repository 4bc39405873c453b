"""A question of a search benchmark played by a planner and its seekers, as the record of an episode."""

from __future__ import annotations

from dllm_agents.agents.deepdiver import team, tools
from dllm_agents.agents.policy import Complete
from dllm_agents.benchmarks.multihop_qa import SearchEnvironment
from dllm_agents.benchmarks.search_reply import answer_text
from dllm_agents.config import TeamBudget
from dllm_agents.records import Ending, EpisodeStep, Outcome, PlannerMeasures, Task, TeamMeasures

MAX_OBSERVATION_CHARACTERS = 20_000
STAGES = {"planner": "plan", "seeker": "search"}


def play(
    environment: SearchEnvironment, task: Task, planner: Complete, seeker: Complete, *, style: str, budget: TeamBudget, seed: int
) -> Outcome:
    """Play a question and give its answer to the environment. A step is one turn of one agent; `progress` is that of the whole question
    when the planner's turn it belongs to was over, so that the record does not depend on which seeker was faster."""
    outcome = Outcome(initial_observation=environment.reset())
    result = team.play(task.goal, planner, seeker, environment, style=style, budget=budget, seed=seed)
    outcome.steps = [_step(index, turn) for index, turn in enumerate(result.turns)]
    if result.answer is not None:
        step = environment.step(answer_text(result.answer))
        outcome.answer, index = result.answer, len(outcome.steps)
        outcome.steps.append(EpisodeStep(index=index, stage="answer", action=result.answer, progress=step.progress, done=step.done))
    outcome.success, outcome.ended = environment.success, _ending(result, environment.success)
    outcome.planner = PlannerMeasures(plans=result.rounds, asked=result.rounds, coverage=_coverage(result))
    outcome.team = _measures(result)
    return outcome


def _step(index: int, turn: team.Turn) -> EpisodeStep:
    return EpisodeStep(
        index=index,
        stage=STAGES[turn.role],
        call=turn.answer.key,
        thought=turn.thought or None,
        action=team.reply_text("", turn.calls) or None,
        observation=team.results_text(turn)[:MAX_OBSERVATION_CHARACTERS],
        progress=turn.progress,
        valid=not _is_invalid(turn),
        error=turn.problem,
    )


def _is_invalid(turn: team.Turn) -> bool:
    """Whether a reply holds no call, one that cannot be read, or one that does not fit its schema (the paper's invalid action: delimiters
    missing, call malformed, schema invalid)."""
    return turn.problem is not None or any(tools.refusal(turn.role, call["name"], call["arguments"]) for call in turn.calls)


def _ending(result: team.Result, success: bool) -> Ending:
    if success:
        return "success"
    if result.answer is not None:
        return "answered"
    endings: dict[str | None, Ending] = {"token_limit": "token_limit", team.CONTEXT: "prompt_too_long"}
    return endings.get(result.limit, "step_limit")


def _coverage(result: team.Result) -> list[float]:
    """Progress at the end of every round of tasks."""
    rounds = [turn for turn in result.turns if turn.role == "planner" and any(call["name"] == tools.ASSIGN for call in turn.calls)]
    return [turn.progress for turn in rounds][: len(result.rounds)]


def _measures(result: team.Result) -> TeamMeasures:
    seekers = [f"seeker {number}" for number in range(1, sum(map(len, result.rounds)) + 1)]
    turns = {name: [turn for turn in result.turns if turn.agent == name] for name in (*seekers, "planner")}
    return TeamMeasures(
        seeker_turns=[len(turns[name]) for name in seekers],
        seeker_tool_calls=[sum(map(_tool_calls, turns[name])) for name in seekers],
        planner_turns=len(turns["planner"]),
        planner_tool_calls=sum(map(_tool_calls, turns["planner"])),
        invalid_turns=sum(map(_is_invalid, result.turns)),
        fallback=result.fallback,
        limit=result.limit,
        files=result.workspace,
    )


def _tool_calls(turn: team.Turn) -> int:
    """Calls that do something: thinking and being done are none."""
    return sum(call["name"] not in ("think", "reflect", *tools.DONE.values()) for call in turn.calls)
