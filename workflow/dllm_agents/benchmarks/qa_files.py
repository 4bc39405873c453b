"""Question files and corpora as they are published, read into one shape.

Questions: JSON Lines, a JSON array or Parquet, told apart by their content whatever the name, from a path or
`hf://datasets/<owner>/<name>[@revision]/<file>`. Known layouts: R1-Searcher's {idx, question, answer}, HotpotQA and 2Wiki (`context`,
`supporting_facts`), MuSiQue (`paragraphs`, `answer_aliases`), FlashRAG's {id, question, golden_answers}, SQuAD's `answers` {text} and
TriviaQA's `answer` {value, aliases}. Questions that say that they have no answer are left out. Corpora: {title, text} or {contents}.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from dllm_agents.benchmarks.search import Passage
from dllm_agents.errors import StageError
from dllm_agents.foreign import valid

HUB_ADDRESS = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")
FINGERPRINTED_BYTES = 1 << 24
OTHER_FILES = {
    b"\x1f\x8b": "is packed by gzip",
    b"PK\x03\x04": "is a ZIP archive",
    codecs.BOM_UTF16_LE: "is text in UTF-16",
    codecs.BOM_UTF16_BE: "is text in UTF-16",
    b"vers": "is no data but a pointer of Git LFS",
    b"<!DO": "is a web page",
    b"<htm": "is a web page",
}
"""First bytes -> what a file is that holds no questions that are read here."""


class QuestionRow(NamedTuple):
    """One question of a file. `paragraphs` are its own passages, if any; `supporting` the titles of the gold ones."""

    id: str
    question: str
    answers: tuple[str, ...]
    paragraphs: tuple[Passage, ...] = ()
    supporting: tuple[str, ...] = ()


def local_file(path: str) -> Path:
    """The file itself, fetched from the hub when `path` is an hf:// address. Raises StageError when it is not to be had."""
    match = HUB_ADDRESS.fullmatch(path)
    if match is None:
        return Path(path)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(match["repo"], match["file"], repo_type="dataset", revision=match["revision"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise StageError(f"{path}: cannot be fetched ({type(error).__name__}); give the path of a local copy") from None


def fingerprint(path: str) -> str:
    """Twelve hex digits over a file's size and first 16 MB: enough to tell versions apart, quick on a corpus of many GB."""
    file = local_file(path)
    try:
        with open(file, "rb") as handle:
            digest = hashlib.sha256(str(file.stat().st_size).encode())
            digest.update(handle.read(FINGERPRINTED_BYTES))
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; check the paths under benchmarks.multihop_qa") from None
    return digest.hexdigest()[:12]


def read_questions(path: str) -> list[QuestionRow]:
    """The questions of a file, in file order. Raises StageError naming file and line (or row) of the first bad one."""
    rows = [row for number, values in _rows(path) if (row := _question(path, number, values)) is not None]
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise StageError(f"{path}: question id {row.id!r} stands twice; give every question its own")
        seen.add(row.id)
    if not rows:
        raise StageError(f"{path}: holds no question that has an answer")
    return rows


def read_corpus(path: str) -> list[Passage]:
    """The passages of a corpus. Raises StageError naming file and line of the first bad one."""
    passages = [_passage(path, number, row) for number, row in _rows(path)]
    if not passages:
        raise StageError(f"{path}: holds no passage")
    return passages


def _rows(path: str) -> Iterator[tuple[int, Any]]:
    """(line or row from 1, value) of every row of a file."""
    file = local_file(path)
    try:
        with open(file, "rb") as handle:
            head = handle.read(4)
            handle.seek(0)
            if (other := next((kind for start, kind in OTHER_FILES.items() if head.startswith(start)), None)) is not None:
                raise StageError(f"{path}: {other}; give JSON Lines or a JSON array in UTF-8, or Parquet")
            if head == b"PAR1":
                import pyarrow.parquet

                batches = pyarrow.parquet.ParquetFile(handle).iter_batches()
                yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
            else:
                yield from _json_rows(path, handle)
    except OSError as error:
        raise StageError(f"{path}: {error.strerror or error}; check the paths under benchmarks.multihop_qa") from None
    except (ValueError, TypeError, RecursionError, NotImplementedError) as error:  # the last is Parquet's
        reason = f" ({error})" if isinstance(error, UnicodeDecodeError) else ""
        raise StageError(f"{path}: not readable as JSON or Parquet{reason}; give JSON Lines, a JSON array or Parquet") from None


def _json_rows(path: str, handle: BinaryIO) -> Iterator[tuple[int, Any]]:
    """The rows of a JSON array, of an object that holds one, or of JSON Lines, with or without a byte-order mark."""
    start = handle.read(3)
    skipped = 3 if start == codecs.BOM_UTF8 else 0
    handle.seek(skipped)
    first = next((line for line in handle if line.strip()), b"").strip()
    handle.seek(skipped)
    if _is_object(first) or not first.startswith((b"[", b"{")):
        yield from _json_lines(path, handle)
        return
    try:
        value = _value(handle.read())
    except (json.JSONDecodeError, RecursionError):
        if first.startswith(b"["):
            raise
        handle.seek(skipped)
        yield from _json_lines(path, handle)  # names the line
        return
    yield from enumerate(_wrapped(value) or [value] if isinstance(value, dict) else value, 1)


def _is_object(line: bytes) -> bool:
    """Whether a line is one row: an object that does not hold the rows."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and _wrapped(value) is None


def _wrapped(value: dict[str, Any]) -> list[Any] | None:
    """The rows that an object holds beside notes on them, as {version, data: [...]}; None where it is a row itself."""
    lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
    is_row = {key.lower() for key in value} & {"question", "text", "contents"}
    return lists[0] if len(lists) == 1 and not is_row else None


def _value(text: bytes) -> Any:
    """The value of a JSON text in valid Unicode. Raises ValueError for NaN and infinities, which JSON does not have."""
    return valid(json.loads(text.decode("utf-8"), parse_constant=_no_number))


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _json_lines(path: str, handle: BinaryIO) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(handle, 1):
        if not line.strip():
            continue
        try:
            yield number, _value(line)
        except (ValueError, RecursionError) as error:
            reason = str(error) if "is no JSON" in str(error) else "not JSON"
            raise StageError(f"{path}:{number}: {reason}; every line is one object") from None


def _question(path: str, number: int, row: Any) -> QuestionRow | None:
    if not isinstance(row, dict):
        raise StageError(f"{path}:{number}: not an object")
    fields = {key.lower(): value for key, value in row.items()}
    if _without_answer(fields):
        return None
    question, answers = fields.get("question"), _answers(fields)
    if not isinstance(question, str) or not question.strip():
        raise StageError(f"{path}:{number}: has no text under 'question'")
    if not answers:
        raise StageError(f"{path}:{number}: has no text under 'answer', 'answers' or 'golden_answers'")
    identity = next((str(fields[key]) for key in ("id", "_id", "idx") if fields.get(key) is not None), str(number))
    try:
        paragraphs, supporting = _paragraphs(fields)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise StageError(f"{path}:{number}: 'context' or 'paragraphs' is laid out neither like HotpotQA's nor like MuSiQue's") from None
    return QuestionRow(identity, question.strip(), answers, paragraphs, supporting)


def _without_answer(fields: dict[str, Any]) -> bool:
    """Whether a question says that it has no answer: MuSiQue's flag, SQuAD 2's, or, on the hub, an empty list in its place."""
    flags = [str(fields.get(name)).lower() for name in ("answerable", "is_impossible")]
    answers = fields.get("answers")
    return flags[0] in ("false", "0") or flags[1] in ("true", "1") or (isinstance(answers, dict) and answers.get("text") == [])


def _answers(fields: dict[str, Any]) -> tuple[str, ...]:
    values = [fields.get(key) for key in ("answer", "answers", "golden_answers", "answer_aliases", "aliases")]
    return tuple(dict.fromkeys(text for value in values for text in _answer_texts(value) if text))


def _answer_texts(value: Any) -> Iterator[str]:
    """The texts of an answer: itself, each of a list, or what SQuAD ({text}) and TriviaQA ({value, aliases}) lay under it."""
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, bool) or (isinstance(value, (int, float)) and math.isfinite(value)):
        whole = isinstance(value, float) and value.is_integer()  # as pandas writes a column of years with one missing
        yield str(int(value) if whole else value)
    elif isinstance(value, list):
        for item in value:
            yield from _answer_texts(item)
    elif isinstance(value, dict):
        for key in ("value", "text", "aliases"):
            yield from _answer_texts(value.get(key))


def _paragraphs(fields: dict[str, Any]) -> tuple[tuple[Passage, ...], tuple[str, ...]]:
    if "paragraphs" in fields:
        items = fields["paragraphs"] or []
        passages = tuple(Passage(_title(item["title"]), str(item["paragraph_text"])) for item in items)
        return passages, _titles(item["title"] for item in items if item["is_supporting"])
    context, facts = fields.get("context"), fields.get("supporting_facts") or []
    if not context:
        return (), ()
    if isinstance(context, dict):  # the hub's columnar form
        pairs: Iterable[tuple[str, Any]] = zip(context["title"], context["sentences"], strict=True)
    else:
        pairs = [(item[0], item[1]) for item in context]
    passages = tuple(Passage(_title(title), " ".join(map(str, sentences))) for title, sentences in pairs)
    return passages, _titles(facts["title"] if isinstance(facts, dict) else (fact[0] for fact in facts))


def _titles(titles: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str, titles)))


def _passage(path: str, number: int, row: Any) -> Passage:
    if isinstance(row, dict) and isinstance(row.get("contents"), str):
        title, _, text = row["contents"].partition("\n")
        return Passage(title.strip('"'), text)
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise StageError(f"{path}:{number}: not a passage; each line is {{title, text}} or {{contents}}")
    return Passage(_title(row.get("title")), row["text"])


def _title(value: Any) -> str:
    return "" if value is None else str(value)
