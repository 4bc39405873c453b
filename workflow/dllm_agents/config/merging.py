"""Mappings on top of mappings: how files extend one another, and an agent's settings those of its backbone."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

COMMAND_LINE = "--config"


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`; neither is changed."""
    result = deepcopy(dict(base))
    merge(result, over, {}, None)
    return result


def merge(base: dict[str, Any], over: Mapping[str, Any], origin: dict[str, str], file: str | None, prefix: str = "") -> None:
    """Put `over` on top of `base`, mapping by mapping, and note in `origin` which keys the file says."""
    for key, value in over.items():
        where = f"{prefix}{key}"
        if file == COMMAND_LINE and base.get(key) == value:
            # Snakemake hands over files and command line as one mapping; what a file says is the file's.
            continue
        if isinstance(value, dict):
            # A mapping is copied, never kept: YAML anchors make one mapping stand in two places, and merging into one would change both.
            if not isinstance(base.get(key), dict):
                base[key] = {}
            if file is not None:
                origin[where] = file
            merge(base[key], value, origin, file, f"{where}.")
            continue
        base[key] = value
        if file is not None:
            origin[where] = file


def origin_of(key: str, origin: Mapping[str, str]) -> str:
    """The file that says a key, or the mapping it stands in."""
    while key:
        if key in origin:
            return origin[key]
        key = key.rpartition(".")[0]
    return next(iter(origin.values()), "configuration")
