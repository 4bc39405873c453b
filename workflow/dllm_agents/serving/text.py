"""From settled tokens to what a client reads: text piece by piece, cut at stop strings, tool calls taken out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dllm_agents.tool_calls import CLOSE, OPEN, Call, CallReader, Piece, Span, held_back, read_tagged

Decode = Callable[[Sequence[int]], str]


class TokenText:
    """The text of tokens that come one by one. Bytes of an unfinished character are kept back until it is whole."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = self._read = 0

    def push(self, token_id: int) -> str:
        """The text this token adds. A short window is decoded: O(1), and right where a piece's text depends on its neighbour."""
        self._ids.append(token_id)
        before = self._decode(self._ids[self._start : self._read])
        text = self._decode(self._ids[self._start :])
        if len(text) <= len(before) or text.endswith("\ufffd"):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return text[len(before) :]


class Splitter:
    """Cuts growing text at the first stop string and, with `tools`, takes the tool calls out of what is left.

    `push` and `finish` return pieces in order: str for content, dict for a complete tool call. `schemas` and `bare` as `CallReader`
    takes them. With `single` the answer ends behind its first call.
    """

    def __init__(
        self,
        stop: Sequence[str] = (),
        tools: bool = False,
        schemas: Mapping[str, Mapping[str, Any]] | None = None,
        bare: bool = False,
        single: bool = False,
    ) -> None:
        self.stopped = False
        self._stop = tuple(stop)
        self._reader = CallReader(schemas, bare) if tools else None
        self._single = single
        self._pending = ""

    @property
    def early(self) -> bool:
        """Whether a call may be given out before the text in front of it is there: nothing in that text can undo it."""
        return self._reader is not None and not self._stop and not self._single

    def push(self, text: str) -> list[Piece]:
        """The pieces that are certain with this text."""
        if self.stopped:
            return []
        self._pending += text
        cuts = [at for at in (self._pending.find(stop) for stop in self._stop) if at >= 0]
        if cuts:
            self._pending = self._pending[: min(cuts)]
            pieces = self.finish()
            self.stopped = True
            return pieces
        certain = len(self._pending) - held_back(self._pending, self._stop)
        text, self._pending = self._pending[:certain], self._pending[certain:]
        return self._pieces([text] if self._reader is None else self._reader.push(text))

    def finish(self) -> list[Piece]:
        """What is still held back, once no more text comes, or none that belongs to it."""
        if self.stopped:
            return []
        text, self._pending = self._pending, ""
        return self._pieces([text] if self._reader is None else self._reader.push(text) + self._reader.finish())

    def calls_between_tags(self, text: str) -> list[Call]:
        """The calls of a text that stood between two tags, when it is nothing else."""
        whole = OPEN + text + CLOSE
        span = read_tagged(whole) if self._reader is not None else None
        return span.calls if isinstance(span, Span) and span.end == len(whole) else []

    def give(self, calls: Sequence[Call]) -> list[Piece]:
        """Calls that stand behind the text so far, which ends there."""
        return self.finish() + ([] if self.stopped else self._pieces(list(calls)))

    def _pieces(self, pieces: list[Piece]) -> list[Piece]:
        pieces = [piece for piece in pieces if piece]
        first = next((at for at, piece in enumerate(pieces) if isinstance(piece, dict)), None)
        if self._single and first is not None:
            self.stopped = True
            pieces = pieces[: first + 1]
        return pieces
