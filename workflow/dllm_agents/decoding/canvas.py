"""The state every strategy works on: the sequence being decoded, and the forwards it asks for. Host memory alone, as numpy arrays."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dllm_agents.decoding.selection import Rule
from dllm_agents.models.families import Attention

Positions = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class Call:
    """A forward a strategy needs next: positions start .. stop - 1 see keys of positions below `limit`.

    `positions` [k] are to be predicted, from the logits at `rows` [k]; `rule` says which of them are committed (None: none). Keys of
    positions outside [start, stop) are read from the request's cache, stale ones too. After the call those before `clean` depend on
    decided tokens before it and on nothing else, so that another request with the same tokens may take them over.

    A row is predicted greedily, or with `draws` [k] from U(0, 1). `untempered` takes the confidence from the
    plain softmax, `precise` keeps it in double precision; `bias` [k] is added to it in ranking, `order` [k] replaces it there.
    """

    start: int
    stop: int
    limit: int
    positions: Positions
    rows: Positions
    attention: Attention
    block_length: int | None = None
    clean: int = 0
    rule: Rule | None = None
    untempered: bool = False
    precise: bool = False
    draws: Floats | None = None
    bias: Floats | None = None
    order: Floats | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """For each of a call's positions: the token [k], the model's probability of it [k], whether it is to be committed [k], and, where it
    is asked for, the entropy of what the model says there, in nats [k]."""

    token_ids: Positions
    confidence: Floats
    chosen: npt.NDArray[np.bool_]
    entropy: Floats | None = None


# A strategy: yields the calls it needs, is sent the prediction of each.
Steps = Generator[Call, Prediction, Any]


class Canvas:
    """Prompt and new tokens [length], which of them are masked, and when and how surely each was unmasked.

    `tokens` holds the mask id where a position is masked. Positions are absolute; `prompt_length` is the first new one. `nfe` counts the
    forwards run, `published_nfe` those of the published loop, None when only running them would tell.
    """

    def __init__(self, prompt_ids: Sequence[int], length: int, mask_id: int) -> None:
        self.prompt_length = len(prompt_ids)
        self.length = length
        self.mask_id = mask_id
        self.tokens = np.full(length, mask_id, dtype=np.int64)
        self.tokens[: self.prompt_length] = prompt_ids
        self.is_masked = np.ones(length, dtype=np.bool_)
        self.is_masked[: self.prompt_length] = False
        self.reveal_step = np.full(length, -1, dtype=np.int64)
        self.confidence = np.zeros(length)
        self.nfe = 0
        self.published_nfe: int | None = 0
        self.just_unmasked: list[int] = []
        self.stop_after_block = False
        self.padding: tuple[int, int] | None = None
        self._first_masked = self.prompt_length

    def masked(self, start: int, stop: int) -> Positions:
        """The masked positions in [start, stop), ascending."""
        return self.is_masked[start:stop].nonzero()[0] + start

    def unmask(self, positions: Positions, token_ids: Positions, confidence: Floats) -> None:
        """Decide `positions` [k] for good, by the forward that has just run."""
        self.tokens[positions] = token_ids
        self.is_masked[positions] = False
        self.reveal_step[positions] = self.nfe - 1
        self.confidence[positions] = confidence
        self.just_unmasked.extend(positions.tolist())

    def prefill(self, position: int, token_id: int) -> None:
        """Set a token that no forward decided; it counts as unmasked by the forward to come."""
        self.tokens[position] = token_id
        self.is_masked[position] = False
        self.reveal_step[position] = self.nfe
        self.confidence[position] = 1.0
        self.just_unmasked.append(position)

    def skip(self, forwards: int | None) -> None:
        """Note `forwards` of the published loop that are not run; None when their number is not known."""
        self.published_nfe = None if forwards is None or self.published_nfe is None else self.published_nfe + forwards

    def first_masked(self) -> int:
        """The first masked position; `length` when there is none."""
        while self._first_masked < self.length and not self.is_masked[self._first_masked]:
            self._first_masked += 1
        return self._first_masked

    def first_stop(self, stop_ids: Sequence[int]) -> int | None:
        """The first new position that holds a stop id with everything before it decided; None while there is none.

        In a turn with tool-call tags, stop ids before the closing tag are padding and stop nothing.
        """
        return self._stop_in(self.prompt_length, self.first_masked(), stop_ids)

    def has_stop(self, start: int, stop: int, stop_ids: Sequence[int]) -> bool:
        """Whether a position in [start, stop) holds a stop id that is no padding."""
        return self._stop_in(start, stop, stop_ids) is not None

    def is_padding(self, position: int, stop_ids: Sequence[int]) -> bool:
        """Whether a stop id at `position` only fills up the room before a closing tag."""
        return self.padding is not None and self.padding[0] <= position < self.padding[1] and int(self.tokens[position]) in stop_ids

    def _stop_in(self, start: int, stop: int, stop_ids: Sequence[int]) -> int | None:
        tokens = self.tokens[start:stop].tolist()
        return next(
            (place for place, token in enumerate(tokens, start) if token in stop_ids and not self.is_padding(place, stop_ids)), None
        )


def blocks(start: int, stop: int, length: int) -> list[tuple[int, int]]:
    """[start, stop) cut into blocks of `length`, the last one shorter when it does not divide."""
    return [(first, min(first + length, stop)) for first in range(start, stop, length)]


def transfer_counts(masks: int, steps: int) -> list[int]:
    """How many of `masks` tokens each of `steps` steps commits: evenly, the remainder in the first steps (LLaDA appendix, Algorithm 5)."""
    base, extra = divmod(masks, steps)
    return [base + (step < extra) for step in range(steps)]
