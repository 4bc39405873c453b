"""An AutoTool-style selector: which tools are needed, from what accepted trajectories needed, without asking a model where that is clear
(after Jia and Li, "AutoTool: Efficient Tool Selection for Large Language Model Agents", 2025: tool use has inertia)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dllm_agents.agents.modules.selector import SKIP_AT, Seen, Selecting
from dllm_agents.benchmarks.bfcl_language import called_names
from dllm_agents.records import Trajectory

START = ""
ALWAYS = "*"
_WORD = re.compile(r"[a-z]{3,}")


@dataclass
class ToolGraph:
    """Statistics of accepted trajectories. An edge a -> b says how often b was called right after a (from START: first), of the times it
    was offered there; a query edge w -> b how often b was called for a request with the word w, of the times it was offered for one."""

    offered: Counter[tuple[str, str]] = field(default_factory=Counter)
    called: Counter[tuple[str, str]] = field(default_factory=Counter)

    @classmethod
    def learn(cls, trajectories: Iterable[Trajectory]) -> ToolGraph:
        """The graph of tool-calling trajectories."""
        graph = cls()
        for trajectory in trajectories:
            names = {str(function["name"]) for function in trajectory.task.data.get("functions", [])}
            before, needed = START, set[str]()
            for step in trajectory.steps:
                for name in called_names(step.action or "", names):
                    graph.offered.update(("after " + before, other) for other in names)
                    graph.called["after " + before, name] += 1
                    before = name
                    needed.add(name)
            for word in (ALWAYS, *_words(trajectory.task.goal)):
                graph.offered.update((word, name) for name in names)
                graph.called.update((word, name) for name in needed)
        return graph

    def probability(self, tool: str, request: str, before: str = START) -> float | None:
        """Estimated probability that a request needs a tool after `before`: the tool's own rate, moved by every edge that was seen, as
        if they were independent (naive Bayes). None for a tool that no trajectory was offered."""
        if not self.offered[ALWAYS, tool]:
            return None
        prior = self._log_odds(ALWAYS, tool)
        seen = [edge for edge in ("after " + before, *sorted(_words(request))) if self.offered[edge, tool]]
        return 1 / (1 + math.exp(-prior - sum(self._log_odds(edge, tool) - prior for edge in seen)))

    def _log_odds(self, edge: str, tool: str) -> float:
        """Log odds of a call along an edge, with one call and one omission added."""
        called = self.called[edge, tool]
        return math.log((called + 1) / (self.offered[edge, tool] - called + 1))


@dataclass
class GraphSelector:
    """Keeps the tools that the graph finds more likely than not. Where one of the offered tools is unknown to it, or its probability lies
    within 1 - `confidence` and `confidence`, or none is kept, the selector in `fallback` is asked as it would be without a graph."""

    graph: ToolGraph
    confidence: float
    fallback: Selecting
    saved_calls: int = 0

    def select(self, seen: Seen, functions: Sequence[Mapping[str, Any]], seed: int) -> list[Mapping[str, Any]]:
        """The kept functions, in the order offered."""
        if len(functions) <= SKIP_AT:
            return list(functions)
        likelihoods = [self.graph.probability(str(function["name"]), seen.request, seen.before or START) for function in functions]
        sure = all(value is not None and max(value, 1 - value) >= self.confidence for value in likelihoods)
        kept = [function for function, value in zip(functions, likelihoods, strict=True) if value is not None and value >= 0.5]
        if not sure or not kept:
            return self.fallback.select(seen, functions, seed)
        self.saved_calls += 1
        return kept


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
