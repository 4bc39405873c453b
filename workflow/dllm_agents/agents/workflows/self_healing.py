"""Self-Healing Router: calls go along the cheapest path of a weighted tool graph; a failing tool is removed and
the path computed again, and the backbone is asked again only if no path is left.

Needs tools with alternatives that fail: BFCL's conversations with `benchmarks.bfcl.faults`.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dllm_agents.agents import tool_calling
from dllm_agents.agents.game import Game
from dllm_agents.benchmarks.base import Dialogue
from dllm_agents.benchmarks.bfcl_faults import failed_tool
from dllm_agents.benchmarks.bfcl_language import called_names, renamed
from dllm_agents.records import ToolMeasures


def play(game: Game) -> None:
    """BFCL's own protocol, except that a reply whose tool fails is rerouted over the next best path, at most `retries` (3) times.
    Single-answer tasks have nothing to reroute."""
    if not isinstance(game.environment, Dialogue):
        game.outcome = tool_calling.answer(game.benchmark, game.task, game.complete(), style=game.style, seed=game.seed)
        return
    dialogue, broken, done = game.environment, set[str](), False
    while not done:
        call = game.complete()(dialogue.conversation, seed=game.next_seed())
        text: str | None = call.text[: tool_calling.MAX_ANSWER]
        for _ in range(game.options["retries"] + 1):
            step = game.act(text, call=call.key)
            done, failed = step.done, failed_tool(step.observation)
            if done or failed is None:
                break
            broken.add(failed)
            text = rerouted(text or "", dialogue.offered, broken)
            if text is None:
                game.counts["escalations"] += 1
                break
            game.counts["reroutes"] += 1
    verdict = dialogue.verdict
    game.outcome.tools = ToolMeasures(error_type=verdict.error_type if verdict is not None else None)


def rerouted(reply: str, functions: Sequence[Mapping[str, Any]], broken: Collection[str]) -> str | None:
    """A reply with its calls along the cheapest path that avoids the broken tools; None where there is no path."""
    calls = list(dict.fromkeys(called_names(reply, {str(function["name"]) for function in functions})))
    path = cheapest([alternatives(name, functions) for name in calls], broken)
    if path is None:
        return None
    return renamed(reply, dict(zip(calls, path, strict=True)))


def alternatives(name: str, functions: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Tool -> weight of its edges: the tool itself, then those with the same parameters and a related name, each one heavier."""
    own = next(function for function in functions if function["name"] == name)
    same = [str(other["name"]) for other in functions if other.get("parameters") == own.get("parameters")]
    related = [other for other in same if other != name and (other.startswith(name) or name.startswith(other))]
    return {tool: weight for weight, tool in enumerate([name, *related], 1)}


def cheapest(layers: Sequence[Mapping[str, int]], broken: Collection[str]) -> list[str] | None:
    """Dijkstra's path from the start through one tool of each layer to the goal; broken tools have no edges."""
    queue: list[tuple[int, int, tuple[str, ...]]] = [(0, 0, ())]
    while queue:
        cost, depth, path = heapq.heappop(queue)
        if depth == len(layers):
            return list(path)
        for tool, weight in layers[depth].items():
            if tool not in broken:
                heapq.heappush(queue, (cost + weight, depth + 1, (*path, tool)))
    return None
