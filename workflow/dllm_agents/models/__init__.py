"""Checkpoints in their published key layouts, read without any code of theirs. `load` is all most callers need.

The parts that compute with torch are imported on first use, so that importing this package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dllm_agents.models.loading import Model, load, load_model

__all__ = ["Model", "load", "load_model"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from dllm_agents.models import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
