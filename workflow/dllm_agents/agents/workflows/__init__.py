"""One module for each workflow of config/roles.py after the first five: `play(game)` plays a task, and
`learn(trajectories, options, benchmark)`, in those that learn, fits what `play` uses as `game.learnt`."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from dllm_agents.errors import StageError


def load(name: str) -> ModuleType:
    """The module of a workflow. Raises StageError where there is none."""
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise StageError(
            f"workflow {name}: no module agents/workflows/{name}.py; add it, or take its line out of config/roles.py"
        ) from None
