"""Planner and seekers, turn by turn (DeepDiver-V2; DLLM Agent sections 2 and 4).

The planner thinks, hands out tasks and reads reports until it calls its done tool with the final answer. Each task goes to a seeker of
its own, with an empty context, side by side; seekers share the workspace and end with a done tool of theirs. A reply without a
readable call is answered with what was wrong, and the agent may try again: it is counted, and ends nothing. What ends an agent is its
done tool or a budget.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from dllm_agents import foreign, prompts, thoughts, tool_calls
from dllm_agents.agents.deepdiver import tools
from dllm_agents.agents.deepdiver.tools import ASSIGN, DONE, Desk, Library
from dllm_agents.agents.deepdiver.workspace import Workspace
from dllm_agents.agents.policy import Complete, EpisodeLimit, Message, ending_of
from dllm_agents.client.client import PromptTooLong
from dllm_agents.config import TeamBudget
from dllm_agents.records import Call

Role = Literal["planner", "seeker"]
EMPTY, UNREADABLE, NO_CALL = "empty", "unreadable call", "no call"
CONTEXT = "context"
MAX_CALLS_PER_TURN = 16
MAX_RESULT_CHARACTERS = 20_000
WARNING_TURNS = 3  # before the last one a seeker is told to finish (DeepDiver-V2)
FORMAT = "The format of the last reply was wrong: write one call or a list of calls between the tool-call tags, as JSON. Try again."
NUDGE = "Go on with a tool call, or call {done} when the task is done."
LAST_CALLS = "No turns are left for other tools. Call {done} now, with what is known."
SPENT = "the budget of tool calls is used up; call {done}"
# openPangu writes its calls between tokens of its own.
_DELIMITERS = {"[unused11]": tool_calls.OPEN, "[unused12]": tool_calls.CLOSE}


@dataclass
class Turn:
    """One reply of one agent, and what its calls gave. `problem` says why none could be read."""

    role: Role
    agent: str
    answer: Call
    thought: str
    calls: list[tool_calls.Call] = field(default_factory=list)
    results: list[tools.Result] = field(default_factory=list)
    problem: str | None = None
    progress: float = 0.0
    """Of the question, when the turn of the planner that it belongs to was over."""


@dataclass
class Report:
    """What a seeker brought back: the arguments of its done tool, or why there are none."""

    task: str
    done: dict[str, Any] | None
    turns: list[Turn]
    error: str | None = None

    def result(self) -> dict[str, Any]:
        outcome = {"data": self.done} if self.done is not None else {"error": self.error}
        return {"task_content": self.task, "success": self.done is not None, **outcome}


@dataclass
class Result:
    """An episode: every turn in an order that does not depend on which seeker was faster, and the answer."""

    turns: list[Turn] = field(default_factory=list)
    answer: str | None = None
    fallback: bool = False
    """Whether a budget ended the episode and the answer is that of the latest completed task."""
    limit: str | None = None
    rounds: list[list[str]] = field(default_factory=list)
    """The tasks of every round, each given to a seeker of its own."""
    workspace: dict[str, str] = field(default_factory=dict)


class _Limit(Exception):
    """An agent has used up a budget."""


def play(
    question: str,
    planner: Complete,
    seeker: Complete,
    library: Library,
    *,
    style: str,
    budget: TeamBudget,
    seed: int = 42,
) -> Result:
    """Play a question. `planner` and `seeker` answer messages; `library` bears questions from several threads at once.

    Raises what the backbones raise, but for PromptTooLong and EpisodeLimit, which end the agent that met them: an episode that a budget
    ends takes the summary of the latest completed task as its answer (`fallback`).
    """
    team = _Team(question, planner, seeker, library, style, budget, seed)
    team.run()
    return team.result


class _Team:
    def __init__(
        self, question: str, planner: Complete, seeker: Complete, library: Library, style: str, budget: TeamBudget, seed: int
    ) -> None:
        self.question, self.style, self.budget, self.seed = question, style, budget, seed
        self.backbones: dict[Role, Complete] = {"planner": planner, "seeker": seeker}
        self.library, self.workspace = library, Workspace()
        self.result = Result()
        self.reports: list[Report] = []
        self.calls_left = budget.tool_calls

    def run(self) -> None:
        agent = _Agent(self, "planner", "planner", self.question, self.workspace, 0)
        try:
            for turn in agent.turns(self.budget.planner_turns):
                first = len(self.result.turns)
                self.result.turns.append(turn)
                self._take_turn(agent, turn)
                for each in self.result.turns[first:]:
                    each.progress = self.library.progress
        except _Limit as limit:
            self.result.limit = str(limit)
        if agent.done is not None:
            self.result.answer = str(agent.done["final_answer"]).strip()
        else:
            self._fall_back()
        self.result.workspace = dict(self.workspace.files)

    def _take_turn(self, agent: _Agent, turn: Turn) -> None:
        for call in turn.calls:
            valid = call["name"] == ASSIGN and tools.refusal("planner", ASSIGN, call["arguments"]) is None
            if valid and self.calls_left > 0:
                turn.results.append(self._assign([task["task_content"] for task in call["arguments"]["tasks"]]))
            else:
                turn.results.append(agent.run(call))
            if agent.done is not None:
                return

    def _assign(self, contents: Sequence[str]) -> tools.Result:
        """Hand out tasks; the workspaces that come back are merged in the order of the tasks."""
        first = sum(map(len, self.result.rounds)) + 1
        self.result.rounds.append(list(contents))
        forks = [self.workspace.fork() for _ in contents]
        # A share each, so that how much is left does not depend on which seeker was faster.
        share = max(1, self.calls_left // len(contents))
        with ThreadPoolExecutor(tools.MAX_TASKS) as pool:
            running = [
                pool.submit(self._seek, content, fork, first + index, share)
                for index, (content, fork) in enumerate(zip(contents, forks, strict=True))
            ]
            reports = [future.result() for future in running]
        for report, fork in zip(reports, forks, strict=True):
            self.workspace.merge(fork)
            self.result.turns += report.turns
        self.reports += reports
        self.calls_left -= 1 + sum(len(turn.calls) for report in reports for turn in report.turns)
        return {"success": all(report.done is not None for report in reports), "data": [report.result() for report in reports]}

    def _seek(self, content: str, workspace: Workspace, number: int, share: int) -> Report:
        agent = _Agent(self, "seeker", f"seeker {number}", content, workspace, number, share)
        report = Report(content, None, [])
        try:
            for turn in agent.turns(self.budget.seeker_turns):
                report.turns.append(turn)
                for call in turn.calls:
                    turn.results.append(agent.run(call))
                    if agent.done is not None:
                        break
        except _Limit as limit:
            report.error = f"ended by {limit}"
        report.done = agent.done
        if report.done is None and report.error is None:
            report.error = f"not completed within {self.budget.seeker_turns} turns"
        return report

    def _fall_back(self) -> None:
        """The latest valid report in place of an answer that was not given."""
        reports = [report.done for report in self.reports if report.done is not None and report.done["task_summary"].strip()]
        if reports:
            self.result.answer, self.result.fallback = reports[-1]["task_summary"].strip(), True


class _Agent:
    """The context of one agent: what it is told, what it called, and whether it is done."""

    def __init__(
        self, team: _Team, role: Role, name: str, task: str, workspace: Workspace, number: int, calls_left: int | None = None
    ) -> None:
        self.team, self.role, self.name, self.task = team, role, name, task
        self.number = number
        self.done: dict[str, Any] | None = None
        self._calls_left = calls_left
        self._desk = Desk(workspace, team.library, self._ask)
        self._history: list[tuple[Turn, str]] = []
        self._consulted = 0

    def turns(self, limit: int) -> Iterator[Turn]:
        """The agent's turns; whoever iterates runs their calls. Ends when the agent is done or its turns are used up."""
        for index in range(limit):
            spent = self._left <= 0
            turn = self._reply(index, warned=spent or index >= max(1, limit - WARNING_TURNS))
            yield turn
            self._history.append((turn, self._answer(turn)))
            if self.done is not None or spent:
                return

    def run(self, call: tool_calls.Call) -> tools.Result:
        """The result of one call; a valid call of the done tool ends the agent."""
        name, arguments = call["name"], call["arguments"]
        if (why := tools.refusal(self.role, name, arguments)) is not None:
            return tools.failure(why)
        if name == DONE[self.role]:
            self.done = arguments
            return {"success": True, "data": "done"}
        if self._left <= 0:
            return tools.failure(SPENT.format(done=DONE[self.role]))
        self._spend()
        return tools.run(name, arguments, self._desk)

    @property
    def _left(self) -> int:
        return self.team.calls_left if self._calls_left is None else self._calls_left

    def _spend(self) -> None:
        if self._calls_left is None:
            self.team.calls_left -= 1
        else:
            self._calls_left -= 1

    def _reply(self, index: int, warned: bool) -> Turn:
        answer = self._complete(messages(self.team.style, self.role, self.task, self._history, warned), f"turn {index}")
        text = answer.text
        for own, mark in _DELIMITERS.items():
            text = text.replace(own, mark)
        content, calls = tool_calls.read(text)
        if answer.tool_calls:
            calls = [dict(call) for call in answer.tool_calls]
        turn = Turn(self.role, self.name, answer, _thought(content), foreign.valid(calls)[:MAX_CALLS_PER_TURN])
        if not calls:
            turn.problem = EMPTY if not text.strip() else UNREADABLE if tool_calls.OPEN in text else NO_CALL
        return turn

    def _complete(self, messages: list[Message], what: str) -> Call:
        seed = zlib.crc32(f"{self.team.seed}:{self.team.question}:{self.number}:{what}".encode())
        try:
            return self.team.backbones[self.role](messages, seed=seed)
        except PromptTooLong:
            raise _Limit(CONTEXT) from None
        except EpisodeLimit as limit:
            raise _Limit(ending_of(limit)) from None

    def _ask(self, document: str, question: str) -> str:
        self._consulted += 1
        chat = prompts.request(self.team.style, "document_qa.j2", document=document, question=question)
        return self._complete(chat, f"document {self._consulted}").text.strip()[:MAX_RESULT_CHARACTERS]

    def _answer(self, turn: Turn) -> str:
        """What the agent reads after a turn: its results, or what was wrong with its reply."""
        if turn.problem is not None:
            return NUDGE.format(done=DONE[self.role]) if turn.problem == NO_CALL else FORMAT
        return results_text(turn)


def messages(style: str, role: Role, task: str, history: Sequence[tuple[Turn, str]], warned: bool) -> list[Message]:
    """What an agent reads before its next turn. A style with a `deepdiver_turn.j2` (`answer`, and the `results` in it) gets the
    whole conversation; any other tells the state in `deepdiver_<role>.j2` (`task`, the `history` of turns and what was read after them,
    `warning`)."""
    warning = LAST_CALLS.format(done=DONE[role]) if warned else ""
    offered = {name: tools.SCHEMAS[name] for name in tools.OFFERED[role]}
    chat = prompts.request(style, f"deepdiver_{role}.j2", task=task, tools=offered, history=list(history), warning=warning)
    if not prompts.has_template(style, "deepdiver_turn.j2"):
        return chat
    for turn, answer in history:
        chat.append({"role": "assistant", "content": reply_text(turn.thought, turn.calls) or turn.answer.text})
        chat += prompts.request(style, "deepdiver_turn.j2", answer=answer, results=turn.results)
    if warned:
        chat[-1] = {"role": "user", "content": f"{chat[-1]['content']}\n{warning}"}
    return chat


def reply_text(thought: str, calls: Sequence[tool_calls.Call]) -> str:
    """A thought and calls in the format of the prompts."""
    return (thoughts.written(thought) if thought else "") + "".join(map(tool_calls.call_text, calls))


def results_text(turn: Turn) -> str:
    """The results of a turn's calls, a line of JSON each."""
    return "\n".join(json.dumps(result, ensure_ascii=False)[:MAX_RESULT_CHARACTERS] for result in turn.results)


def _thought(content: str) -> str:
    thought = thoughts.first(content)
    return thought.text if thought and thought.text else content.replace(thoughts.OPEN, "").replace(thoughts.CLOSE, "").strip()
