"""One request's decoding as a state machine: which forward it needs next, and what it commits from the predictions.

`generate` drives one session; the serving engine drives many and batches their forwards. Neither changes a session's tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dllm_agents.decoding.canvas import Call, Canvas, Prediction
from dllm_agents.decoding.constrained import Constraint
from dllm_agents.decoding.dynamics import Dynamics
from dllm_agents.decoding.predicting import predictions
from dllm_agents.decoding.resolve import automaton
from dllm_agents.decoding.settings import Decoding, DecodingError
from dllm_agents.decoding.state import State
from dllm_agents.decoding.strategies import Strategy, strategy_of
from dllm_agents.decoding.tool_prefill import Tags
from dllm_agents.models.attention import Segment, Slot, forward

if TYPE_CHECKING:
    from dllm_agents.models import Model

OnUnmasked = Callable[[Sequence[int], Sequence[int], int], None]


@dataclass(frozen=True)
class Generation:
    """What a request gave. The three lists are per new token, in order, cut before the first stop id.

    `nfe` counts the forwards; `reveal_step` is the 0-based index of the forward that unmasked a token, `confidence` the probability the
    model gave it then (1.0 for pre-filled tags). `published_nfe` is what the published loop would have counted: more where stores were
    merged or the request ended early; None where only running it would tell. `repaired` are the tokens, by number, that the model would not
    have put there but for the constraint, `deferred` counts those that waited for a later forward because of one.
    """

    token_ids: list[int]
    nfe: int
    reveal_step: list[int]
    confidence: list[float]
    finish_reason: str
    published_nfe: int | None = None
    repaired: tuple[int, ...] = ()
    deferred: int = 0
    decoding: Decoding | None = None
    """The settings it was decoded with, every default filled in."""
    dynamics: Dynamics | None = None
    """What happened forward by forward, where the settings ask for it."""


class Session:
    """A request being decoded. While `call` is not None, run it and hand the prediction to `advance`.

    The keys of the first `clean` positions in the cache depend on their tokens alone. Raises DecodingError when the settings do not fit
    the model, the prompt or each other. `decoding` is resolved.
    """

    def __init__(self, model: Model, prompt_ids: Sequence[int] | Tensor, decoding: Decoding) -> None:
        prompt_ids = _as_list(prompt_ids)
        _check_prompt(model, prompt_ids)
        self.decoding = decoding = decoding.resolved(model)
        self.stop_ids = tuple(decoding.stop_ids or ())
        strategy = strategy_of(decoding.strategy or model.strategy)
        if decoding.fill_prompt:
            prompt_ids = filled(prompt_ids, decoding.block_length or 1, model.tokenizer)
        length = _length(strategy, len(prompt_ids), decoding)
        self.canvas = Canvas(prompt_ids, length, 0 if decoding.mask_id is None else decoding.mask_id)
        tags = None if decoding.tool_prefill is None else Tags(decoding.tool_prefill)
        mask_block = decoding.block_length if strategy.aligned else model.block_length
        constraint = None if decoding.constraint is None else Constraint(automaton(decoding, model), self.canvas, decoding)
        self.state = State(self.canvas, decoding, self.stop_ids, model.shift, model.attention, mask_block, tags, constraint)
        self._dynamics = Dynamics() if decoding.dynamics else None
        self._aligned = strategy.aligned
        self._steps = strategy.decode(self.state)
        self.call: Call | None = next(self._steps)
        self.clean = 0
        self.kind = (model.attention, mask_block)  # what keys depend on beside tokens

    def advance(self, prediction: Prediction) -> tuple[list[int], list[int]]:
        """Take the prediction of `call`; returns the positions (from 0 at the first new token) and ids it unmasked."""
        assert self.call is not None
        if self._dynamics is not None:
            self._dynamics.note(self.call, prediction, self.canvas, self.decoding, self._aligned)
        self.canvas.nfe += 1
        self.canvas.skip(1)
        self.clean = max(self.clean, self.call.clean)
        try:
            self.call = self._steps.send(prediction)
        except StopIteration:
            self.call = None
        unmasked = [position for position in self.canvas.just_unmasked if position < self._end]
        self.canvas.just_unmasked.clear()
        return [position - self.canvas.prompt_length for position in unmasked], self.canvas.tokens[unmasked].tolist()

    def segment(self, slot: Slot | None, start: int | None = None, stop: int | None = None) -> Segment:
        """`call` as a share of a forward, reading and writing `slot`; a prefill may be run in parts [start, stop), in order."""
        call = self.call
        assert call is not None
        start = call.start if start is None else start
        last = stop is None or stop == call.stop
        stop = call.stop if last or stop is None else stop
        return Segment(
            torch.from_numpy(self.canvas.tokens[start:stop]),
            start,
            call.limit if last else stop,
            call.attention,
            call.block_length,
            torch.from_numpy(call.rows if last else call.rows[:0]),
            slot,
        )

    def generation(self) -> Generation:
        """The tokens unmasked so far, up to the first masked position."""
        canvas = self.canvas
        stop = canvas.first_stop(self.stop_ids)
        end = min(canvas.first_masked(), self._end)
        stopped = stop is not None and stop < self._end
        kept = [
            position
            for position in range(canvas.prompt_length, end if stop is None else min(end, stop))
            if not canvas.is_padding(position, self.stop_ids)
        ]
        constraint = self.state.constraint
        complete = constraint is not None and canvas.first_masked() >= self._end and constraint.complete
        return Generation(
            token_ids=canvas.tokens[kept].tolist(),
            nfe=canvas.nfe,
            reveal_step=canvas.reveal_step[kept].tolist(),
            confidence=canvas.confidence[kept].tolist(),
            finish_reason="stop" if stopped or complete or canvas.stop_after_block else "length",
            published_nfe=canvas.published_nfe,
            deferred=0 if constraint is None else constraint.deferred,
            repaired=() if constraint is None else tuple(i for i, place in enumerate(kept) if place in constraint.repaired),
            decoding=self.decoding,
            dynamics=self._dynamics,
        )

    @property
    def _end(self) -> int:
        return self.canvas.prompt_length + self.decoding.max_new_tokens


@torch.inference_mode()
def generate(model: Model, prompt_ids: Sequence[int] | Tensor, decoding: Decoding, on_unmasked: OnUnmasked | None = None) -> Generation:
    """Decode one prompt, token ids as a list or a tensor [n] or [1, n].

    `on_unmasked(positions, token_ids, step)` hears of tokens as they are decided, positions from the first new one.
    Raises DecodingError for settings that cannot be carried out, StageError when the logits are not finite.
    """
    session = Session(model, prompt_ids, decoding)
    slot = Slot(model, session.canvas.length)
    while session.call is not None:
        (logits,) = forward(model, [session.segment(slot)])
        (prediction,) = predictions([(session.state, session.call)], logits)
        if isinstance(prediction, Exception):
            raise prediction
        positions, token_ids = session.advance(prediction)
        if on_unmasked is not None and positions:
            on_unmasked(positions, token_ids, session.canvas.nfe - 1)
    return session.generation()


def filled(prompt_ids: Sequence[int], block_length: int, tokenizer: Any) -> list[int]:
    """A prompt filled up on the left to whole blocks, by the tokenizer's padding or else its end token: blocks are counted from position
    0, so that what follows begins with one (DLLM-Searcher's public code). Training and decoding both do it here."""
    filler = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return [filler] * (-len(prompt_ids) % block_length) + list(prompt_ids)


def _as_list(prompt_ids: Sequence[int] | Tensor) -> list[int]:
    if not isinstance(prompt_ids, Tensor):
        return list(prompt_ids)
    if prompt_ids.is_floating_point() or prompt_ids.dim() > 2 or (prompt_ids.dim() == 2 and len(prompt_ids) != 1):
        raise DecodingError(f"prompt: whole numbers of shape [n] or [1, n] are wanted, not {list(prompt_ids.shape)} of {prompt_ids.dtype}")
    return prompt_ids.flatten().tolist()


def _check_prompt(model: Model, prompt_ids: Sequence[int]) -> None:
    if not len(prompt_ids):
        raise DecodingError("prompt: empty; give at least one token")
    if min(prompt_ids) < 0 or max(prompt_ids) >= model.vocab_size:
        raise DecodingError(f"prompt: token ids must lie in 0 .. {model.vocab_size - 1}, the model's vocabulary")


def _length(strategy: Strategy, prompt_length: int, decoding: Decoding) -> int:
    """Positions the sequence may reach: whole blocks where it grows by blocks."""
    end = prompt_length + decoding.max_new_tokens
    if not strategy.grows or decoding.block_length is None:
        return end
    offset = 0 if strategy.aligned else prompt_length
    return offset - (offset - end) // decoding.block_length * decoding.block_length
