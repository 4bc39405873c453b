"""A multi-turn BFCL task as an environment: the official turn protocol around the isolated simulators."""

from __future__ import annotations

import random
from typing import Any

from dllm_agents.benchmarks import bfcl_answers, bfcl_faults
from dllm_agents.benchmarks.base import Dialogue, Step, Verdict
from dllm_agents.benchmarks.bfcl_checker import Checker, unique_name
from dllm_agents.benchmarks.worker import WorkerLost
from dllm_agents.records import Task

TURN_DONE = "This request is fulfilled."
NOTHING_TO_CALL = "The offered functions or the given details do not suffice for this request."


class Conversation(Dialogue):
    """Plays the turns of BFCL's base handler in prompt mode.

    An action is the policy's whole reply. Calls that decode are run and their results are the observation, in the official form;
    a reply without a call ends the turn, and the next user message is the observation. More than `max_steps` replies with calls in
    one turn end the episode by force. `conversation` is the official chat so far, ready to be sent to a policy. Progress is 1 once
    the official checker accepts the episode, else 0: it gives no partial credit.
    """

    def __init__(self, checker: Checker, task: Task, max_steps: int) -> None:
        self.checker = checker
        self.task = task
        self.max_steps = max_steps
        self.verdict: Verdict | None = None
        self.turns: list[list[list[str]]] = []
        self.conversation: list[dict[str, str]] = []
        self._episode = ""
        self._history: list[list[str]] = []
        self._lost: str | None = None
        self._opening: list[list[dict[str, str]]] = []
        self._reference: list[list[str]] | None = None

    def reset(self) -> str:
        self.close()
        self._episode = unique_name()
        self._opening = self.checker.opening(self.task)
        self.verdict, self.success, self._lost = None, False, None
        self.turns, self.conversation, self._history = [], [], []
        return self._open_turn()

    def step(self, action: str) -> Step:
        if self.verdict is not None:
            return Step("The episode is over.", float(self.success), True, False)
        self.conversation.append({"role": "assistant", "content": action})
        faulty = self.task.data.get("faulty", [])
        if (problem := bfcl_faults.failing(action, faulty)) is not None:
            return self._executed({"calls": [], "observation": problem, "failed": True})
        action = bfcl_faults.without_backups(action, faulty)
        try:
            reply = self.checker.play(self._episode, self.task.data["id"], self._history, action)
        except WorkerLost as loss:
            self._lost = str(loss)
            return self._executed(
                {"calls": [], "observation": f"Error during execution: the simulator was stopped ({loss})", "failed": True}
            )
        if reply is not None and "calls" in reply:
            self._history.append(reply["calls"])
            self.turns[-1].append(reply["calls"])
            return self._executed(reply)
        if len(self.turns) < len(self._opening):
            return Step(self._open_turn(), 0.0, False, reply is None)
        return self._finish("", reply is None)

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The functions offered so far, those that were held back until a past or the present turn among them."""
        offered = list(self.task.data["functions"])
        for turn, functions in self.task.data["held_back"].items():
            offered += functions if int(turn) < len(self.turns) else []
        return offered

    @property
    def request(self) -> str:
        """What the user asks in the present turn."""
        return "\n".join(message["content"] for message in self._opening[len(self.turns) - 1] if message["role"] == "user")

    def showing(self, functions: list[dict[str, Any]]) -> list[dict[str, str]]:
        """The chat so far with only these functions in its system prompt. A function held back at first is offered in a user message,
        which stays."""
        names = {function["name"] for function in functions}
        kept = [function for function in self.task.data["functions"] if function["name"] in names]
        opened = self.checker.messages(kept, self.task.data["turns"][0], self.task.category)
        return [*opened, *self.conversation[len(self._opening[0]) :]]

    def valid_actions(self) -> list[str]:
        """One call per function offered so far, with arguments drawn from the task's id, and a reply that ends the turn."""
        calls = [bfcl_answers.random_call([function], "Python", random.Random(self.task.id)) for function in self.offered]
        return sorted([*calls, TURN_DONE])

    def expert_action(self) -> tuple[str, str] | None:
        """The ground truth of the present turn in one reply, then a sentence that ends the turn."""
        if self._reference is None:
            self._reference = self.checker.reference_turns(self.task.data["id"])
        calls = self._reference[len(self.turns) - 1]
        if not calls:
            return "", NOTHING_TO_CALL
        return "", TURN_DONE if self.turns[-1] else f"[{', '.join(calls)}]"

    def close(self) -> None:
        if self._episode:
            self.checker.forget(self._episode)
            self._episode = ""

    def _open_turn(self) -> str:
        self.conversation += self._opening[len(self.turns)]
        self.turns.append([])
        self._steps = 0
        return self.request

    def _executed(self, reply: dict[str, Any]) -> Step:
        self.conversation.append({"role": "user", "content": reply["observation"]})
        self._steps += 1
        if self._steps > self.max_steps:
            return self._finish(reply["observation"], not reply["failed"])
        return Step(reply["observation"], 0.0, False, not reply["failed"])

    def _finish(self, observation: str, valid: bool) -> Step:
        if self._lost is not None:
            self.verdict = Verdict(False, f"isolation:{self._lost}")
        else:
            (self.verdict,) = self.checker.judge_turns([(self.task.data["id"], self.turns)])
        self.success = self.verdict.valid
        return Step(observation, float(self.success), True, valid)
