"""The search agent's reply format: how it is written, how it is read, and the named ways in which it fails.

A reply is `<think>...</think>` followed by `<tool_call>{"name": "search", "arguments": {"query": ["..."]}}</tool_call>` or by
`<answer>...</answer>` (DLLM-Searcher section 4.4), the latter in published checkpoints between Qwen's box tokens. Replies are hostile:
reading takes linear time and bounded memory, and never raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dllm_agents import thoughts
from dllm_agents.tool_calls import ANSWER_TAGS, BOX_TAGS, CLOSE, OPEN, Span, call_text, read_tagged

EMPTY_OUTPUT = "empty output"
NO_TOOL_CALL = "no tool_call"
THINK_FORMAT_ERROR = "think format error"
TOOL_CALL_FORMAT_ERROR = "tool_call format error"
OTHER = "other"
FORMAT_FAILURES = (EMPTY_OUTPUT, NO_TOOL_CALL, THINK_FORMAT_ERROR, TOOL_CALL_FORMAT_ERROR, OTHER)
"""DLLM-Searcher Table 3, whose four classes sum to 422 of 500 replies, and the rest."""

RESPONSE = "<tool_response>"
MAX_REPLY_CHARACTERS = 65_536
MAX_CALL_CHARACTERS = 4_096
MAX_ANSWER_CHARACTERS = 2_048
MAX_QUERIES = 5
MAX_QUERY_CHARACTERS = 300

_END_TOKENS = re.compile(r"<\|[a-z_]{1,24}\|>|</s>")
_BROKEN_THINK = re.compile(r"</?th(?:i(?:n(?:k)?)?)?(?![a-z])")
_CALL_LIKE = re.compile(r"</?tools?(?:_calls?)?(?![a-z_])|</?function(?:_call)?(?![a-z_])")

# What `constrain` holds a reply to: all that `parse_reply` reads, but that no text, query or answer holds a "<" of its own, and a call is
# JSON with a name and arguments. Every query and answer has a character that is no blank in any reading.
_BLANK, _TEXT = r"[ \t\n\r]*", "[^<]*"
_THOUGHT = f"{_TEXT}(?:{thoughts.written(_TEXT)}{_TEXT})?"
_WRITTEN = r"[!#-;=-\[\]-~\u0100-\u167f\u3001-\ud7ff]"
_LETTERS = r"(?:[^\x00-\x1f\x22\\<]|\\[\x22\\/bfnrt])*"
_QUERY = f'"{_LETTERS}{_WRITTEN}{_LETTERS}"'
_QUERY_LIST = rf"(?:{_QUERY}|\[{_BLANK}{_QUERY}(?:{_BLANK},{_BLANK}{_QUERY}){{0,{MAX_QUERIES - 1}}}{_BLANK}\])"


def _object(*pairs: tuple[str, str]) -> str:
    inside = f"{_BLANK},{_BLANK}".join(f'"{key}"{_BLANK}:{_BLANK}{value}' for key, value in pairs)
    return rf"\{{{_BLANK}{inside}{_BLANK}\}}"


_PAIRS = (("name", '"search"'), ("arguments", _object(("query", _QUERY_LIST))))
_ACTIONS = (
    f"{OPEN}{_BLANK}(?:{_object(*_PAIRS)}|{_object(*reversed(_PAIRS))}){_BLANK}{CLOSE}{_THOUGHT}",
    f"<answer>{_TEXT}{_WRITTEN}{_TEXT}</answer>{_TEXT}",
)
REPLY_PATTERN = f"{_THOUGHT}(?:{'|'.join(_ACTIONS)})"


class Reply(NamedTuple):
    """A reply that was read: a thought, and either searches or an answer. `action` is the action's own text, tags included."""

    thought: str | None
    action: str
    queries: tuple[str, ...] = ()
    answer: str | None = None


def tool_call(queries: Sequence[str]) -> str:
    """The search call for `queries`, as the published format writes it."""
    return call_text({"name": "search", "arguments": {"query": list(queries)}})


def answer_text(answer: str) -> str:
    """The action that ends an episode with `answer`. The blanks make its first word the token it is in running text."""
    return f"<answer> {answer} </answer>"


def reply_text(thought: str, action: str, tool_first: bool = False) -> str:
    """A whole reply, which `parse_reply` reads back; `tool_first` puts the action before the thought (Searcher section 5.3.3)."""
    think = thoughts.written(thought)
    return f"{action}\n{think}" if tool_first else f"{think}\n{action}"


def parse_reply(text: str) -> Reply | str:
    """The reply that a text holds, or its format failure, one of FORMAT_FAILURES.

    The first action counts; what follows it is read only for a thought that stands right behind it. A tool response that the
    model wrote itself ends the reply, but for one inside the action. The thought may be absent: see `format_failure` for the stricter
    rule of the filter.
    """
    if len(text) > MAX_REPLY_CHARACTERS:
        return OTHER
    text = _without_marks(text).strip()
    invented, action = text.find(RESPONSE), _first_action(text)
    if invented >= 0 and not 0 <= action < invented:
        text = text[:invented].strip()
    if not text:
        return EMPTY_OUTPUT
    before, thought, rest = _leading_thought(text)
    start = _first_action(rest)
    if rest is None or _BROKEN_THINK.search(before) or _BROKEN_THINK.search(rest if start < 0 else rest[:start]):
        return THINK_FORMAT_ERROR
    if start < 0:
        return _without_action(thought, rest)
    read = _read_answer(rest[start:]) if rest.startswith("<answer>", start) else _read_call(rest[start:])
    if isinstance(read, str) or thought is not None:
        return read if isinstance(read, str) else read._replace(thought=thought)
    behind = _behind_action(rest[start:], read).partition(RESPONSE)[0].lstrip()
    if not behind.startswith(thoughts.OPEN):
        return read
    _, thought, tail = _leading_thought(behind)
    return THINK_FORMAT_ERROR if tail is None else read._replace(thought=thought)


def format_failure(text: str, require_thought: bool = False) -> str | None:
    """The class of DLLM-Searcher Table 3 (or "other") that a reply falls in; None for a well-formed one.

    With `require_thought` an absent or empty thought is a think format error and a call without its closing tag a tool_call format
    error, as in the filter of teacher trajectories.
    """
    reply = parse_reply(text)
    if isinstance(reply, str):
        return reply
    if require_thought and reply.queries and reply.action not in text:
        return TOOL_CALL_FORMAT_ERROR
    return THINK_FORMAT_ERROR if require_thought and not reply.thought else None


def complete_call(text: str) -> str | None:
    """The first call of a growing reply, with its tags, once it is closed; None while there is none outside an open thought."""
    start = text.find(OPEN)
    if start < 0 or thoughts.unclosed(text[:start]):
        return None
    span = read_tagged(text[start : start + MAX_CALL_CHARACTERS], final=False)
    return call_text(span.calls[0]) if isinstance(span, Span) else None


def _without_marks(text: str) -> str:
    """A reply without end tokens and with one spelling of an answer's tags; its first call stays as it was written."""
    start = text.find(OPEN)
    span = read_tagged(text[start:]) if start >= 0 else None
    start, end = (start, start + span.end) if isinstance(span, Span) else (len(text), len(text))
    parts = [text[:start], text[end:]]
    for boxed, tag in zip(BOX_TAGS, ANSWER_TAGS, strict=True):
        parts = [part.replace(boxed, tag) for part in parts]
    before, behind = (_END_TOKENS.sub("", part) for part in parts)
    return before + text[start:end] + behind


def _leading_thought(text: str) -> tuple[str, str | None, str | None]:
    """(text before, thought, text behind) of a think block that precedes the first action; the thought is None when there is none
    and text behind is None when the block is not closed or is nested."""
    thought, action = thoughts.first(text), _first_action(text)
    if thought is None or 0 <= action < len(thought.before):
        return "", None, text
    return ("", None, None) if thought.behind is None else thought


def _first_action(text: str | None) -> int:
    """Where the first call or answer opens; -1 when none does."""
    starts = [start for start in (text.find(OPEN), text.find("<answer>")) if start >= 0] if text else []
    return min(starts, default=-1)


def _without_action(thought: str | None, rest: str) -> str:
    if _CALL_LIKE.search(rest):
        return TOOL_CALL_FORMAT_ERROR
    return NO_TOOL_CALL if thought is not None else OTHER


def _read_answer(text: str) -> Reply | str:
    answer, closed, _ = text[len("<answer>") :].partition("</answer>")
    answer = answer.strip()
    if not closed or not answer or len(answer) > MAX_ANSWER_CHARACTERS or "<answer>" in answer:
        return OTHER
    return Reply(None, answer_text(answer), answer=answer)


def _behind_action(text: str, reply: Reply) -> str:
    """What follows the action that `text` begins with."""
    if reply.answer is not None:
        return text.partition("</answer>")[2]
    span = read_tagged(text)
    return text[span.end :] if isinstance(span, Span) else ""


def _read_call(text: str) -> Reply | str:
    span = read_tagged(text)
    queries = _queries(span.calls[0]) if isinstance(span, Span) and span.end <= MAX_CALL_CHARACTERS else ()
    if not isinstance(span, Span) or not queries:
        return TOOL_CALL_FORMAT_ERROR
    action = text[: span.end]
    return Reply(None, action if action.endswith(CLOSE) else call_text(span.calls[0]), queries=queries)


def _queries(call: Mapping[str, Any]) -> tuple[str, ...]:
    """The searches of a call; empty when it is not one of `search` with a query or a list of queries."""
    arguments = call["arguments"]
    if call["name"] != "search" or set(arguments) != {"query"}:
        return ()
    value = arguments["query"]
    queries = [value] if isinstance(value, str) else value
    if not isinstance(queries, list) or not 1 <= len(queries) <= MAX_QUERIES:
        return ()
    if not all(isinstance(query, str) and len(query) <= MAX_QUERY_CHARACTERS for query in queries):
        return ()
    # JSON can spell half a surrogate pair, which no engine can be sent.
    cleaned = tuple(query.encode("utf-8", "ignore").decode().strip() for query in queries)
    return cleaned if all(cleaned) else ()
