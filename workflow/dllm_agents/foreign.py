"""Untrusted input from servers, searches, simulators and files: read within bounds, as valid Unicode, and shown without
control characters."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from dllm_agents.errors import StageError

T = TypeVar("T")
DEEPEST = 64
"""Levels of lists and objects inside each other; a record that holds more cannot be read back."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_UNSEEN = {*range(0x20), *range(0x7F, 0xA0), 0x061C, *range(0x200E, 0x2010), *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF}
_SHOWN = dict.fromkeys([*_UNSEEN, *range(0xD800, 0xE000)], "\ufffd") | dict.fromkeys(map(ord, "\t\n"), " ")


class TooMuch(Exception):
    """Input is too long, or takes too long; the message says which."""


def valid_text(text: str) -> str:
    """The text as valid Unicode: U+FFFD in place of half a surrogate pair, which JSON can spell and no file can hold."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def visible(text: str) -> str:
    """The text on one line, with U+FFFD in place of control characters, separators and direction marks."""
    return text if text.isprintable() else text.translate(_SHOWN)


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


_DECODER = json.JSONDecoder(strict=False, parse_float=_finite, parse_constant=lambda _: None)


def loads(content: str | bytes) -> Any:
    """The value of a JSON text in valid Unicode. Raises ValueError as `parse` does."""
    text = content if isinstance(content, str) else content.decode("utf-8-sig", "replace")
    value = parse(text)
    return valid(value) if _HALF.search(text) else value


def parse(content: str | bytes) -> Any:
    """The value of a JSON text, with null for a number that is none; its texts may hold halves of surrogate pairs, which the next piece
    of a stream may join. Raises ValueError for what is no JSON and for what is nested over 64 levels deep."""
    text = content if isinstance(content, str) else content.decode("utf-8-sig", "replace")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError(f"nested over {DEEPEST} levels deep") from None
    if text.count("[") + text.count("{") > DEEPEST and depth(value) > DEEPEST:
        raise ValueError(f"nested over {DEEPEST} levels deep")
    return value


def depth(value: Any) -> int:
    """Levels of lists and objects in a JSON value; counted up to one more than is allowed."""
    level, levels = [value], 0
    while levels <= DEEPEST and (level := [item for item in level if isinstance(item, (dict, list))]):
        levels += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return levels


def valid(value: Any) -> Any:
    """A JSON value with all its texts in valid Unicode."""
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, list):
        return [valid(item) for item in value]
    return {valid_text(key): valid(item) for key, item in value.items()} if isinstance(value, dict) else value


def json_lines(content: bytes, source: str, parse: Callable[[Any, str], T], problem: str) -> Iterator[T]:
    """What `parse` makes of the value and the place of every line of JSON Lines that is not blank. Raises StageError naming the line, and
    saying `problem`, for one that is no JSON or that `parse` cannot read."""
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            try:
                yield parse(loads(line), f"{source}:{number}")
            except (ValueError, LookupError, TypeError, AttributeError):
                raise StageError(f"{source}:{number}: {problem}") from None


ACCEPTED = {"Accept-Encoding": "gzip, deflate"}
"""The header to send with every request whose answer is read by `body_of`."""


def body_of(response: Any) -> Iterable[bytes]:
    """The blocks of an httpx response's body. Raises TooMuch for one that is compressed twice, or in another way than was asked for: a
    block of it may stand for gigabytes."""
    encoding = response.headers.get("content-encoding", "")
    if encoding.strip().lower() not in ("", "identity", "gzip", "deflate"):
        raise TooMuch(f"compressed as {visible(encoding)[:60]!r}, which nobody asked for")
    return response.iter_bytes()  # type: ignore[no-any-return]


def file_bytes(path: str | Path, most: int) -> bytes:
    """The content of a file. Raises OSError, and TooMuch beyond `most` bytes."""
    with open(path, "rb") as handle:
        return gather([handle.read(most + 1)], most, math.inf)


def gather(blocks: Iterable[bytes], most: int, seconds: float) -> bytes:
    """A whole body from its blocks. Raises TooMuch beyond `most` bytes, and if it is incomplete after `seconds`."""
    return b"".join(bounded(blocks, most, seconds))


def bounded(blocks: Iterable[bytes], most: int, seconds: float) -> Iterable[bytes]:
    """The blocks of a body as they arrive. Raises TooMuch as `gather` does."""
    size, deadline = 0, time.monotonic() + seconds
    for block in blocks:
        size += len(block)
        if size > most:
            raise TooMuch(f"over {most:,} bytes")
        if time.monotonic() > deadline:
            raise TooMuch(f"not whole after {seconds:g} s")
        yield block
