"""Answers as servers lay them out: content as text or parts, calls with arguments as text or objects, streams in any of their manners.

What arrived is kept: an answer is given up only where it cannot be told what it says.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

from dllm_agents import foreign
from dllm_agents.tool_calls import decoded

T = TypeVar("T")
MAX_REPLY_BYTES = 16 << 20
MAX_CALLS = 128
MAX_COUNT = 2**31  # of tokens and the like; a larger number is none
# What ends a line of a stream; Python's own lines end at more than that.
_LINE_END = re.compile(r"\r\n|\n|\r")
_BESIDE = re.compile(r":|event:|id:|retry:")


class BadReply(Exception):
    """The server answered with something that is no completion."""


class BrokenStream(Exception):
    """An answer ended too early, or carried an error."""


def text_of(content: Any) -> str:
    """The text of a message's content, given as text, as parts, or not at all. Raises TypeError for anything else."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        raise TypeError(f"content is {type(content).__name__}")
    return "".join(part if isinstance(part, str) else _part_text(part) for part in content)


def _part_text(part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) else None
    if isinstance(text, Mapping):
        text = text.get("value")
    if text is None and isinstance(part, Mapping):
        text = part.get("refusal") or part.get("content")
    return text if isinstance(text, str) else ""


def tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """{name, arguments} of an OpenAI tool call; arguments that are no JSON object are kept as text."""
    function = call.get("function") or call
    name, arguments = function["name"], function.get("arguments")
    if not isinstance(name, str):
        raise TypeError("a tool call's name is not text")
    if not isinstance(arguments, str):
        arguments = "" if arguments is None else json.dumps(arguments)
    value = {} if arguments.strip() in ("", "null") else decoded(arguments)
    return {"name": name, "arguments": arguments if value is None else foreign.valid(value)}


def calls_of(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A message's tool calls, or its one call in the older form."""
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise TypeError("tool_calls is no list")
    if len(calls) > MAX_CALLS:
        raise TypeError(f"over {MAX_CALLS} tool calls")
    return calls or ([message["function_call"]] if message.get("function_call") else [])


def count(usage: Mapping[str, Any], name: str) -> int | None:
    """A number of the usage; None, which is unknown, where the server gives none or what is no count."""
    value = usage.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_COUNT else None


def listed(value: Any, kind: type[T]) -> list[T] | None:
    """A list of one kind, or None. Raises TypeError for anything else."""
    if value is None:
        return None
    if not isinstance(value, list) or any(not isinstance(item, kind) or (kind is int and not 0 <= item < MAX_COUNT) for item in value):  # type: ignore[operator]
        raise TypeError(f"a part of the trace is no list of {kind.__name__}")
    return value


DONE: dict[str, Any] = {}
"""The event that stands for a stream's end mark."""


def _grown(length: int) -> int:
    return length + length // 1000


@dataclass
class Collected:
    """The pieces of one stream. `ended` once the server has said that the answer is whole."""

    content: str = ""
    calls: dict[Any, dict[str, Any]] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    _shown: int = 0
    _read: dict[Any, tuple[Any, dict[str, Any]]] = field(default_factory=dict)

    def add(self, event: Mapping[str, Any]) -> bool:
        """Take in one event; whether it told something new of the answer. Raises BadReply for what is no event of a completion."""
        self.ended = self.ended or event is DONE
        try:
            self.usage = event.get("usage") or self.usage
            choices = [choice for choice in event.get("choices") or [] if not choice.get("index")]
            return any(list(map(self._add, choices)))
        except (TypeError, AttributeError, KeyError) as error:
            raise BadReply(f"a stream event is no part of a completion ({type(error).__name__}: {error})") from None

    def _add(self, choice: Mapping[str, Any]) -> bool:
        self.choice.update({key: choice[key] for key in ("finish_reason", "trace") if choice.get(key) is not None})
        delta = choice.get("delta") or {}
        self.ended = self.ended or "finish_reason" in self.choice or isinstance(choice.get("message"), Mapping)
        text = text_of(delta.get("content")) or text_of(choice.get("text"))
        fragments = calls_of(delta)
        whole = choice.get("message")
        if isinstance(whole, Mapping) and not (self.content or self.calls):
            # Some send the finished message in place of pieces.
            text, fragments = text or text_of(whole.get("content")), fragments or calls_of(whole)
        self.content += text
        for fragment in fragments:
            self._add_fragment(fragment)
        return bool(text or fragments)

    def _add_fragment(self, fragment: Mapping[str, Any]) -> None:
        """A call or a part of one: parts are told apart by index, or by id; one without either goes on with the last."""
        function = fragment.get("function") or fragment
        key = fragment.get("index")
        if key is None:
            key = fragment.get("id") or next(reversed(self.calls), None)
        elif key in self.calls and fragment.get("id") and self.calls[key]["id"] not in (None, fragment["id"]):
            key = fragment["id"]  # every call with index 0
        if len(self.calls) >= MAX_CALLS and key not in self.calls:
            raise TypeError(f"over {MAX_CALLS} tool calls")
        call = self.calls.setdefault(key, {"id": None, "function": {"name": "", "arguments": ""}})
        call["id"] = call["id"] or fragment.get("id")
        name, arguments = function.get("name") or "", function.get("arguments")
        if name != call["function"]["name"]:
            call["function"]["name"] += name
        if isinstance(arguments, str) and isinstance(call["function"]["arguments"], str):
            call["function"]["arguments"] += arguments
        elif arguments is not None:
            call["function"]["arguments"] = arguments

    def has_grown(self) -> bool:
        """Whether text and calls are longer by a thousandth than when this was last true. Looked at after every piece, a long answer in
        tiny ones would take the square of its length."""
        written = (call["function"]["arguments"] for call in self.calls.values())
        size = len(self.content) + sum(1 + (len(text) if isinstance(text, str) else 0) for text in written)
        if size <= _grown(self._shown):
            return False
        self._shown = size
        return True

    def complete_calls(self) -> tuple[dict[str, Any], ...]:
        """The calls whose arguments are an object by now. One that grows is read again for every thousandth."""
        for key, call in self.calls.items():
            arguments = call["function"]["arguments"]
            last = self._read[key][0] if key in self._read else ""
            grows = isinstance(arguments, str) and isinstance(last, str)
            if len(arguments) > _grown(len(last)) if grows else arguments is not last:
                self._read[key] = arguments, tool_call(call)
        return tuple(call for _, call in self._read.values() if isinstance(call["arguments"], dict))

    def payload(self) -> dict[str, Any]:
        """The answer as a whole one would have come."""
        calls = [self.calls[key] for key in sorted(self.calls, key=lambda key: key if isinstance(key, int) else len(self.calls))]
        message = {"content": self.content, "tool_calls": calls}
        return {"choices": [{"message": message, **self.choice}], "usage": self.usage}


def lines(blocks: Iterable[bytes]) -> Iterator[str]:
    """The lines of a stream of server-sent events, ended by CR LF, LF or CR and by nothing else."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    begun: list[str] = []  # pieces of the line that has not ended
    half = ""  # a CR that is maybe half of a CR LF
    for block in blocks:
        text = half + decoder.decode(block)
        half = "\r" if text.endswith("\r") else ""
        *whole, rest = _LINE_END.split(text.removesuffix(half))
        if whole:
            yield "".join([*begun, whole[0]])
            yield from whole[1:]
            begun.clear()
        begun.append(rest)
    yield from _LINE_END.split("".join([*begun, half, decoder.decode(b"", final=True)]))


def events(blocks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON events of a stream up to its end mark, or to its end.

    Comments, names and ids are passed over, a last event needs no blank line behind it, and a body that is JSON and no stream is one
    event. Raises BrokenStream for an event that carries an error, BadReply for one that is not JSON.
    """
    data: list[str] = []
    bare: list[str] = []
    seen = False
    for line in chain(lines(blocks), [""]):
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line.strip() and not _BESIDE.match(line) and not seen:
            bare.append(line)
        elif not line and data:
            text, data, seen = "\n".join(data).strip(), [], True
            if text == "[DONE]":
                yield DONE
                return
            if text:
                yield _event(text)
    if bare and not seen:
        yield _event("\n".join(bare))


def json_object(content: str | bytes, what: str) -> dict[str, Any]:
    """The JSON object that `what` holds. Raises BadReply when it holds none."""
    try:
        payload = foreign.parse(content)
    except ValueError as error:
        reason = f"is {error}" if "levels" in str(error) else "is not JSON"
        raise BadReply(f"{what} {reason}: {content[:80]!r}") from None
    if not isinstance(payload, dict):
        raise BadReply(f"{what} is {type(payload).__name__}, not an object")
    return payload


def _event(text: str) -> dict[str, Any]:
    event = json_object(text, "a stream event")
    if event.get("error"):
        raise BrokenStream(str(event["error"])[:200])
    return event
