"""Settings made complete for a checkpoint: every default filled in once, every contradiction one line that names the field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from dllm_agents.decoding import tool_prefill
from dllm_agents.decoding.constraints import CACHE, ConstraintError, TokenAutomaton
from dllm_agents.decoding.settings import Decoding, DecodingError, ToolPrefill
from dllm_agents.decoding.strategies import Strategy, strategy_of
from dllm_agents.tool_calls import ANSWER_TAGS, BOX_TAGS, CLOSE, OPEN

if TYPE_CHECKING:
    from dllm_agents.models import Model


TAGS = {"tool_call": [(OPEN, CLOSE)], "answer": [ANSWER_TAGS, BOX_TAGS]}
# Below the one every draw is the best token, above the other all tokens are equal; in between the tempered logits are finite.
COLDEST, HOTTEST = 1e-6, 1e6


def resolved(decoding: Decoding, model: Model) -> Decoding:
    """`decoding` as it is carried out on `model`; what is resolved resolves to itself. Raises DecodingError."""
    name = decoding.strategy or model.strategy
    strategy = strategy_of(name)
    check_model(name, strategy, model)
    _check_fields(name, strategy, decoding)
    length = _block_length(strategy, decoding, model)
    filled: dict[str, Any] = {
        "strategy": name,
        "block_length": length,
        "remasking": decoding.remasking or strategy.remasking[0],
        "cache": (decoding.cache or "none") if strategy.caches else None,
        "steps": decoding.steps if length is None else _steps(decoding, length),
    }
    # Some defaults depend on what was asked for.
    filled |= strategy.complete(decoding.model_copy(update=filled), model)
    if decoding.threshold is None and filled["remasking"] != "sequential":
        filled.setdefault("threshold", strategy.threshold)
    if length is not None:
        blocks = -(-decoding.max_new_tokens // length)
        filled["steps_per_block"] = length if filled["steps"] is None else max(1, filled["steps"] // blocks)
        filled["steps"] = filled["steps"] or length * blocks
        if strategy.sub_block_length is not None:
            filled["sub_block_length"] = min(decoding.sub_block_length or strategy.sub_block_length, length)
    if decoding.temperature > 0:
        filled["temperature"] = min(max(decoding.temperature, COLDEST), HOTTEST)
    filled["mask_id"] = None if model.attention == "causal" else _mask_id(decoding, model)
    filled["stop_ids"] = list(model.stop_ids if decoding.stop_ids is None else decoding.stop_ids)
    if decoding.tool_prefill is not None:
        filled["tool_prefill"] = _with_tags(decoding.tool_prefill, model, length or decoding.max_new_tokens)
    filled["constraint_rule"] = None if decoding.constraint is None else decoding.constraint_rule or "mask"
    settled = decoding.model_copy(update=filled)
    if settled.constraint is not None:
        _check_room(automaton(settled, model), settled)
    return settled


def automaton(decoding: Decoding, model: Model) -> TokenAutomaton:
    """The automaton of resolved settings' constraint over the model's tokens, from the cache where it is there.

    Raises ConstraintError.
    """
    return CACHE.automaton(decoding.constraint, model.tokenizer, model.vocab_size, decoding.stop_ids or (), decoding.mask_id)


def _check_room(language: TokenAutomaton, decoding: Decoding) -> None:
    if language.shortest > decoding.max_new_tokens:
        reason = f"{decoding.max_new_tokens} are too few; the shortest answer that matches has {language.shortest} tokens"
        raise ConstraintError("max_tokens_too_small", "", reason, "max_new_tokens")
    prefill = decoding.tool_prefill
    if prefill is None or prefill.open_id is None or prefill.close_id is None:
        return
    room = prefill.close - prefill.open - 1
    states = language.forward(language.reachable, language.kind(prefill.open_id, padded=True), padded=True)
    ends = language.backward(language.within(0), language.kind(prefill.close_id, padded=False))
    needed = next((length for length in range(language.states) if language.spanned(states, length) & ends), None)
    if needed is None:
        reason = "no answer that matches has these tags; with tool_prefill it must be a list of tools"
        raise ConstraintError("tool_prefill_with_constraint", "", reason, "tool_prefill")
    if needed > room:
        reason = f"{room} places between the tags are too few; the shortest call has {needed} tokens"
        raise ConstraintError("tool_prefill_too_short", "", reason, "tool_prefill")


class Weights(Protocol):
    """What decides whether a strategy can decode a checkpoint."""

    @property
    def attention(self) -> str: ...
    @property
    def shift(self) -> bool: ...
    @property
    def strategy(self) -> str: ...


def check_model(name: str, strategy: Strategy, model: Weights) -> None:
    """Raise DecodingError when a strategy cannot decode a checkpoint."""
    if model.attention not in strategy.attention:
        kinds = " or ".join(kind.replace("_", "-") for kind in strategy.attention)
        raise DecodingError(f"strategy: {name} needs a {kinds} model, this one is {model.attention}; its own strategy is {model.strategy}")
    if strategy.shift is not None and model.shift != strategy.shift:
        kinds = "with" if strategy.shift else "without"
        raise DecodingError(f"strategy: {name} needs a model {kinds} logit shift; this one's own strategy is {model.strategy}")


def _check_fields(name: str, strategy: Strategy, decoding: Decoding) -> None:
    def refuse(field: str, allowed: str) -> DecodingError:
        return DecodingError(f"{field}: {getattr(decoding, field)} is not for strategy {name}; {allowed}")

    if decoding.remasking is not None and decoding.remasking not in strategy.remasking:
        raise refuse("remasking", f"allowed: {', '.join(choice for choice in strategy.remasking if choice) or 'none'}")
    if decoding.cache is not None and decoding.cache not in (strategy.caches or ("none",)):
        raise refuse("cache", f"allowed: {', '.join(strategy.caches) or 'none'}; fast_dllm has prefix and dual")
    for field in ("order", "factor"):
        if getattr(decoding, field) is not None and field not in strategy.fields:
            raise refuse(field, f"use {'dream' if field == 'order' else 'fast_dllm'}")
    if decoding.refresh_prompt is not None and (decoding.cache not in ("prefix", "dual") or "dual" not in strategy.caches):
        raise refuse("refresh_prompt", "it needs fast_dllm with cache prefix or dual")
    if decoding.fill_prompt and not strategy.aligned:
        raise refuse("fill_prompt", "it counts no blocks from the prompt's beginning")
    if decoding.steps_per_block is not None and strategy.block_length is None:
        raise refuse("steps_per_block", "it decodes no blocks; use steps")
    if decoding.tool_prefill is not None and name == "ar":
        raise DecodingError("tool_prefill: an AR model cannot fill in a tool call before what comes before it")


def _block_length(strategy: Strategy, decoding: Decoding, model: Model) -> int | None:
    if strategy.block_length is None:
        return None
    own = model.block_length if strategy.grows else None
    length = decoding.block_length or own or strategy.block_length
    return length if strategy.grows else min(length, decoding.max_new_tokens)


def _steps(decoding: Decoding, block_length: int) -> int | None:
    """Denoising steps over all blocks, from either setting."""
    blocks = -(-decoding.max_new_tokens // block_length)
    if decoding.steps_per_block is None:
        return decoding.steps
    if decoding.steps is not None and max(1, decoding.steps // blocks) != decoding.steps_per_block:
        raise DecodingError(
            f"steps: {decoding.steps} over {blocks} blocks are {max(1, decoding.steps // blocks)} a block, "
            f"steps_per_block says {decoding.steps_per_block}; give one of them"
        )
    return decoding.steps or decoding.steps_per_block * blocks


def _mask_id(decoding: Decoding, model: Model) -> int:
    mask_id = model.mask_id if decoding.mask_id is None else decoding.mask_id
    if mask_id is None:
        raise DecodingError("mask_id: the checkpoint names none within its vocabulary; give one")
    if mask_id >= model.vocab_size:
        raise DecodingError(f"mask_id: {mask_id} is outside the vocabulary of {model.vocab_size}")
    return mask_id


def _with_tags(settings: ToolPrefill, model: Model, block_length: int) -> ToolPrefill:
    """The settings with the ids of both tags."""
    tool_prefill.check(settings, block_length)
    opening, closing = settings.open_id, settings.close_id
    if opening is None or closing is None:
        vocabulary, kinds = model.tokenizer.get_vocab(), TAGS[settings.tags]
        tags = next((pair for pair in kinds if all(tag in vocabulary for tag in pair)), kinds[0])
        opening, closing = (own if own is not None else vocabulary.get(tag) for own, tag in zip((opening, closing), tags, strict=True))
    ids = {"open_id": _tag_id(model, opening, f"<{settings.tags}>", "open_id")}
    return settings.model_copy(update=ids | {"close_id": _tag_id(model, closing, f"</{settings.tags}>", "close_id")})


def _tag_id(model: Model, token_id: int | None, text: str, field: str) -> int:
    if token_id is None:
        raise DecodingError(f"tool_prefill.{field}: the tokenizer has no single token {text}; give its id")
    if not 0 <= token_id < model.vocab_size:
        raise DecodingError(f"tool_prefill.{field}: {token_id} is outside the vocabulary of {model.vocab_size}")
    return int(token_id)
