"""Configuration files: YAML merged left to right, each key with the file that says it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dllm_agents.config.configuration import Config
from dllm_agents.config.matrix import expand
from dllm_agents.config.merging import COMMAND_LINE, merge, origin_of
from dllm_agents.config.section import Mistake, explain
from dllm_agents.errors import StageError


def load(
    paths: Iterable[str | Path], overrides: Mapping[str, Any] | None = None, checks: Iterable[Callable[[Config], None]] = ()
) -> Config:
    """The checked configuration of one or more YAML files, later ones on top, then `overrides`.

    Raises StageError with one line that names the file, the key and what is allowed; so does a Mistake that one of `checks` raises.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for path in paths:
        merge(merged, _read(Path(path), origin, ()), origin, None)
    if overrides:
        merge(merged, dict(overrides), origin, COMMAND_LINE)
    merged.pop("extends", None)
    try:
        expand(merged, origin)
        config = Config.model_validate(merged)
        for check in checks:
            check(config)
    except (ValidationError, Mistake) as error:
        mistake = error if isinstance(error, Mistake) else explain(error, Config, "")
        raise StageError(f"{origin_of(mistake.key, origin)}: {mistake}") from None
    for key, note in _replaced(merged, config):
        print(f"dllm-agents: note: {origin_of(key, origin)}: {key}: {note}", file=sys.stderr)
    return config


def _replaced(merged: Mapping[str, Any], config: Config) -> Iterator[tuple[str, str]]:
    """(key, note) of what a configuration says and another part of it makes void."""
    own, catalogue = merged.get("add") or {}, merged.get("backbones") or {}
    for name in own:
        if name in catalogue and own[name] != catalogue[name]:
            yield f"add.{name}", f"replaces the backbone of that name under `backbones`, {name}"
    dropped = set((merged.get("run", {}).get("verification") or {}).get("agents") or []) - set(config.run.verification.agents)
    if dropped:
        yield "run.verification.agents", f"{', '.join(sorted(dropped))} do not play in this run and are left out"


def _read(path: Path, origin: dict[str, str], parents: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in parents:
        raise StageError(f"{path}: extends itself by way of {' -> '.join(str(parent) for parent in parents)}")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; name a configuration file such as config/demo.yaml") from None
    except UnicodeDecodeError:
        raise StageError(f"{path}: not UTF-8 text") from None
    except (RecursionError, ValueError) as error:  # nested too deep, a number of too many digits
        raise StageError(f"{path}: cannot be read ({str(error)[:80]}); a configuration is plain YAML") from None
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
        merge(merged, _read(path.parent / parent, origin, (*parents, path.resolve())), origin, None)
    merge(merged, data, origin, str(path))
    return merged


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
