"""BFCL-v3's files, as they lie in the installed bfcl-eval package. Light: the standard library only."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import random
from functools import cache
from typing import Any

from dllm_agents.errors import StageError

PACKAGE = "bfcl-eval"
DRAWN = 50  # per category, by the published rule
DRAW_SEED = 42
_FUNCTION_DOCS = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}


@cache
def version() -> str:
    """Package and version, as stored in every task. Raises StageError where the package is missing."""
    try:
        return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"
    except importlib.metadata.PackageNotFoundError:
        raise StageError(f"bfcl: the package {PACKAGE} is not installed; `make demo` and `make test` install it") from None


def _lines(name: str) -> list[str]:
    folder = importlib.resources.files("bfcl_eval") / "data"
    return folder.joinpath(*name.split("/")).read_text(encoding="utf-8").splitlines()


@cache
def lines(category: str) -> tuple[str, ...]:
    """The entries of a category in file order, still as text: most are never looked at."""
    return tuple(_lines(f"BFCL_v3_{category}.json"))


def entry(category: str, index: int) -> dict[str, Any]:
    """One entry as published, with the function docs that BFCL adds to multi-turn entries.

    For `miss_func` the functions held back are taken out of `function` and listed per turn in `missed_function`.
    """
    entry = json.loads(lines(category)[index])
    if is_multi_turn(category):
        entry["function"] = [json.loads(line) for name in entry["involved_classes"] for line in _docs(name)]
        entry["missed_function"] = {
            turn: [_take(entry["function"], name) for name in names] for turn, names in entry.get("missed_function", {}).items()
        }
    return entry


def _take(functions: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return functions.pop(next(index for index, function in enumerate(functions) if function["name"] == name))


@cache
def _docs(class_name: str) -> tuple[str, ...]:
    return tuple(_lines(f"multi_turn_func_doc/{_FUNCTION_DOCS[class_name]}.json"))


@cache
def index_of(category: str) -> dict[str, int]:
    """Entry id -> position in its file."""
    return {json.loads(line)["id"]: index for index, line in enumerate(lines(category))}


@cache
def answers(category: str) -> dict[str, Any]:
    """Entry id -> ground truth: acceptable values per call, or the calls of every turn. Empty for (ir)relevance."""
    if is_relevance(category):
        return {}
    return {row["id"]: row["ground_truth"] for row in map(json.loads, _lines(f"possible_answer/BFCL_v3_{category}.json"))}


def function_names() -> frozenset[str]:
    """The names of all functions that any single-turn entry offers."""
    files = importlib.resources.files("bfcl_eval").joinpath("data").iterdir()
    categories = [path.name.removeprefix("BFCL_v3_").removesuffix(".json") for path in files if path.name.startswith("BFCL_v3_")]
    offered = (json.loads(line).get("function", []) for category in categories for line in lines(category))
    return frozenset(function["name"] for functions in offered for function in functions)


def is_multi_turn(category: str) -> bool:
    return category.startswith("multi_turn")


def is_relevance(category: str) -> bool:
    """Relevance and irrelevance: judged by whether anything was called, without ground truth."""
    return category.endswith("relevance")


def language(category: str) -> str:
    """The language of a category's functions and answers, by BFCL's names."""
    return {"java": "Java", "javascript": "JavaScript"}.get(category, "Python")


def draw(count: int) -> list[int]:
    """All positions of a category of `count` entries in the order they are drawn; the first 50, sorted, are DiffuAgent's published subset.

    The published rule is `sorted(random.Random(42).sample(range(n), 50))` per category, everything where n <= 50. A smaller set is the
    beginning of the same draw, a larger one continues it in file order, so that sets nest.
    """
    drawn = random.Random(DRAW_SEED).sample(range(count), min(count, DRAWN))
    return drawn + sorted(set(range(count)) - set(drawn))
