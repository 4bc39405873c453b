"""BFCL's official prompt and checkers, asked in their own isolated process (`bfcl_worker`)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dllm_agents.benchmarks.base import Verdict
from dllm_agents.benchmarks.isolation import Worker, WorkerLost
from dllm_agents.errors import StageError


class Checker:
    """One isolated process with bfcl-eval in it. Safe to share between threads; started on first use."""

    def __init__(self, scratch: str | Path | None = None) -> None:
        self.worker = Worker("dllm_agents.benchmarks.bfcl_worker", scratch)

    def judge_many(self, answers: Sequence[tuple[str, str, str]]) -> list[Verdict]:
        """Verdicts on (category, entry id, completion), in order. A hostile answer is invalid with an `isolation:` error type."""
        replies = self.worker.call_many([["judge", *answer] for answer in answers])
        return [_verdict(reply) for reply in replies]

    def messages(self, functions: list[dict[str, Any]], question: list[dict[str, str]], category: str) -> list[dict[str, str]]:
        """The official chat messages: system prompt with the functions, then the question's own messages."""
        return self._ask("messages", functions, copy.deepcopy(question), category)

    def _ask(self, operation: str, *arguments: Any) -> Any:
        try:
            return self.worker.call([operation, *arguments])
        except WorkerLost as loss:
            raise StageError(f"bfcl: the isolated checker ended during {operation} ({loss}); run the stage again") from None

    def close(self) -> None:
        self.worker.close()


def _verdict(reply: Any) -> Verdict:
    if isinstance(reply, WorkerLost):
        return Verdict(False, f"isolation:{reply}")
    return Verdict(reply is None, reply)
