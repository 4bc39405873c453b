"""Decoding: how a backbone turns a prompt into tokens. One file per strategy, each a small pure rule over logits and block state.

`Decoding` (the settings) imports no torch; `generate`, `Generation` and `Session` are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dllm_agents.decoding.settings import Decoding, ToolPrefill

if TYPE_CHECKING:
    from dllm_agents.decoding.session import Generation, Session, generate

__all__ = ["Decoding", "Generation", "Session", "ToolPrefill", "generate"]


def __getattr__(name: str) -> Any:
    if name in ("Generation", "Session", "generate"):
        from dllm_agents.decoding import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
