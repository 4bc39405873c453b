"""openPangu's tokenizer, converted once from its sentencepiece file to the format of `tokenizers`; the checkpoint's own code is not run.

Text is cut by byte-pair merges in the order of the pieces' scores, unknown letters into bytes; `<s>` goes in front; control and
user-defined pieces, and what tokenizer_config.json adds, are one token each, and the text between two of them is read as if it began
there (the `legacy` way of Llama's tokenizer, which openPangu's keeps).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dllm_agents.errors import StageError
from dllm_agents.layout import cache_folder
from dllm_agents.models.families import read_json

FILE = "tokenizer.model"
SPECIALS = {"mask": "[unused0]", "end": "[unused10]"}
"""What openPangu's mask and end-of-turn tokens are called in the file."""
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
SPACE = "▁"


class Piece(NamedTuple):
    """An entry of a sentencepiece vocabulary; its place there is its id."""

    text: str
    score: float
    kind: int


def converted(directory: Path, mask_id: int | None, end_id: int | None) -> Any:
    """The tokenizer of an openPangu checkpoint, converted anew where the user's cache folder does not hold it. Raises StageError when the
    file is no sentencepiece BPE model, or the one of another model: its pieces at the checkpoint's mask and end ids have other names."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from dllm_agents.files import write_aside  # needs pydantic, which a machine that only decodes may lack

    file, settings = directory / FILE, directory / "tokenizer_config.json"
    config = read_json(settings) if settings.is_file() else {}
    pieces = read_pieces(file)
    for name, token_id in (("mask", mask_id), ("end", end_id)):
        piece = pieces[token_id].text[:40] if token_id is not None and 0 <= token_id < len(pieces) else "missing"
        if piece != SPECIALS[name]:
            raise StageError(f"{file}: is of another model: piece {token_id} is {piece}, not {SPECIALS[name]}; copy the checkpoint's own")
    digest = hashlib.sha256(file.read_bytes() + (settings.read_bytes() if settings.is_file() else b"")).hexdigest()[:16]
    stored = cache_folder() / "tokenizers" / f"{digest}.json"
    if not stored.is_file():
        with write_aside(stored) as handle:
            handle.write(tokenizer_of(pieces, config).to_str())
    template = directory / "chat_template.jinja"
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(stored)),
        bos_token="<s>",
        eos_token=SPECIALS["end"],
        unk_token="<unk>",
        pad_token="<unk>",
        mask_token=SPECIALS["mask"],
        chat_template=template.read_text(encoding="utf-8") if template.is_file() else config.get("chat_template"),
        clean_up_tokenization_spaces=False,
    )


def read_pieces(file: Path) -> list[Piece]:
    """The vocabulary of a sentencepiece file. Raises StageError for what is none, and for one that is not cut by merges."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(file.read_bytes())
    except (DecodeError, OSError):
        raise StageError(f"{file}: no sentencepiece model; copy the checkpoint's own tokenizer.model") from None
    pieces = [Piece(piece.piece, piece.score, piece.type) for piece in model.pieces]
    spec = model.normalizer_spec
    if not pieces or model.trainer_spec.model_type != 2 or spec.precompiled_charsmap or spec.remove_extra_whitespaces:
        raise StageError(f"{file}: no sentencepiece model of byte pairs over plain text, as openPangu's is; copy the checkpoint's own")
    return pieces


def tokenizer_of(pieces: Sequence[Piece], config: dict[str, Any]) -> Any:
    """The tokenizer of a vocabulary and the rest of tokenizer_config.json: `added_tokens_decoder`, `add_bos_token`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    vocabulary = {piece.text: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges(pieces), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    added = {piece.text: piece.kind == CONTROL for piece in pieces if piece.kind in (CONTROL, USER_DEFINED)}
    listed = config.get("added_tokens_decoder")
    for item in listed.values() if isinstance(listed, dict) else ():
        if isinstance(item, dict) and isinstance(item.get("content"), str):
            added[item["content"]] = bool(item.get("special"))
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=special) for text, special in added.items()])
    if config.get("add_bos_token", True):
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    return tokenizer


def merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, in the order in which sentencepiece merges: the highest score first."""
    ids = {piece.text: number for number, piece in enumerate(pieces) if piece.kind == NORMAL}

    def halves(text: str) -> list[tuple[str, str]]:
        cuts = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        return sorted(
            ((left, right) for left, right in cuts if left in ids and right in ids), key=lambda pair: (ids[pair[0]], ids[pair[1]])
        )

    ordered = sorted((piece for piece in pieces if piece.kind == NORMAL), key=lambda piece: -piece.score)
    return [pair for piece in ordered for pair in halves(piece.text)]
