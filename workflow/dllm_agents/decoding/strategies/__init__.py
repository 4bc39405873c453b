"""The strategies, one file each: how it decodes, which checkpoints and settings it takes, its published defaults.

A file `strategies/<name>.py` that exports `STRATEGY` is all that a new strategy needs; `Decoding.strategy` accepts the names found here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

from dllm_agents.decoding.settings import Decoding
from dllm_agents.models.families import Attention

if TYPE_CHECKING:
    from dllm_agents.decoding.canvas import Steps
    from dllm_agents.decoding.state import State
    from dllm_agents.models import Model


@dataclass(frozen=True)
class Strategy:
    """What a strategy is. `decode` is a generator: it yields the calls it needs and is sent the prediction of each.

    `attention` and `shift` say which checkpoints it decodes (None: either). `block_length`, `sub_block_length`, `threshold` and the first
    of `remasking` are the published values; a strategy without `block_length` knows no blocks. One that `grows` appends whole blocks,
    counted from the prompt's end or, when `aligned`, from position 0; there the checkpoint's own block length comes before the published
    one. `caches` are the values of `cache` it takes; `fields` the settings that only some strategies read. `complete` fills in settings
    that depend on each other.
    """

    decode: Callable[[State], Steps]
    attention: tuple[Attention, ...]
    shift: bool | None = None
    block_length: int | None = None
    sub_block_length: int | None = None
    threshold: float | None = None
    grows: bool = False
    aligned: bool = False
    remasking: tuple[str | None, ...] = (None,)
    caches: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    complete: Callable[[Decoding, Model], dict[str, object]] = lambda decoding, model: {}


def strategy_of(name: str) -> Strategy:
    """The strategy of that name."""
    return cast(Strategy, import_module(f"{__name__}.{name}").STRATEGY)
