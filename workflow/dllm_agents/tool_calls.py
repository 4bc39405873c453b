"""Tool calls as models write them, read out of text that may still grow. The one reader of server, client, agents and analysis.

Read wherever their mark stands: `<tool_call>` with JSON (Hermes, Qwen) or with `<function=...>` (Qwen3-Coder), `[TOOL_CALLS]` (Mistral,
with a list of calls or with a name and its arguments) and `<|python_tag|>` (Llama). An answer that is nothing but JSON is read as calls
only where the checkpoint's template writes them so (`bare`). A call is read from its mark on by the JSON decoder, so that tags inside an
argument end nothing; it is closed by its tag, by an end token or by the end of the text.

Models are hostile: reading takes linear time and never raises. What cannot be read as a call stays text. What is read of a text
does not depend on the pieces in which it came.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dllm_agents.foreign import DEEPEST, depth

OPEN, CLOSE = "<tool_call>", "</tool_call>"
LIST_MARK, PYTHON_MARK = "[TOOL_CALLS]", "<|python_tag|>"
MARKS = (OPEN, LIST_MARK, PYTHON_MARK)
ANSWER_TAGS = ("<answer>", "</answer>")
BOX_TAGS = ("<|box_start|>", "<|box_end|>")
"""Tokens of Qwen's vocabulary, in which published search checkpoints enclose their answers."""
# Texts whose tokens must be kept in decoding, special or not, where calls are to be read.
KEPT = (*MARKS, CLOSE, "[ARGS]", "[CALL_ID]", *BOX_TAGS)

Call = dict[str, Any]
"""{name, arguments}: the function's name and its arguments as an object."""
Piece = str | Call

_MARK = re.compile("|".join(map(re.escape, MARKS)))
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_BESIDE = frozenset({"name", "id", "type", "index", *_ARGUMENTS})
_OUTSIDE, _INSIDE = re.compile(r'[{}\[\]"<]'), re.compile(r'["\\]')
_BLANK = re.compile(r"\s*")
_SEPARATOR = re.compile(r"\s*[,;]?\s*")
_END_TOKEN = re.compile(r"<\|[a-z_]{1,24}\|>|</s>|<eos>")
_END_TOKEN_BEGUN = re.compile(r"<(?:\|[a-z_]{0,24}\|?|/s?|e|eo|eos)?")
_NAME = re.compile(r"[\w.\-]+")
_CALL_ID, _ARGS = re.compile(r"\[CALL_ID\]\w*"), re.compile(r"\[ARGS\]")
_FUNCTION = re.compile(r"<function=([^>\s]+)\s*>")
_PARAMETER = re.compile(r"\s*<parameter=([^>]+)>\n?")
_PARAMETER_END = re.compile(r"\n?</parameter>(?=\s*(?:<parameter=|</function>\Z))")
_PYTHON_WORDS = {"True": True, "False": False, "None": None}
# Marks that run on to the end of the text, and ends of functions that are none: beyond these counts the rest is text.
MAX_UNCLOSED = MAX_FUNCTION_ENDS = 32


class Span(NamedTuple):
    """Calls that were read, and the index behind them."""

    calls: list[Call]
    end: int


class _More:
    """More text is needed to know."""


MORE = _More()
Outcome = Span | _More | None


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


# Line breaks inside strings are forgiven: models write programs into arguments.
_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite, strict=False)


def json_text(value: Any) -> str:
    """`value` as JSON that is valid UTF-8 too: half a surrogate pair, which JSON can spell and UTF-8 cannot, stays an escape."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text if text.isascii() or is_unicode(text) else json.dumps(value, allow_nan=False)


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold a text: half a surrogate pair it cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def call_of(value: Any, bare: bool = False) -> Call | None:
    """The call that a decoded JSON value is, or None. Arguments may stand under another name, as text, or, but for `bare`, be absent
    or empty where nothing else stands in their place."""
    if not isinstance(value, dict):
        return None
    if isinstance(inner := value.get("function"), dict) and set(value) <= {"function", "type", "id", "index"}:
        value = inner
    name, places = value.get("name"), [key for key in _ARGUMENTS if key in value]
    if not isinstance(name, str) or not name or not is_unicode(name) or len(places) > 1 or (bare and not places):
        return None
    arguments = value[places[0]] if places else {}
    if isinstance(arguments, str):
        arguments = decoded(arguments) if arguments.strip() else {}
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, dict) or (not arguments and not set(value) <= _BESIDE):
        return None
    return {"name": name, "arguments": arguments}


def calls_of(value: Any, bare: bool = False) -> list[Call] | None:
    """The calls of one object or of a list of them; None when one is no call, or there is none."""
    calls = [call_of(item, bare) for item in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call is not None] if calls and None not in calls else None


def decoded(text: str) -> Any:
    """The value of a JSON text; None when it is not JSON (or is null)."""
    try:
        value, end = _DECODER.raw_decode(text, _BLANK.match(text).end())  # type: ignore[union-attr]
    except (ValueError, RecursionError):
        return None
    return value if not text[end:].strip() and depth(value) <= DEEPEST else None


@dataclass
class _Scan:
    """Where a JSON object or list ends, found by its brackets and strings. Goes on where it stopped when there is more text."""

    start: int
    at: int
    depth: int = 0
    quoted: bool = False
    outcome: tuple[Any, int] | None = None
    broken: bool = False

    def read(self, text: str) -> tuple[Any, int] | _More | None:
        """(value, index behind it), MORE, or None when it is not JSON."""
        while self.outcome is None and not self.broken:
            match = (_INSIDE if self.quoted else _OUTSIDE).search(text, self.at)
            if match is None:
                self.at = len(text)
                return MORE
            if match[0] == "\\":
                if match.end() == len(text):
                    self.at = match.start()
                    return MORE
                self.at = match.end() + 1
                continue
            self.at = match.end()
            self._take(match[0], text)
        return self.outcome

    def _take(self, character: str, text: str) -> None:
        if character == '"':
            self.quoted = not self.quoted
        elif character == "<":
            self.broken = True
        else:
            self.depth += 1 if character in "{[" else -1
            self.broken = self.depth > DEEPEST
            if self.depth == 0:
                self._decode(text)

    def _decode(self, text: str) -> None:
        try:
            value, end = _DECODER.raw_decode(text, self.start)
        except (ValueError, RecursionError):
            self.broken = True
            return
        if end == self.at:
            self.outcome = (value, end)
        else:
            self.broken = True


class CallReader:
    """Takes the calls out of a text that grows. `push` and `finish` return pieces in order: str for content, dict for a call.

    `schemas` are the parameters of the offered functions by name: in forms without types (Qwen3-Coder's) they say what is a string.
    """

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]] | None = None, bare: bool = False) -> None:
        self._schemas = schemas or {}
        self._bare = bare
        self._text = ""
        self._scans: dict[int, _Scan] = {}
        self._tried: dict[int, tuple[int, int]] = {}
        self._unclosed = 0

    def push(self, text: str) -> list[Piece]:
        """The pieces that are certain with this text."""
        self._text += text
        return self._pieces(final=False)

    def finish(self) -> list[Piece]:
        """What is still held back, once no more text comes."""
        return self._pieces(final=True)

    def _pieces(self, final: bool) -> list[Piece]:
        pieces: list[Piece] = []
        passed = at = 0
        if self._bare:
            span = self._whole_answer(final)
            if isinstance(span, _More):
                return []
            self._bare = False
            if span is not None:
                self._text = ""
                return list(span.calls)
        while self._unclosed < MAX_UNCLOSED and (mark := _MARK.search(self._text, at)) is not None:
            outcome = self._after(mark[0], mark.end(), final)
            if isinstance(outcome, _More):
                return self._cut(pieces, passed, mark.start())
            at = mark.end()
            if outcome is not None:
                pieces += [self._text[passed : mark.start()], *outcome.calls]
                passed = at = outcome.end
        keep = 0 if final else held_back(self._text[at:], MARKS)
        return self._cut(pieces, passed, len(self._text) - keep)

    def _cut(self, pieces: list[Piece], passed: int, stop: int) -> list[Piece]:
        """The pieces with the text up to `stop`; the rest is kept."""
        pieces.append(self._text[passed:stop])
        self._text = self._text[stop:]
        if stop:
            self._scans.clear()
            self._tried.clear()
        return [piece for piece in pieces if piece]

    def _after(self, mark: str, at: int, final: bool) -> Outcome:
        """The calls behind a mark; None when there are none and the mark is text."""
        at = _skip(_BLANK, self._text, at)
        if at == len(self._text):
            return None if final else MORE
        if mark == OPEN:
            xml = _begins(self._text, at, "<function=", final)
            return xml if isinstance(xml, _More) else self._functions(at, final) if xml else self._objects(at, final, tagged=True)
        if mark == LIST_MARK and self._text[at] not in "[{":
            return self._named(at, final)
        return self._objects(at, final)

    def _objects(self, at: int, final: bool, tagged: bool = False, bare: bool = False) -> Outcome:
        """JSON calls one after another."""
        calls: list[Call] = []
        end = at
        while at < len(self._text) and self._text[at] in "{[" and not self._text.startswith(LIST_MARK, at):
            value = self._json(at, final)
            if isinstance(value, _More):
                return MORE
            read = calls_of(value[0], bare) if value is not None else None
            if value is None or read is None:
                return Span(calls, end) if calls and not (tagged or bare) else None
            calls += read
            end, at = value[1], _skip(_SEPARATOR, self._text, value[1])
        if not calls:
            return None
        if at == len(self._text) and not final:
            return MORE
        return self._closed(calls, end, final) if tagged else Span(calls, end)

    def _closed(self, calls: list[Call], end: int, final: bool) -> Outcome:
        """Calls between tags once they are closed: by the tag, by the next one, by an end token or by the end of the text."""
        at = _skip(_BLANK, self._text, end)
        rest = self._text[at : at + 32]
        if rest.startswith(CLOSE):
            return Span(calls, at + len(CLOSE))
        if rest.startswith(OPEN) or _END_TOKEN.match(rest):
            return Span(calls, at)
        if CLOSE.startswith(rest):
            return Span(calls, len(self._text)) if final else MORE
        if OPEN.startswith(rest) or _END_TOKEN_BEGUN.fullmatch(rest):
            return Span(calls, at) if final else MORE
        return None

    def _named(self, at: int, final: bool) -> Outcome:
        """Mistral's newer form: name, id and argument marks where they stand, and the arguments."""
        name = _NAME.match(self._text, at)
        if name is None:
            return None
        at = name.end()
        for mark, pattern in (("[CALL_ID]", _CALL_ID), ("[ARGS]", _ARGS)):
            stands = _begins(self._text, at, mark, final)
            if isinstance(stands, _More):
                return MORE
            at = _skip(pattern, self._text, at) if stands else at
        at = _skip(_BLANK, self._text, at)
        if at == len(self._text):
            return None if final else MORE
        value = self._json(at, final) if self._text[at] == "{" else None
        if value is None or isinstance(value, _More):
            return value
        return Span([{"name": name[0], "arguments": value[0]}], value[1])

    def _functions(self, at: int, final: bool) -> Outcome:
        """Qwen3-Coder's form: functions one after another, closed as the others between tags."""
        calls: list[Call] = []
        while True:
            begins = _begins(self._text, at, "<function=", final)
            if isinstance(begins, _More):
                return MORE
            if not begins:
                return self._closed(calls, at, final) if calls else None
            span = self._function(at)
            if span is None:
                return None if final else MORE
            calls += span.calls
            at = _skip(_BLANK, self._text, span.end)
            if at == len(self._text) and not final:
                return MORE

    def _function(self, at: int) -> Span | None:
        """The first `<function=...>...</function>` from `at` on whose parameters can be read."""
        tries, end = self._tried.get(at, (0, at))
        while tries < MAX_FUNCTION_ENDS and (closing := self._text.find("</function>", end)) >= 0:
            tries, end = tries + 1, closing + len("</function>")
            call = self._xml_call(self._text[at:end])
            if call is not None:
                return Span([call], end)
            self._tried[at] = tries, end
        return None

    def _xml_call(self, block: str) -> Call | None:
        function = _FUNCTION.match(block)
        if function is None:
            return None
        declared = self._schemas.get(function[1], {}).get("properties")
        arguments, at = {}, function.end()
        while (parameter := _PARAMETER.match(block, at)) is not None:
            ends = _PARAMETER_END.search(block, parameter.end())
            if ends is None:
                return None
            schema = declared.get(parameter[1]) if isinstance(declared, dict) else None
            arguments[parameter[1]] = _typed(block[parameter.end() : ends.start()], schema)
            at = ends.end()
        return {"name": function[1], "arguments": arguments} if block[at:].strip() == "</function>" else None

    def _whole_answer(self, final: bool) -> Outcome:
        """The calls of an answer that is nothing but JSON."""
        at = _skip(_BLANK, self._text, 0)
        if at == len(self._text):
            return None if final else MORE
        span = self._objects(at, final, bare=True)
        if isinstance(span, Span):
            ended = not self._text[span.end :].strip(" \t\r\n;")
            return span if ended and final else MORE if ended else None
        return span

    def _json(self, at: int, final: bool) -> tuple[Any, int] | _More | None:
        read = self._scans.setdefault(at, _Scan(at, at)).read(self._text)
        if not final or not isinstance(read, _More):
            return read
        self._unclosed += 1
        return None


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _begins(text: str, at: int, string: str, final: bool) -> bool | _More:
    """Whether `string` stands at `at`; MORE while the text ends before that is clear."""
    here = text[at : at + len(string)]
    return True if here == string else MORE if not final and string.startswith(here) else False


def _typed(text: str, schema: Any) -> Any:
    """A parameter's value: text where the schema says so, else what it is as JSON or as a word of Python's, else text."""
    if isinstance(schema, dict) and schema.get("type") == "string":
        return text
    if text.strip() in _PYTHON_WORDS:
        return _PYTHON_WORDS[text.strip()]
    value = decoded(text)
    return text if value is None and text.strip() != "null" else value


def held_back(text: str, strings: Sequence[str]) -> int:
    """Length of the longest end of `text` that one of the strings begins with."""
    longest = max((len(string) for string in strings), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(string.startswith(text[-length:]) for string in strings):
            return length
    return 0


def read(text: str, schemas: Mapping[str, Mapping[str, Any]] | None = None, bare: bool = False) -> tuple[str, list[Call]]:
    """(content, calls) of a whole text."""
    reader = CallReader(schemas, bare)
    pieces = reader.push(text) + reader.finish()
    return "".join(piece for piece in pieces if isinstance(piece, str)), [piece for piece in pieces if isinstance(piece, dict)]


def read_tagged(text: str, final: bool = True) -> Outcome:
    """The calls of a text that begins with `<tool_call>`, up to the end of its tag. Unless `final`, more text may come."""
    reader = CallReader()
    reader._text = text
    return reader._after(OPEN, len(OPEN), final)


def call_text(call: Mapping[str, Any]) -> str:
    """A call between its tags, as prompts write it."""
    return OPEN + json_text({"name": call["name"], "arguments": call["arguments"]}) + CLOSE
