"""Replies in the tags of a dialect, translated to ours so that `search_reply.parse_reply` stays the only reader of hostile replies."""

from __future__ import annotations

from collections.abc import Sequence

from dllm_agents import thoughts
from dllm_agents.benchmarks.search import Passage, plain
from dllm_agents.benchmarks.search_reply import (
    MAX_REPLY_CHARACTERS,
    OTHER,
    TOOL_CALL_FORMAT_ERROR,
    Reply,
    answer_text,
    parse_reply,
    tool_call,
)
from dllm_agents.config.dialects import Dialect

MAX_PASSAGE_CHARACTERS = 500
NO_RESULTS = "No results."


def cut(dialect: Dialect, text: str) -> str | None:
    """A reply up to and including its dialect's stop; None before a stop is reached. Once a prefix is cut, longer texts are cut alike."""
    closing = (dialect.call[1], dialect.answer[1])
    opened = _first(text, (dialect.call[0], dialect.answer[0]))
    ends = []
    for stop in dialect.stop:
        at = text.find(stop, opened if stop in closing and opened >= 0 else 0)
        if at >= 0 and (stop not in closing or opened >= 0):
            ends.append(at + len(stop) * (stop in closing))
    return text[: min(ends)] if ends else None


def read(dialect: Dialect, text: str, whole: bool = True) -> Reply | str:
    """The call or answer of a reply, or its format failure. A `whole` reply ended by itself or at a stop, whose tag the server may leave
    out; a reply cut at its token limit is not whole, and its open tag stays open."""
    if len(text) > MAX_REPLY_CHARACTERS:
        return OTHER
    ended = cut(dialect, text)
    text = text if ended is None else ended
    start = _first(text, (dialect.call[0], dialect.answer[0]))
    if start < 0:
        return parse_reply(text)
    kind = dialect.call if text.startswith(dialect.call[0], start) else dialect.answer
    body, closed, _ = text[start + len(kind[0]) :].partition(kind[1])
    if kind is dialect.call and not dialect.query:
        action = text[start:]
    elif not closed and (ended is not None or not whole or kind[1] not in dialect.stop):
        return TOOL_CALL_FORMAT_ERROR if kind is dialect.call else OTHER
    else:
        action = answer_text(body.strip()) if kind is dialect.answer else tool_call([body.strip()])
    reply = parse_reply(action)
    thought = _thought(text[:start])
    return reply._replace(thought=thought) if isinstance(reply, Reply) else reply


def closed(dialect: Dialect, text: str) -> str:
    """A reply up to its stop, with the closing tag added if the server left it out."""
    if (ended := cut(dialect, text)) is not None:
        return ended
    opened = max((dialect.call, dialect.answer), key=lambda pair: text.rfind(pair[0]))
    return text + opened[1] if opened[0] in text and opened[1] in dialect.stop else text


def block(dialect: Dialect, hits: Sequence[Sequence[Passage]]) -> str:
    """The results of a call's queries as they come back to the model. Tags inside a passage are removed."""
    ranked = enumerate((passage for passages in hits for passage in passages), 1)
    lines = [
        dialect.passage.format(rank=rank, title=_untagged(dialect, passage.title), text=_untagged(dialect, passage.text))
        for rank, passage in ranked
    ]
    return wrapped(dialect, "\n".join(lines) or NO_RESULTS)


def wrapped(dialect: Dialect, results: str) -> str:
    """Text in the dialect's block of results."""
    return dialect.results.replace("{results}", results)


def _untagged(dialect: Dialect, text: str) -> str:
    for tag in (*dialect.call, *dialect.answer[:1], *dialect.results.split("{results}")):
        text = text.replace(tag.strip(), " ") if tag.strip() else text
    return plain(text, MAX_PASSAGE_CHARACTERS)


def _first(text: str, tags: Sequence[str]) -> int:
    """The position of the first of some tags; -1 if there is none."""
    return min((at for tag in tags if (at := text.find(tag)) >= 0), default=-1)


def _thought(text: str) -> str | None:
    return text.replace(thoughts.OPEN, "").replace(thoughts.CLOSE, "").strip() or None
