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


class Cutter:
    """Cuts growing text at the first stop string."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stopped = False
        self._stop = tuple(stop)
        self._pending = ""

    def push(self, text: str) -> str:
        """The text that is certain to stand before any stop string."""
        text = self._pending + text
        cuts = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        self.stopped = self.stopped or bool(cuts)
        certain = min(cuts) if cuts else len(text) - held_back(text, self._stop)
        self._pending = "" if cuts else text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """What is still held back, once no more text comes."""
        text, self._pending = self._pending, ""
        return text


class Splitter:
    """Cuts growing text at the first stop string and, with `tools`, takes the tool calls out of what is left.

    `push` and `finish` return pieces in order: str for content, dict for a complete tool call. `schemas` and `bare` as `CallReader`
    takes them. With `single` the answer ends behind its first call; with `whole_calls` stop strings are looked for outside calls alone.
    """

    def __init__(
        self,
        stop: Sequence[str] = (),
        tools: bool = False,
        schemas: Mapping[str, Mapping[str, Any]] | None = None,
        bare: bool = False,
        single: bool = False,
        whole_calls: bool = False,
    ) -> None:
        self.stopped = False
        self.early = tools and not stop and not single
        """Whether a call may be given out before the text in front of it is there: nothing in that text can undo it."""
        self._cutter = Cutter(stop)
        self._reader = CallReader(schemas, bare) if tools else None
        self._single, self._whole_calls = single, whole_calls

    def push(self, text: str) -> list[Piece]:
        """The pieces that are certain with this text."""
        if self.stopped:
            return []
        pieces: list[Piece]
        if self._reader is None:
            pieces = [self._cutter.push(text)]
        elif self._whole_calls:
            pieces = self._outside(self._reader.push(text))
        else:
            pieces = self._reader.push(self._cutter.push(text)) + (self._reader.finish() if self._cutter.stopped else [])
        return self._given(pieces)

    def finish(self) -> list[Piece]:
        """What is still held back, once no more text comes, or none that belongs to it."""
        return [] if self.stopped else self._given(self._rest())

    def calls_between_tags(self, text: str) -> list[Call]:
        """The calls of a text that stood between two tags, when it is nothing else."""
        whole = OPEN + text + CLOSE
        span = read_tagged(whole) if self._reader is not None else None
        return span.calls if isinstance(span, Span) and span.end == len(whole) else []

    def give(self, calls: Sequence[Call]) -> list[Piece]:
        """Calls that stand behind the text so far, which ends there."""
        return self.finish() + ([] if self.stopped else self._given(list(calls)))

    def _rest(self) -> list[Piece]:
        if self._reader is None:
            return [self._cutter.finish()]
        if self._whole_calls:
            return [*self._outside(self._reader.finish()), self._cutter.finish()]
        return self._reader.push(self._cutter.finish()) + self._reader.finish()

    def _outside(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Pieces with their text cut at the first stop string; a call ends the text in front of it."""
        kept: list[Piece] = []
        for piece in pieces:
            if self._cutter.stopped:
                break
            kept += [self._cutter.push(piece)] if isinstance(piece, str) else [self._cutter.finish(), piece]
        return kept

    def _given(self, pieces: Sequence[Piece]) -> list[Piece]:
        self.stopped = self._cutter.stopped
        pieces = [piece for piece in pieces if piece]
        first = next((at for at, piece in enumerate(pieces) if isinstance(piece, dict)), None)
        if self._single and first is not None:
            self.stopped = True
            pieces = pieces[: first + 1]
        return pieces
