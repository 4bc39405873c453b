"""BFCL's official prompt and checkers, asked in their own isolated process (`bfcl_worker`)."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dllm_agents.benchmarks.base import Verdict
from dllm_agents.benchmarks.isolation import Worker
from dllm_agents.benchmarks.worker import WorkerLost
from dllm_agents.errors import StageError
from dllm_agents.records import Task


class Checker:
    """One isolated process with bfcl-eval in it. Safe to share between threads; started on first use."""

    def __init__(self, scratch: str | Path | None = None) -> None:
        self.worker = Worker("dllm_agents.benchmarks.bfcl_worker", scratch)

    def judge_many(self, answers: Sequence[tuple[Any, ...]]) -> list[Verdict]:
        """Verdicts on (category, entry id, completion) or, of generated tasks, (category, functions, truth, completion), in order.
        A hostile answer is invalid with an `isolation:` error type."""
        replies = self.worker.call_many([["judge" if len(answer) == 3 else "judge_generated", *answer] for answer in answers])
        return [_verdict(reply) for reply in replies]

    def messages(self, functions: list[dict[str, Any]], question: list[dict[str, str]], category: str) -> list[dict[str, str]]:
        """The official chat messages: system prompt with the functions, then the question's own messages."""
        return self._ask("messages", functions, copy.deepcopy(question), category)

    def opening(self, task: Task) -> list[list[dict[str, str]]]:
        """The official messages that open each turn of a multi-turn task; the first holds the system prompt."""
        return list(self._ask("opening", task.category, task.data["functions"], task.data["turns"], task.data["held_back"]))

    def reference_turns(self, identifier: str) -> list[list[str]]:
        """The ground truth's calls per turn, all arguments by name."""
        return list(self._ask("reference_turns", identifier))

    def play(self, episode: str, identifier: str, history: list[list[str]], completion: str) -> dict[str, Any] | None:
        """Run one answer's calls on the episode's simulators: {calls, observation, failed}, {refused} or None for no call.

        Raises WorkerLost when the calls ended the process; the episode goes on in a new one, from its history.
        """
        reply: dict[str, Any] | None = self.worker.call(["play", episode, identifier, history, completion])
        return reply

    def forget(self, episode: str) -> None:
        """Drop an episode's simulators."""
        self._ask("forget", episode)

    def judge_turns(self, episodes: Sequence[tuple[str, Sequence[Sequence[Sequence[str]]]]]) -> list[Verdict]:
        """Verdicts of the official multi-turn checker on (entry id, decoded calls per turn and step), in order."""
        replies = self.worker.call_many([["judge_turns", unique_name(), *episode] for episode in episodes])
        return [_verdict(reply) for reply in replies]

    def _ask(self, operation: str, *arguments: Any) -> Any:
        try:
            return self.worker.call([operation, *arguments])
        except WorkerLost as loss:
            raise StageError(f"bfcl: the isolated checker ended during {operation} ({loss}); run the stage again") from None

    def close(self) -> None:
        self.worker.close()


def unique_name() -> str:
    """A name no other run has: the official code keys its simulators by it and would go on with another run's."""
    return f"run_{uuid.uuid4().hex}"


def _verdict(reply: Any) -> Verdict:
    if isinstance(reply, WorkerLost):
        return Verdict(False, f"isolation:{reply}")
    return Verdict(reply is None, reply)
