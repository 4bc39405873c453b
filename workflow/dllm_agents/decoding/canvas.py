"""The state every strategy works on: the sequence being decoded, and the forwards it asks for."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_agents.models.families import Attention


@dataclass(frozen=True, slots=True)
class Call:
    """A forward a strategy needs next: positions start .. stop - 1 see keys of positions below `limit`.

    `rows` are the positions whose logits come back. `cached` keeps keys and values in the request's slot and reads earlier (or stale
    later) ones from it. `clean` marks keys that depend on decided tokens up to `stop` and on nothing else, so that another request with
    the same tokens may take them over; `prefill` a clean call over a prompt, which may be run in chunks.
    """

    start: int
    stop: int
    limit: int
    rows: Tensor
    attention: Attention
    block_length: int | None = None
    cached: bool = True
    clean: bool = False
    prefill: bool = False


# A strategy: yields the calls it needs, is sent the logits [rows, vocabulary] of each.
Steps = Generator[Call, Tensor, None]


class Canvas:
    """Prompt and new tokens [length], which of them are undecided, and when and how surely each was settled.

    `tokens` holds the mask id where a position is undecided. Positions are absolute; `prompt_length` is the first new one.
    """

    def __init__(self, prompt_ids: Sequence[int], length: int, mask_id: int) -> None:
        self.prompt_length = len(prompt_ids)
        self.length = length
        self.mask_id = mask_id
        self.tokens = torch.full((length,), mask_id)
        self.tokens[: self.prompt_length] = torch.tensor(list(prompt_ids))
        self.undecided = torch.ones(length, dtype=torch.bool)
        self.undecided[: self.prompt_length] = False
        self.settled_in = torch.full((length,), -1)
        self.confidence = torch.zeros(length, dtype=torch.float64)
        self.forwards = 0
        self.news: list[int] = []
        self.turn_over = False
        self.padding: tuple[int, int] | None = None

    def masked(self, start: int, stop: int) -> Tensor:
        """The undecided positions in [start, stop), ascending."""
        return self.undecided[start:stop].nonzero().flatten() + start

    def settle(self, positions: Tensor, token_ids: Tensor, confidence: Tensor) -> None:
        """Decide `positions` [k] for good, by the forward that has just run."""
        positions = positions.cpu()
        self.tokens[positions] = token_ids.cpu()
        self.undecided[positions] = False
        self.settled_in[positions] = self.forwards - 1
        self.confidence[positions] = confidence.cpu().double()
        self.news.extend(positions.tolist())

    def prefill(self, position: int, token_id: int) -> None:
        """Set a token that no forward decided; it counts as settled by the forward to come."""
        self.tokens[position] = token_id
        self.undecided[position] = False
        self.settled_in[position] = self.forwards
        self.confidence[position] = 1.0
        self.news.append(position)

    def first_stop(self, stop_ids: Sequence[int]) -> int | None:
        """The first new position that holds a stop id with everything before it decided; None while there is none.

        In a turn with tool-call tags, stop ids before the closing tag are padding and stop nothing.
        """
        open_ = self.masked(self.prompt_length, self.length)
        return self._stop_in(self.prompt_length, int(open_[0]) if len(open_) else self.length, stop_ids)

    def has_stop(self, start: int, stop: int, stop_ids: Sequence[int]) -> bool:
        """Whether a position in [start, stop) holds a stop id that is no padding."""
        return self._stop_in(start, stop, stop_ids) is not None

    def is_padding(self, position: int, stop_ids: Sequence[int]) -> bool:
        """Whether a stop id at `position` only fills up the room before a closing tag."""
        return self.padding is not None and self.padding[0] <= position < self.padding[1] and int(self.tokens[position]) in stop_ids

    def _stop_in(self, start: int, stop: int, stop_ids: Sequence[int]) -> int | None:
        found = torch.isin(self.tokens[start:stop], torch.tensor(list(stop_ids), dtype=torch.int64)).nonzero().flatten() + start
        return next((position for position in found.tolist() if not self.is_padding(position, stop_ids)), None)


def spread(values: Tensor, positions: Tensor, start: int, stop: int) -> Tensor:
    """`values` [k] laid out over the window [start, stop), -inf where no position is eligible."""
    window = torch.full((stop - start,), -torch.inf, dtype=values.dtype, device=values.device)
    window[(positions - start).to(values.device)] = values
    return window


def rows_for(positions: Tensor, shift: bool, start: int) -> Tensor:
    """The rows that predict `positions` in a call that starts at `start`: the row before with a logit shift, never before the window."""
    return (positions - 1).clamp(min=start) if shift else positions


def blocks(start: int, stop: int, length: int) -> list[tuple[int, int]]:
    """[start, stop) cut into blocks of `length`, the last one shorter when it does not divide."""
    return [(first, min(first + length, stop)) for first in range(start, stop, length)]


def quotas(masks: int, steps: int) -> list[int]:
    """How many of `masks` tokens each of `steps` steps settles: evenly, the remainder in the first steps (LLaDA appendix, Algorithm 5)."""
    base, extra = divmod(masks, steps)
    return [base + (step < extra) for step in range(steps)]


def steps_per_block(steps: int | None, new_tokens: int, block_length: int) -> int:
    """`steps` over all new tokens, shared among the blocks; one token a step when it is not given."""
    if steps is None:
        return block_length
    return max(1, steps // -(-new_tokens // block_length))
