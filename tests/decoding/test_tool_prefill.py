"""P-ReAct: tags where they were asked for, the call before the thought, padding defined, decided positions left alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dllm_agents.decoding import Decoding, Generation, ToolPrefill, generate
from dllm_agents.decoding.canvas import Canvas
from dllm_agents.decoding.settings import DecodingError
from dllm_agents.decoding.tool_prefill import Tags

OPEN, CLOSE, BLOCK = 1, 2, 16


def tags(**changes: Any) -> ToolPrefill:
    return ToolPrefill(**{"open": 7, "close": 14, "bias": 10.0, "open_id": OPEN, "close_id": CLOSE, **changes})


def decode(model: Any, ids: list[int], strategy: Any, settings: ToolPrefill | None, **changes: Any) -> Generation:
    options = {"max_new_tokens": BLOCK, "block_length": BLOCK, "stop_ids": [], **changes}
    return generate(model, ids, Decoding(strategy=strategy, tool_prefill=settings, **options))


@pytest.mark.parametrize(
    "model_type, strategy, options",
    [
        ("llada", "llada", {}),
        ("llada", "fast_dllm", {"steps": BLOCK, "cache": "dual"}),
        ("llada", "dllm_var", {"threshold": 1.0}),
        ("Dream", "dream", {"order": "maskgit_plus"}),
        ("sdar", "sdar", {"steps": BLOCK, "remasking": "low_confidence_static"}),
    ],
)
def test_the_call_is_decided_before_the_thought(pair: Any, prompt: Any, model_type: str, strategy: Any, options: dict[str, Any]) -> None:
    out = decode(pair(model_type).model, prompt(16), strategy, tags(), **options)
    assert (out.token_ids[7], out.token_ids[14]) == (OPEN, CLOSE)
    inside, outside = out.reveal_step[8:14], [*out.reveal_step[:7], out.reveal_step[15]]
    assert max(inside) < min(outside)
    assert out.finish_reason == "stop"


def test_without_bias_the_order_is_the_models_own(pair: Any, prompt: Any) -> None:
    out = decode(pair("llada").model, prompt(16), "llada", tags(bias=0.0))
    assert max(out.reveal_step[8:14]) > min(out.reveal_step[:7])


def test_the_span_can_be_everything_after_the_opening_tag(pair: Any, prompt: Any) -> None:
    out = decode(pair("llada").model, prompt(16), "llada", tags(span="after_open"))
    assert max(*out.reveal_step[8:14], out.reveal_step[15]) < min(out.reveal_step[:7])


def test_the_turn_ends_with_the_block(pair: Any, prompt: Any) -> None:
    out = decode(pair("llada").model, prompt(16), "llada", tags(), max_new_tokens=2 * BLOCK)
    assert len(out.token_ids) == BLOCK


def test_stop_ids_before_the_closing_tag_are_padding(pair: Any, prompt: Any) -> None:
    free = decode(pair("llada").model, prompt(16), "llada", tags())
    for stop in {free.token_ids[9], free.token_ids[3]} - {OPEN, CLOSE}:
        padded = decode(pair("llada").model, prompt(16), "llada", tags(), stop_ids=[stop])
        assert padded.token_ids[: padded.token_ids.index(CLOSE) + 1] == [token for token in free.token_ids[:15] if token != stop]
        assert len(padded.reveal_step) == len(padded.token_ids)


def test_where_the_prompt_covers_the_opening_place_the_next_block_takes_the_tags(pair: Any, prompt: Any) -> None:
    options = {"steps": 3 * BLOCK, "remasking": "low_confidence_static", "max_new_tokens": 3 * BLOCK}
    out = decode(pair("sdar").model, prompt(16 + 9), "sdar", tags(), **options)
    assert out.token_ids[7 + 7] == OPEN and out.token_ids[7 + 14] == CLOSE and len(out.token_ids) == 7 + BLOCK


def test_a_prompt_that_is_filled_up_leaves_the_first_block_to_the_answer(pair: Any, prompt: Any, monkeypatch: Any) -> None:
    model = pair("sdar").model
    monkeypatch.setitem(model.__dict__, "tokenizer", SimpleNamespace(pad_token_id=None, eos_token_id=5))
    options = {"steps": 3 * BLOCK, "remasking": "low_confidence_static", "max_new_tokens": 3 * BLOCK}
    out = decode(model, prompt(16 + 9), "sdar", tags(), fill_prompt=True, **options)
    assert (out.token_ids[7], out.token_ids[14], len(out.token_ids)) == (OPEN, CLOSE, BLOCK)
    by_hand = decode(model, [5] * 7 + list(prompt(16 + 9)), "sdar", tags(), **options)
    assert (out.token_ids, out.reveal_step) == (by_hand.token_ids, by_hand.reveal_step)
    with pytest.raises(DecodingError, match="fill_prompt: True is not for strategy llada"):
        decode(pair("llada").model, prompt(16), "llada", None, fill_prompt=True)


def test_the_rule_predicted_looks_once_and_may_leave_the_turn_alone(pair: Any, prompt: Any) -> None:
    model = pair("llada").model
    plain = decode(model, prompt(16), "llada", None)
    absent = next(token for token in range(3, 100) if token not in plain.token_ids)
    declined = decode(model, prompt(16), "llada", tags(rule="predicted", open_id=absent))
    if absent not in declined.token_ids:
        assert declined.token_ids == plain.token_ids and declined.nfe == plain.nfe + 1
    first = plain.token_ids[plain.reveal_step.index(0)]
    taken = decode(model, prompt(16), "llada", tags(rule="predicted", open_id=first))
    assert taken.token_ids[7] == first and taken.token_ids[14] == CLOSE


def test_the_turn_rule_says_which_tags_a_turn_gets() -> None:
    def kinds(rule: Any) -> list[str | None]:
        on_turns = [ToolPrefill(rule=rule, tool_turns=3).on_turn(turn, 4) for turn in range(5)]
        return [prefill and prefill.tags for prefill in on_turns]

    assert kinds("always") == kinds("predicted") == ["tool_call"] * 4 + [None]
    assert kinds("tool_then_answer") == ["tool_call"] * 3 + ["answer"] * 2
    answering = ToolPrefill(rule="tool_then_answer", open_id=5, close_id=6).on_turn(3, 4)
    assert answering is not None and (answering.rule, answering.open_id, answering.close_id) == ("always", None, None)


def test_a_request_knows_no_turns(pair: Any, prompt: Any) -> None:
    with pytest.raises(DecodingError, match="tool_prefill.rule: tool_then_answer is for the turns of a search agent"):
        decode(pair("llada").model, prompt(16), "llada", tags(rule="tool_then_answer"))


@pytest.mark.parametrize("texts", [("<answer>", "</answer>"), ("<|box_start|>", "<|box_end|>")])
def test_an_answer_stands_between_the_tags_that_the_checkpoint_has(texts: Any, pair: Any, prompt: Any, monkeypatch: Any) -> None:
    model = pair("llada").model
    tokenizer = SimpleNamespace(get_vocab=lambda: dict(zip(texts, (41, 42), strict=True)))
    monkeypatch.setitem(model.__dict__, "tokenizer", tokenizer)
    out = decode(model, prompt(16), "llada", tags(tags="answer", open_id=None, close_id=None))
    assert (out.token_ids[7], out.token_ids[14]) == (41, 42)


def test_the_bias_reaches_masked_positions_of_the_span_only() -> None:
    canvas = Canvas([9] * 4, 4 + BLOCK, mask_id=0)
    placed = Tags(tags(bias=0.5))
    placed.place(canvas, 4, 4 + BLOCK)
    positions = canvas.masked(4, 4 + BLOCK)
    bias = placed.bias_of(positions)
    assert bias is not None
    assert dict(zip(positions.tolist(), bias.tolist(), strict=True)) == {
        p: (0.5 if 12 <= p < 18 else 0.0) for p in range(4, 20) if p not in (11, 18)
    }


def test_the_reported_confidence_is_the_models_own(pair: Any, prompt: Any) -> None:
    out = decode(pair("llada").model, prompt(16), "llada", tags(bias=5.0))
    assert all(0 <= surety <= 1 for surety in out.confidence) and out.confidence[7] == 1.0
