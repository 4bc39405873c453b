"""Agents by matrix: one entry for all combinations of policies, modules and what else differs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from string import Formatter
from typing import Any

from dllm_agents.config.merging import merged
from dllm_agents.config.section import Mistake


def expand(configuration: dict[str, Any], origin: dict[str, str]) -> None:
    """Replace every agent that has a `matrix` by its combinations, and its name by theirs in the lists of agents that a run plays.

    `matrix` is a mapping of variables to values; each value takes the place of `{variable}` in the entry's name and in its texts. An
    entry under a combination's own name is merged on top of it. Raises Mistake for a variable without values, one that the name lacks,
    and a name that two combinations share.
    """
    agents = configuration.get("agents")
    if not isinstance(agents, dict):
        return
    combinations: dict[str, list[str]] = {}
    for name in [name for name, entry in agents.items() if isinstance(entry, dict) and "matrix" in entry]:
        entry = agents.pop(name)
        for values in _combinations(name, entry["matrix"]):
            own = name.format(**values)
            if own in combinations.get(name, []):
                raise Mistake(f"agents.{name}.matrix", f"makes {own!r} twice")
            combinations.setdefault(name, []).append(own)
            agents[own] = merged(_filled({key: value for key, value in entry.items() if key != "matrix"}, values), agents.get(own) or {})
            origin.setdefault(f"agents.{own}", origin.get(f"agents.{name}", ""))
    run = configuration.get("run")
    for section in (run, run.get("verification")) if isinstance(run, dict) else ():
        if isinstance(section, dict) and isinstance(section.get("agents"), list):
            section["agents"] = [own for name in section["agents"] for own in combinations.get(name, [name])]


def _combinations(name: str, matrix: Any) -> list[dict[str, str]]:
    where = f"agents.{name}.matrix"
    if not isinstance(matrix, dict) or not matrix or not all(isinstance(values, list) and values for values in matrix.values()):
        raise Mistake(where, "needs one or more variables, each with a list of values")
    if not all(isinstance(value, str) for values in matrix.values() for value in values):
        raise Mistake(where, "its values are names")
    try:
        used = {variable for _, variable, _, _ in Formatter().parse(name) if variable is not None}
    except ValueError:
        used = set()
    if used != set(matrix):
        raise Mistake(where, f"the agent's name must hold {{{'}, {'.join(sorted(matrix))}}}, so that each combination has its own")
    return [dict(zip(matrix, values, strict=True)) for values in product(*matrix.values())]


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    if not isinstance(value, str):
        return value
    for variable, text in values.items():
        value = value.replace(f"{{{variable}}}", text)
    return value
