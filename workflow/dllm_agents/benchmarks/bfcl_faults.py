"""Injected faults in BFCL's conversations: some functions fail in every call, and each has an equivalent backup. The official simulators
and checker see neither: a failing call is not run, and a backup's call is run under the function's own name."""

from __future__ import annotations

import re
from collections.abc import Collection
from random import Random
from typing import Any

from dllm_agents.benchmarks.bfcl_language import called_names, renamed

BACKUP = "_backup"
_FAILED = re.compile(r"Error during execution: (\w+) is unavailable")


def with_faults(functions: list[dict[str, Any]], share: float, seed: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The functions with a backup after each failing one, and the names of the failing ones: `share` of all, at least one."""
    names = [str(function["name"]) for function in functions]
    faulty = set(Random(seed).sample(names, max(1, round(share * len(names)))))
    offered = []
    for function in functions:
        offered.append(function)
        if function["name"] in faulty:
            offered.append({**function, "name": f"{function['name']}{BACKUP}", "description": f"Another service for {function['name']}."})
    return offered, sorted(faulty)


def failing(reply: str, faulty: Collection[str]) -> str | None:
    """The tools' error for a reply that calls a failing function; None if it calls none."""
    called = called_names(reply, faulty)
    return f"[{{'role': 'tool', 'content': 'Error during execution: {called[0]} is unavailable'}}]" if called else None


def without_backups(reply: str, faulty: Collection[str]) -> str:
    """A reply with the functions' own names in place of their backups'."""
    return renamed(reply, {f"{name}{BACKUP}": name for name in faulty})


def failed_tool(observation: str) -> str | None:
    """The function that an observation says has failed."""
    match = _FAILED.search(observation)
    return match[1] if match else None
