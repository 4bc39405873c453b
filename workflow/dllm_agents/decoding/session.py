"""One request's decoding as a state machine: which forward it needs next, and what it settles from the logits.

`generate` drives one session; the serving engine drives many and batches their forwards. Neither changes a session's tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dllm_agents.decoding import ar, dllm_var, dream, fast_dllm, fast_dllm_v2, llada, sdar, tool_prefill
from dllm_agents.decoding.canvas import Call, Canvas
from dllm_agents.decoding.job import Job
from dllm_agents.decoding.sampling import Sampler
from dllm_agents.decoding.settings import Decoding, DecodingError
from dllm_agents.models.attention import Segment, Slot, forward

if TYPE_CHECKING:
    from dllm_agents.models import Model

STRATEGIES = {
    "ar": ar.decode,
    "llada": llada.decode,
    "dream": dream.decode,
    "fast_dllm": fast_dllm.decode,
    "fast_dllm_v2": fast_dllm_v2.decode,
    "dllm_var": dllm_var.decode,
    "sdar": sdar.decode,
}
# Strategies whose sequence grows by whole blocks, with their published block length, and whether blocks count from position 0.
GROWS = {"dllm_var": dllm_var.BLOCK_LENGTH, "sdar": sdar.BLOCK_LENGTH, "fast_dllm_v2": fast_dllm_v2.BLOCK_LENGTH}
BLOCKS = {"llada": llada.BLOCK_LENGTH, "fast_dllm": fast_dllm.BLOCK_LENGTH, **GROWS}
REMASKING = {
    "ar": (None,),
    "llada": (None, "low_confidence", "random", "sequential"),
    "dream": (None, "sequential"),
    "fast_dllm": (None, "low_confidence", "random", "sequential"),
    "fast_dllm_v2": (None, "low_confidence", "sequential"),
    "dllm_var": (None, "low_confidence", "sequential"),
    "sdar": (None, "sequential", "low_confidence_static", "low_confidence_dynamic"),
}

OnSettled = Callable[[Sequence[int], Sequence[int], int], None]


@dataclass(frozen=True)
class Generation:
    """What a request gave. The three lists are per new token, in order, cut before the first stop id.

    `nfe` counts the forwards; `reveal_step` is the 0-based index of the forward that settled a token, `confidence` the probability the
    model gave it then (1.0 for pre-filled tags).
    """

    token_ids: list[int]
    nfe: int
    reveal_step: list[int]
    confidence: list[float]
    finish_reason: str


class Session:
    """A request being decoded. While `call` is not None, run it and hand the logits to `advance`.

    Up to the stop of `last_clean` the keys in the slot depend on their tokens alone. Raises DecodingError when the settings do
    not fit the model or each other.
    """

    def __init__(self, model: Model, prompt_ids: Sequence[int] | Tensor, decoding: Decoding) -> None:
        prompt_ids = _as_list(prompt_ids)
        mask_id, stop_ids = check(model, prompt_ids, decoding)
        self.decoding = decoding
        self.stop_ids = stop_ids
        self.canvas = Canvas(prompt_ids, _length(model, len(prompt_ids), decoding), mask_id)
        self._job = Job(
            canvas=self.canvas,
            decoding=decoding,
            sampler=Sampler(None if decoding.strategy == "ar" else mask_id, decoding.temperature, decoding.top_p, decoding.seed),
            stop_ids=stop_ids,
            shift=model.shift,
            attention="full" if decoding.strategy == "dllm_var" else model.attention,
            block_length=model.block_length,
            tags=_tags(model, decoding),
        )
        self._steps = STRATEGIES[decoding.strategy](self._job)
        self.call: Call | None = None
        self.last_clean: Call | None = None
        self._next(None)

    def advance(self, logits: Tensor) -> tuple[list[int], list[int]]:
        """Take the logits [rows, vocabulary] of `call`; returns the positions (from 0 at the first new token) and ids it settled.

        Raises StageError when the logits are not finite.
        """
        assert self.call is not None
        self.canvas.forwards += 1
        if self.call.clean:
            self.last_clean = self.call
        self._next(logits)
        settled = [position for position in self.canvas.news if position < self._end]
        self.canvas.news.clear()
        return [position - self.canvas.prompt_length for position in settled], self.canvas.tokens[settled].tolist()

    def segment(self, slot: Slot | None, start: int | None = None, stop: int | None = None) -> Segment:
        """`call` as a share of a forward, reading and writing `slot`; a prefill may be run in parts [start, stop), in order."""
        call = self.call
        assert call is not None
        start = call.start if start is None else start
        last = stop is None or stop == call.stop
        stop = call.stop if last or stop is None else stop
        return Segment(
            self.canvas.tokens[start:stop],
            start,
            call.limit if last else stop,
            call.attention,
            call.block_length,
            call.rows if last else call.rows[:0],
            slot if call.cached else None,
        )

    def generation(self) -> Generation:
        """The tokens settled so far, up to the first undecided position."""
        canvas = self.canvas
        open_ = canvas.masked(canvas.prompt_length, self._end)
        end = int(open_[0]) if len(open_) else self._end
        stop = canvas.first_stop(self.stop_ids)
        stopped = stop is not None and stop < self._end
        kept = [
            position
            for position in range(canvas.prompt_length, min(end, stop) if stop is not None else end)
            if not canvas.is_padding(position, self.stop_ids)
        ]
        return Generation(
            token_ids=canvas.tokens[kept].tolist(),
            nfe=canvas.forwards,
            reveal_step=canvas.settled_in[kept].tolist(),
            confidence=canvas.confidence[kept].tolist(),
            finish_reason="stop" if stopped or canvas.turn_over else "length",
        )

    @property
    def cached(self) -> bool:
        """Whether the request needs a slot."""
        return caches(self.decoding)

    @property
    def _end(self) -> int:
        return self.canvas.prompt_length + self.decoding.max_new_tokens

    @torch.inference_mode()
    def _next(self, logits: Tensor | None) -> None:
        try:
            self.call = next(self._steps) if logits is None else self._steps.send(logits)
        except StopIteration:
            self.call = None


def generate(model: Model, prompt_ids: Sequence[int] | Tensor, decoding: Decoding, on_settled: OnSettled | None = None) -> Generation:
    """Decode one prompt, token ids as a list or a tensor [n] or [1, n].

    `on_settled(positions, token_ids, step)` hears of tokens as they settle, positions from the first new one.
    Raises DecodingError for settings that cannot be carried out, StageError when the logits are not finite.
    """
    session = Session(model, prompt_ids, decoding)
    slot = Slot(model, session.canvas.length) if session.cached else None
    while session.call is not None:
        (logits,) = forward(model, [session.segment(slot)])
        positions, token_ids = session.advance(logits)
        if on_settled is not None and positions:
            on_settled(positions, token_ids, session.canvas.forwards - 1)
    return session.generation()


def _as_list(prompt_ids: Sequence[int] | Tensor) -> list[int]:
    if not isinstance(prompt_ids, Tensor):
        return list(prompt_ids)
    if prompt_ids.is_floating_point() or prompt_ids.dim() > 2 or (prompt_ids.dim() == 2 and len(prompt_ids) != 1):
        raise DecodingError(f"prompt: whole numbers of shape [n] or [1, n] are wanted, not {list(prompt_ids.shape)} of {prompt_ids.dtype}")
    return prompt_ids.flatten().tolist()


def check(model: Model, prompt_ids: Sequence[int], decoding: Decoding) -> tuple[int, tuple[int, ...]]:
    """Mask and stop ids of a request. Raises DecodingError when the settings do not fit the model, the prompt or each other."""
    strategy = decoding.strategy
    if not len(prompt_ids):
        raise DecodingError("prompt: empty; give at least one token")
    if min(prompt_ids) < 0 or max(prompt_ids) >= model.vocab_size:
        raise DecodingError(f"prompt: token ids must lie in 0 .. {model.vocab_size - 1}, the model's vocabulary")
    if (strategy == "ar") != (model.attention == "causal"):
        wanted = "needs a causal model" if strategy == "ar" else "needs a diffusion model"
        raise DecodingError(f"strategy: {strategy} {wanted}, this one is {model.attention}; its own strategy is {model.strategy}")
    if strategy in ("sdar", "fast_dllm_v2") and model.attention != "block_causal":
        raise DecodingError(f"strategy: {strategy} needs a block-causal model, this one is {model.attention}; its own is {model.strategy}")
    if decoding.remasking not in REMASKING[strategy]:
        allowed = ", ".join(name for name in REMASKING[strategy] if name) or "none"
        raise DecodingError(f"remasking: {decoding.remasking} is not for strategy {strategy}; allowed: {allowed}")
    if decoding.cache in ("prefix", "dual") and strategy not in ("fast_dllm", "fast_dllm_v2"):
        raise DecodingError(f"cache: {decoding.cache} is not for strategy {strategy}; use fast_dllm, or fast_dllm_v2 on its own models")
    if decoding.order is not None and strategy not in ("dream", "fast_dllm"):
        raise DecodingError(f"order: is not for strategy {strategy}; use dream")
    if decoding.factor is not None and strategy != "fast_dllm":
        raise DecodingError(f"factor: is not for strategy {strategy}; use fast_dllm")
    if decoding.approximate_prefix and (model.attention != "full" or not caches(decoding)):
        raise DecodingError(
            "approximate_prefix: is for full-attention models with a cache; the others share prefixes exactly, or keep no keys"
        )
    if decoding.tool_prefill is not None:
        if strategy == "ar":
            raise DecodingError("tool_prefill: an AR model cannot fill in a tool call before what comes before it")
        tool_prefill.check(decoding.tool_prefill, block_length(model, decoding))
    mask_id = model.mask_id if decoding.mask_id is None else decoding.mask_id
    if strategy == "ar":
        mask_id = 0
    elif mask_id is None:
        raise DecodingError("mask_id: the checkpoint names none within its vocabulary; give one")
    elif mask_id >= model.vocab_size:
        raise DecodingError(f"mask_id: {mask_id} is outside the vocabulary of {model.vocab_size}")
    return mask_id, model.stop_ids if decoding.stop_ids is None else tuple(decoding.stop_ids)


def caches(decoding: Decoding) -> bool:
    """Whether the strategy keeps keys and values between forwards."""
    return decoding.strategy not in ("llada", "dream", "fast_dllm") or decoding.cache in ("prefix", "dual")


def block_length(model: Model, decoding: Decoding) -> int:
    """Tokens per block under these settings: asked for, the model's own, or the strategy's published value."""
    if decoding.strategy not in BLOCKS:
        return decoding.max_new_tokens
    if decoding.block_length is not None:
        length = decoding.block_length
    else:
        length = (model.block_length if model.attention == "block_causal" else None) or BLOCKS[decoding.strategy]
    return length if decoding.strategy in GROWS else min(length, decoding.max_new_tokens)


def _length(model: Model, prompt_length: int, decoding: Decoding) -> int:
    """Positions the sequence may reach: whole blocks where it grows by blocks."""
    end = prompt_length + decoding.max_new_tokens
    if decoding.strategy not in GROWS:
        return end
    length = block_length(model, decoding)
    offset = prompt_length if decoding.strategy == "dllm_var" else 0
    return offset - (offset - end) // length * length


def _tags(model: Model, decoding: Decoding) -> tool_prefill.Tags | None:
    settings = decoding.tool_prefill
    if settings is None:
        return None
    return tool_prefill.Tags(
        settings,
        _tag_id(model, settings.open_id, "<tool_call>", "open_id"),
        _tag_id(model, settings.close_id, "</tool_call>", "close_id"),
    )


def _tag_id(model: Model, token_id: int | None, text: str, field: str) -> int:
    token_id = _token(model, text, field) if token_id is None else token_id
    if not 0 <= token_id < model.vocab_size:
        raise DecodingError(f"tool_prefill.{field}: {token_id} is outside the vocabulary of {model.vocab_size}")
    return token_id


def _token(model: Model, text: str, field: str) -> int:
    token_id = model.tokenizer.get_vocab().get(text)
    if token_id is None:
        raise DecodingError(f"tool_prefill.{field}: the tokenizer has no single token {text}; give its id")
    return int(token_id)
