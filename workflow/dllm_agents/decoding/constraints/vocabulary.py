"""What the tokens of a vocabulary write, as bytes. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllm_agents.decoding.constraints.expressions import ConstraintError
from dllm_agents.tool_calls import CLOSE, OPEN

# Bytes that are in no UTF-8 text stand for tags that a tokenizer holds as special tokens: decoding leaves such tokens out.
PRIVATE = 0xF8
TAGS = {OPEN: PRIVATE, CLOSE: PRIVATE + 1}


@dataclass(frozen=True)
class Vocabulary:
    """Token t writes data[offset[t] : offset[t + 1]]; nothing where it is a control token or no token at all.

    `strips`: decoding takes one blank away at the beginning of a text (SentencePiece).
    """

    data: NDArray[np.uint8]
    offset: NDArray[np.int64]
    strips: bool = False

    @staticmethod
    def of(tokens: Sequence[bytes | None], strips: bool = False) -> Vocabulary:
        lengths = [len(token) if token else 0 for token in tokens]
        data = np.frombuffer(b"".join(token or b"" for token in tokens), dtype=np.uint8)
        return Vocabulary(data, np.append(0, np.cumsum(lengths)), strips)

    @staticmethod
    def read(tokenizer: Any, size: int) -> Vocabulary:
        """The first `size` tokens of a tokenizer. Raises ConstraintError (`unsupported_tokenizer`) where they are not bytes."""
        return Vocabulary.of(token_bytes(tokenizer, size), _strips(tokenizer))

    @property
    def size(self) -> int:
        return len(self.offset) - 1


def token_bytes(tokenizer: Any, size: int) -> list[bytes | None]:
    """The bytes of every token id below `size`, None for control tokens and holes.

    Byte-level BPE, and SentencePiece with `▁` for a blank and <0x..> for bytes. Raises ConstraintError (`unsupported_tokenizer`) where
    the pieces are not bytes (WordPiece, character maps): their text depends on the neighbours.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    state = _state(backend)
    pieces = backend.get_vocab(with_added_tokens=True)
    value = _reader(state)
    added = {token["id"]: token for token in state.get("added_tokens", ())}
    tokens: list[bytes | None] = [None] * size
    for piece, index in pieces.items():
        if index >= size:
            continue
        if index not in added:
            written = value(piece)
            tokens[index] = written if max(written, default=0) < PRIVATE else None
        elif not added[index]["special"]:
            tokens[index] = piece.encode()
        elif piece in TAGS:
            tokens[index] = bytes([TAGS[piece]])
    return tokens


def _state(tokenizer: Any) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(getattr(tokenizer, "backend_tokenizer", tokenizer).to_str())
    except AttributeError:
        raise _no_bytes("has no tokenizer.json") from None
    return state


def _strips(tokenizer: Any) -> bool:
    parts = _parts(_state(tokenizer).get("decoder"))
    return any(
        (part["type"] == "Strip" and part.get("content") == " " and part.get("start", 0) > 0)
        or (part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never")
        for part in parts
    )


def _reader(state: Mapping[str, Any]) -> Any:
    """The function from a piece's spelling to its bytes."""
    decoders = _kinds(state.get("decoder"))
    if "ByteLevel" in decoders:
        letters = _byte_letters()
        return lambda piece: bytes(letters[c] for c in piece) if all(c in letters for c in piece) else piece.encode()
    if decoders & {"ByteFallback", "Metaspace"} or any(
        part.get("type") == "Replace" and part.get("content") == " " for part in _parts(state.get("decoder"))
    ):
        return _sentence_piece
    raise _no_bytes(f"has a decoder ({', '.join(sorted(decoders)) or 'none'}) whose pieces are no bytes")


def _sentence_piece(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()


def _parts(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if not decoder:
        return []
    return [part for inner in decoder["decoders"] for part in _parts(inner)] if decoder.get("type") == "Sequence" else [decoder]


def _kinds(decoder: Mapping[str, Any] | None) -> set[str]:
    return {str(part.get("type")) for part in _parts(decoder)}


def _byte_letters() -> dict[str, int]:
    """The letters byte-level BPE writes bytes with (GPT-2): printable bytes are themselves, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _no_bytes(reason: str) -> ConstraintError:
    return ConstraintError(
        "unsupported_tokenizer", "constraint", f"the tokenizer {reason}; constrained decoding needs byte-level or SentencePiece tokens"
    )
