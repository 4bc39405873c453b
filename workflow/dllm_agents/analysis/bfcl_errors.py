"""From BFCL's error types to the three failure classes of DiffuAgent's Figure 4; the mapping is `bfcl_error_classes.yaml`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import yaml

from dllm_agents.errors import StageError

MAPPING = files("dllm_agents.analysis") / "bfcl_error_classes.yaml"
PAPER_NAMES = {"schema": "JSON Schema Error", "parameter_value": "Parameter / Value Error", "wrong_function": "Wrong Function"}


@cache
def _mapping() -> dict[str, str | None]:
    return {error_type: entry["class"] for error_type, entry in yaml.safe_load(MAPPING.read_text(encoding="utf-8")).items()}


def error_class(error_type: str) -> str | None:
    """The class of an error type: a key of PAPER_NAMES, or None for what Figure 4 does not count.

    Raises StageError for an error type the mapping does not have.
    """
    mapping = _mapping()
    if error_type in mapping:
        return mapping[error_type]
    family = f"{error_type.partition(':')[0]}:*"
    if family not in mapping:
        raise StageError(f"bfcl_error_classes.yaml: no class for the error type {error_type!r}; add a line for it")
    return mapping[family]
