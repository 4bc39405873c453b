"""What a reply gives out, and when: the settled prefix, calls between their tags, never what lies behind a stop id."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_agents.engine.engine import Unmasked
from dllm_agents.serving.reply import Reply
from dllm_agents.serving.text import CLOSE, OPEN, Splitter

STOP, OPENING, CLOSING = 0, 1, 2
WORDS = {STOP: "", OPENING: OPEN, CLOSING: CLOSE, 3: "a", 4: "b", 5: '{"name":', 6: '"f"}'}


def reply(**options: Any) -> Reply:
    return Reply(lambda ids: "".join(WORDS[token] for token in ids), Splitter(tools=True), frozenset([STOP]), **options)


def whole(token_ids: list[int], steps: list[int], nfe: int) -> Any:
    return SimpleNamespace(token_ids=token_ids, reveal_step=steps, confidence=[1.0] * len(steps), nfe=nfe, finish_reason="stop")


def test_text_waits_for_what_stands_before_it() -> None:
    answer = reply()
    assert answer.settle(Unmasked([1], [4], 0)) == []
    assert answer.settle(Unmasked([0], [3], 1)) == ["a", "b"]
    assert answer.finish(whole([3, 4], [1, 0], 2)) == []
    assert (answer.token_ids, answer.reveal_step, answer.nfe, answer.finish_reason) == ([3, 4], [1, 0], 2, "stop")


def test_nothing_behind_a_stop_id_is_given_out() -> None:
    answer = reply()
    assert answer.settle(Unmasked([0, 1, 2], [3, STOP, 4], 0)) == ["a"]
    assert answer.finish(whole([3], [0], 1)) == [] and answer.token_ids == [3]


def test_stop_ids_before_the_closing_tag_are_padding() -> None:
    """A thought shorter than its room, then a call shorter than its room (P-ReAct): the answer goes on to the closing tag."""
    answer = reply(tags=(OPENING, CLOSING))
    call = {"name": "f", "arguments": {}}
    assert answer.settle(Unmasked([2, 6], [OPENING, CLOSING], 0)) == []
    assert answer.settle(Unmasked([3, 4, 5], [5, 6, STOP], 1)) == [call]
    assert answer.settle(Unmasked([0, 1], [3, STOP], 2)) == ["a"]
    assert answer.finish(whole([3, OPENING, 5, 6, CLOSING], [2, 0, 1, 1, 0], 3)) == []
    assert answer.token_ids == [3, OPENING, 5, 6, CLOSING] and answer.finish_reason == "tool_calls"


def test_without_settled_events_the_end_gives_everything() -> None:
    answer = reply()
    pieces = answer.finish(whole([3, OPENING, 5, 6, CLOSING, 4], [0] * 6, 1))
    assert pieces == ["a", {"name": "f", "arguments": {}}, "b"] and answer.finish_reason == "tool_calls" and answer.nfe == 1


WORDS_OF_CALLS = {
    7: '{"name": "f", "arguments": {}}',
    8: '{"name": "g", "arguments": {"x": "',
    9: '"}}',
    10: CLOSE,
    11: OPEN,
    12: "[TOOL_CALLS]",
    13: "h",
    14: "[ARGS]",
    15: '{"a": "[TOOL_CALLS]"}',
    16: "<|python_tag|>",
    17: "<function=k>",
    18: "<parameter=a>\n1\n</parameter>",
    19: "</function>",
    20: "; ",
}
CHUNKS = [
    *([token] for token in (OPENING, CLOSING, 3, 4, 7, 8, 9, 10, 11, 12, 16)),
    [OPENING, 7, CLOSING],
    [OPENING, 8, 9, CLOSING],
    [12, 13, 14, 15],
    [12, 13, 15],
    [16, 7, 20, 8, 9],
    [OPENING, 17, 18, 19, CLOSING],
    [11, 17, 19, 10],
]


def said(pieces: list[Any]) -> tuple[str, list[Any]]:
    """(text, calls in an order of their own): a call that is given early stands before its place."""
    calls = [piece for piece in pieces if isinstance(piece, dict)]
    return "".join(piece for piece in pieces if isinstance(piece, str)), sorted(calls, key=str)


@settings(max_examples=300, deadline=None)
@given(
    chunks=st.lists(st.sampled_from(CHUNKS), max_size=7),
    data=st.data(),
    tagged=st.booleans(),
    bare=st.booleans(),
)
def test_no_order_of_unmasking_changes_what_is_said(chunks: list[list[int]], data: Any, tagged: bool, bare: bool) -> None:
    words, token_ids = WORDS | WORDS_OF_CALLS, [token for chunk in chunks for token in chunk]

    def fresh() -> Reply:
        decode = lambda ids: "".join(words[token] for token in ids)  # noqa: E731
        return Reply(decode, Splitter(tools=True, bare=bare), frozenset([STOP]), (OPENING, CLOSING) if tagged else None)

    order = data.draw(st.permutations(range(len(token_ids))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(order)), max_size=5)))
    groups = [sorted(order[start:stop]) for start, stop in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    steps = [0] * len(token_ids)
    answer, pieces = fresh(), []
    for step, group in enumerate(groups):
        for place in group:
            steps[place] = step
        pieces += answer.settle(Unmasked(list(group), [token_ids[place] for place in group], step))
    pieces += answer.finish(whole(token_ids, steps, len(groups)))
    assert said(pieces) == said(fresh().finish(whole(token_ids, steps, len(groups))))
