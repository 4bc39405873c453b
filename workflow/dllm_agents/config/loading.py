"""Configuration files: YAML merged left to right, each key with the file that says it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dllm_agents.config.configuration import Config
from dllm_agents.config.section import explain
from dllm_agents.errors import StageError

COMMAND_LINE = "--config"


def load(paths: Iterable[str | Path], overrides: Mapping[str, Any] | None = None) -> Config:
    """The checked configuration of one or more YAML files, later ones on top, then `overrides`.

    Raises StageError with one line that names the file, the key and what is allowed.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for path in paths:
        _merge(merged, _read(Path(path), origin, ()), origin, None)
    if overrides:
        _merge(merged, dict(overrides), origin, COMMAND_LINE)
    merged.pop("extends", None)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        line = explain(error, Config, "")
        raise StageError(f"{_origin(line.split(':')[0], origin)}: {line}") from None


def _read(path: Path, origin: dict[str, str], parents: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in parents:
        raise StageError(f"{path}: extends itself by way of {' -> '.join(str(parent) for parent in parents)}")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; name a configuration file such as config/demo.yaml") from None
    except UnicodeDecodeError:
        raise StageError(f"{path}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise StageError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise StageError(f"{path}: a configuration is a mapping of keys, not {type(data).__name__}")
    merged: dict[str, Any] = {}
    extends = data.get("extends") or []
    for parent in [extends] if isinstance(extends, str) else extends:
        _merge(merged, _read(path.parent / parent, origin, (*parents, path.resolve())), origin, None)
    _merge(merged, data, origin, str(path))
    return merged


def _merge(base: dict[str, Any], over: dict[str, Any], origin: dict[str, str], file: str | None, prefix: str = "") -> None:
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
            _merge(base[key], value, origin, file, f"{where}.")
            continue
        base[key] = value
        if file is not None:
            origin[where] = file


def _origin(key: str, origin: dict[str, str]) -> str:
    while key:
        if key in origin:
            return origin[key]
        key = key.rpartition(".")[0]
    return next(iter(origin.values()), "configuration")


# libyaml's parser takes a tenth of the time of the one in Python, and every stage reads a configuration.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeyLoader(_Loader):
    """SafeLoader that refuses a key given twice in one mapping."""


def _mapping(loader: Any, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} must be text; put it in quotes", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    return _Loader.construct_mapping(loader, node, deep)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
