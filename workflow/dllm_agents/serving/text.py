"""From settled tokens to what a client reads: text piece by piece, stop strings, tool calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

OPEN, CLOSE = "<tool_call>", "</tool_call>"
Decode = Callable[[Sequence[int]], str]
Piece = str | dict[str, Any]


class TokenText:
    """The text of tokens that come one by one. Bytes of an unfinished character are kept back until it is whole."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = self._read = 0

    def push(self, token_id: int) -> str:
        """The text this token adds. A short window is decoded: O(1), and right where a piece's text depends on its neighbour."""
        self._ids.append(token_id)
        known = self._decode(self._ids[self._start : self._read])
        text = self._decode(self._ids[self._start :])
        if len(text) <= len(known) or text.endswith("\ufffd"):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return text[len(known) :]


def chat_prompt(tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
    """Prompt ids of chat messages by the checkpoint's template; without one, the contents joined by blank lines.

    Raises whatever the template raises: it comes with the checkpoint.
    """
    if not tokenizer.chat_template:
        return list(tokenizer("\n\n".join(str(message["content"]) for message in messages))["input_ids"])
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def parse_tool_call(text: str) -> dict[str, Any] | None:
    """{name, arguments} of the JSON between the tags (Hermes / Qwen format), or None when it is no such object."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict):
        return None
    name, arguments = call.get("name"), call.get("arguments", {})
    return {"name": name, "arguments": arguments} if isinstance(name, str) and name and isinstance(arguments, dict) else None


class Splitter:
    """Cuts growing text at the first stop string and, when asked, takes the tool calls out of it.

    `push` and `finish` return pieces in order: str for content, dict for a complete tool call. A call announced by `early`
    (P-ReAct decodes it before the thinking in front of it) is not repeated when the text reaches it.
    """

    def __init__(self, stop: Sequence[str] = (), tools: bool = False) -> None:
        self.stopped = False
        self._stop = tuple(stop)
        self._tools = tools
        self._pending = ""
        self._early: list[dict[str, Any]] = []

    def early(self, text: str) -> list[Piece]:
        """A span between tags that is complete ahead of the text before it."""
        call = parse_tool_call(text)
        if not self._tools or call is None or self.stopped:
            return []
        self._early.append(call)
        return [call]

    def push(self, text: str) -> list[Piece]:
        if self.stopped:
            return []
        self._pending += text
        found = [at for at in (self._pending.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            self._pending = self._pending[: min(found)]
            return self.finish()
        return self._pieces(final=False)

    def finish(self) -> list[Piece]:
        """What is still held back, once no more text comes."""
        return self._pieces(final=True)

    def _pieces(self, final: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while self._tools and (start := self._pending.find(OPEN)) >= 0:
            pieces.append(self._pending[:start])
            self._pending = self._pending[start:]
            end = self._pending.find(CLOSE)
            if end < 0:
                break
            whole, self._pending = self._pending[: end + len(CLOSE)], self._pending[end + len(CLOSE) :]
            call = parse_tool_call(whole[len(OPEN) : -len(CLOSE)])
            if call is None:
                pieces.append(whole)
            elif call in self._early:
                self._early.remove(call)
            else:
                pieces.append(call)
        if final:
            keep = 0
        elif self._tools and self._pending.startswith(OPEN):
            keep = len(self._pending)
        else:
            keep = _held_back(self._pending, (*self._stop, OPEN) if self._tools else self._stop)
        pieces.append(self._pending[: len(self._pending) - keep])
        self._pending = self._pending[len(self._pending) - keep :]
        return [piece for piece in pieces if piece]


def _held_back(text: str, strings: Sequence[str]) -> int:
    """Length of the longest end of `text` that one of the strings begins with."""
    longest = max((len(string) for string in strings), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(string.startswith(text[-length:]) for string in strings):
            return length
    return 0
