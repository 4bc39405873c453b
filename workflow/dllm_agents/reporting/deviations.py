"""Settings that differ from the published ones in paper/published/settings.csv, as sentences for captions."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

import yaml

from dllm_agents.config import Config
from dllm_agents.reporting.published import table


@cache
def published_settings() -> tuple[dict[str, str], ...]:
    """Every published setting: paper, recipe, key (dotted), value, source, and the reason for which the recipe's is another, if it is."""
    return tuple(table("settings"))


def deviations(paper: str, config: Config, benchmarks: Collection[str]) -> Iterator[str]:
    """One sentence for each setting of a paper that differs in this run: all those of its backbones and agents, and of the rest,
    as of these benchmarks, those that the recipe changes on purpose."""
    for row in published_settings():
        section, _, rest = row["key"].partition(".")
        name = rest.partition(".")[0]
        used = {"backbones": config.used_backbones(), "agents": config.run.agents, "benchmarks": benchmarks}.get(section, [name])
        chosen = section in ("backbones", "agents") or row["reason"]
        if row["paper"] == paper and name in used and chosen and not is_published(config, row):
            why = f" ({row['reason']})" if row["reason"] else ""
            yield f"{row['key']}: {_text(value_at(config, row['key']))}, published: {row['value']}{why}."


def is_published(config: Config, row: dict[str, str]) -> bool:
    """Whether the configuration has the published value of a setting."""
    value = value_at(config, row["key"])
    if isinstance(value, list):
        return bool(value == row["value"].split(","))
    if isinstance(value, float):
        return value == float(row["value"])
    return bool(value == yaml.safe_load(row["value"]))


def value_at(config: Config, key: str) -> Any:
    """The value at a dotted key of a checked configuration; None below what is not set."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
    return value


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(map(str, value)) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value).lower()
