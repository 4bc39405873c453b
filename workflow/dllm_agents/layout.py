"""Where things lie."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where converted checkpoints are kept: $DLLM_AGENTS_CACHE, or ~/.cache/dllm-agents."""
    return Path(os.environ.get("DLLM_AGENTS_CACHE") or Path.home() / ".cache" / "dllm-agents")
