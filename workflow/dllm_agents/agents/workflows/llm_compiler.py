"""LLMCompiler (Kim et al., ICML 2024): a plan of tool calls that refer to one another's results, run in parallel as far as these allow,
and a joiner that answers or asks for another plan.

A plan is numbered lines `1. search("mother of Mira")`, in which `$k` is the result of call k; the sub-questions of this project's
own planners, with `#k`, are read as searches. A call starts as soon as the calls it refers to are done.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from dllm_agents.agents.game import Game, answer_in
from dllm_agents.agents.search import read_reply
from dllm_agents.benchmarks.multihop_qa import SearchEnvironment
from dllm_agents.benchmarks.plan_reply import parse_plan, with_references
from dllm_agents.benchmarks.search import Passage
from dllm_agents.benchmarks.search_reply import MAX_QUERY_CHARACTERS, Reply
from dllm_agents.errors import StageError
from dllm_agents.records import Call

MAX_TASKS = 12
MAX_PLAN_CHARACTERS = 8_000
_LINE = re.compile(r"\s*(\d{1,3})\.\s*(\w{1,40})\((.*)\)\s*")
_REFERENCE = re.compile(r"\$\{?(\d{1,3})\}?")
_REPLAN = re.compile(r"\breplan\b", re.IGNORECASE)


class Planned(NamedTuple):
    """A call of a plan: its argument with references."""

    query: str

    @property
    def needs(self) -> set[int]:
        """The calls whose results it waits for."""
        return {int(number) for number in _REFERENCE.findall(self.query)}


class Result(NamedTuple):
    """The result of a call, or the reason it failed; seconds since the start of the plan."""

    query: str
    passages: list[Passage]
    problem: str | None
    started: float
    ended: float

    @property
    def text(self) -> str:
        """The value of `$k`: the best passage."""
        return self.passages[0].text if self.passages else ""


def play(game: Game) -> None:
    """Plan, run, join; the joiner may ask for a new plan, which sees all results, at most `replans` (2) times."""
    findings: list[Result] = []
    for number in range(game.options["replans"] + 1):
        plan = read_plan(game.ask("plan", "planner", findings=findings).whole_text)
        if isinstance(plan, str):
            game.note(valid=False, error=plan)
            if not findings:
                return
        elif plan:
            findings += run(game, plan)
        last = number == game.options["replans"]
        reply = game.ask("join", "joiner", findings=findings, last=last)
        if last or not _replans(reply):
            return game.answer(finish_in(reply.text) or answer_in(reply))
        game.counts["replans"] += 1


def read_plan(text: str) -> dict[int, Planned] | str:
    """Number -> call, or why a plan cannot be run: no call, another tool than search, a `$k` that no call has, calls that wait for one
    another."""
    taught = parse_plan(text)
    if not isinstance(taught, str):
        plan = {number: Planned(with_references(step, lambda k: f"${k}")) for number, step in enumerate(taught[1], 1)}
    else:
        lines = [match for line in text[:MAX_PLAN_CHARACTERS].splitlines() if (match := _LINE.fullmatch(line))]
        calls = [(int(number), tool, argument.strip().strip("'\"")) for number, tool, argument in (match.groups() for match in lines)]
        plan = {number: Planned(argument) for number, tool, argument in calls if tool == "search"}
        if unknown := sorted({tool for _, tool, _ in calls} - {"search", "join"}):
            return f"the plan calls {unknown[0]}, which is no tool"
        if not plan or len(plan) > MAX_TASKS:
            return f"the plan has {len(plan)} calls; 1 to {MAX_TASKS} can be run"
    for number, call in plan.items():
        if undefined := sorted(call.needs - set(plan)):
            return f"call {number} refers to ${undefined[0]}, which no call of the plan is"
    try:
        TopologicalSorter({number: call.needs for number, call in plan.items()}).prepare()
    except CycleError as error:
        return f"calls {', '.join(map(str, sorted(set(error.args[1]))))} wait for one another"
    return plan


def run(game: Game, plan: Mapping[int, Planned]) -> list[Result]:
    """Run a plan on the search tool, record its calls in order, and count their wall time and the sum of their times."""
    environment = game.environment
    assert isinstance(environment, SearchEnvironment)
    results = fetch(plan, lambda query: environment.search(query, game.options["passages"]), max(1, game.options["workers"]))
    for number in sorted(results):
        result = results[number]
        game.searched(result.query, result.passages, result.ended - result.started)
        if result.problem is not None:
            game.note(valid=False, error=result.problem)
    game.counts["tool_seconds"] += max((result.ended for result in results.values()), default=0.0)
    game.counts["in_turn_tool_seconds"] += sum(result.ended - result.started for result in results.values())
    return [results[number] for number in sorted(results)]


def fetch(plan: Mapping[int, Planned], search: Callable[[str], list[Passage]], workers: int) -> dict[int, Result]:
    """The task fetching unit: every call starts when the results that it refers to are available. A call that fails, or that depends on
    a failed one, has a problem and no passages."""
    clock = time.perf_counter()
    order = TopologicalSorter({number: call.needs for number, call in plan.items()})
    order.prepare()
    results: dict[int, Result] = {}
    running: dict[Future[Result], int] = {}

    def call(query: str, inputs: Sequence[Passage]) -> Result:
        started, passages, problem = time.perf_counter() - clock, list[Passage](), None
        try:
            passages = [passage for passage in search(query[:MAX_QUERY_CHARACTERS]) if passage not in inputs]
        except StageError:
            raise  # the tool is not set up: every other call would fail too
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"[:200]
        return Result(query, passages, problem, started, time.perf_counter() - clock)

    with ThreadPoolExecutor(workers) as pool:
        while order.is_active():
            for number in order.get_ready():
                if lost := sorted(need for need in plan[number].needs if results[need].problem or not results[need].passages):
                    moment = time.perf_counter() - clock
                    results[number] = Result(plan[number].query, [], f"${lost[0]}, which it needs, found nothing", moment, moment)
                    order.done(number)
                    continue
                query = _REFERENCE.sub(lambda match: results[int(match[1])].text, plan[number].query)
                inputs = [passage for need in plan[number].needs for passage in results[need].passages]
                running[pool.submit(call, query, inputs)] = number
            if running:
                for future in wait(running, return_when=FIRST_COMPLETED)[0]:
                    number = running.pop(future)
                    results[number] = future.result()
                    order.done(number)
    return results


def finish_in(text: str) -> str:
    """The answer of a joiner that says Finish(answer)."""
    _, opened, rest = text.rpartition("Finish(")
    return rest.rpartition(")")[0].strip().strip("'\"") if opened else ""


def _replans(call: Call) -> bool:
    reply, text = read_reply(call), call.whole_text
    answered = "Finish(" in text or (isinstance(reply, Reply) and reply.answer is not None)
    return not answered and bool(_REPLAN.search(text))
