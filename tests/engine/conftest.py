"""Where the other rooms' test helpers lie."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / room) for room in ("models", "serving")] + [str(Path(__file__).parents[2] / "benchmarks")]
