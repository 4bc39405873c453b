"""The averages of DiffuAgent's Table 2, from the rates of BFCL's categories. They fit all six published rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dllm_agents.config import BFCL_MULTI_TURN, BFCL_SINGLE_TURN

_SIMPLE = ("simple", "java", "javascript")
_LIVE = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
_LIVE_ALL = (*_LIVE, "live_relevance", "live_irrelevance")
PARTS: dict[str, tuple[str, ...]] = {
    "non_live": (*_SIMPLE, "multiple", "parallel", "parallel_multiple"),
    "live": _LIVE,
    "multi_turn_challenge": ("multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context"),
    "multi_turn": tuple(BFCL_MULTI_TURN),
    "irrelevance": ("irrelevance", "live_irrelevance"),
    "overall": (*BFCL_SINGLE_TURN, *BFCL_MULTI_TURN),
}
"""Average -> the categories in it. The table's other columns (Standard is multi_turn_base, Rel. live_relevance) are single categories."""


def averages(rates: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Every average of PARTS; None where a category is missing.

    `rates`: category -> success rate, a number or an array of any one shape (bootstrap draws); `sizes`: category -> entries judged, the
    weights of the Live sets in Overall. Non-Live counts simple, Java and JavaScript as one of four. Overall is the mean of three:
    Non-Live's four with its irrelevance, the six Live sets weighted by entries, and Multi-Turn. (DiffuAgent, Table 2 and footnote 5.)
    """

    def mean(names: Sequence[str]) -> Any:
        return sum(rates[name] for name in names) / len(names)

    def non_live() -> list[Any]:
        return [mean(_SIMPLE), rates["multiple"], rates["parallel"], rates["parallel_multiple"]]

    def overall() -> Any:
        with_irrelevance = (sum(non_live()) + rates["irrelevance"]) / 5
        live = sum(sizes[name] * rates[name] for name in _LIVE_ALL) / sum(sizes[name] for name in _LIVE_ALL)
        return (with_irrelevance + live + mean(BFCL_MULTI_TURN)) / 3

    special = {"non_live": lambda: sum(non_live()) / 4, "overall": overall}
    return {
        name: special.get(name, lambda parts=parts: mean(parts))() if all(part in rates for part in parts) else None
        for name, parts in PARTS.items()
    }
