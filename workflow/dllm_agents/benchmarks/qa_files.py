"""Question files and corpora as they are published, read into one shape.

Questions: JSON Lines, a JSON array or Parquet, from a path or `hf://datasets/<owner>/<name>[@revision]/<file>`. Known layouts:
R1-Searcher's {idx, question, answer}, HotpotQA and 2Wiki (`context`, `supporting_facts`), MuSiQue (`paragraphs`,
`answer_aliases`) and FlashRAG's {id, question, golden_answers}. Corpora: JSON Lines of {title, text} or of {contents}.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dllm_agents.benchmarks.search import Passage
from dllm_agents.errors import StageError

HUB_ADDRESS = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")
FINGERPRINTED_BYTES = 1 << 24


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
    rows = [_question(path, number, row) for number, row in enumerate(_rows(path), 1)]
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise StageError(f"{path}: question id {row.id!r} stands twice; give every question its own")
        seen.add(row.id)
    if not rows:
        raise StageError(f"{path}: holds no question")
    return rows


def read_corpus(path: str) -> list[Passage]:
    """The passages of a corpus. Raises StageError naming file and line of the first bad one."""
    passages = [_passage(path, number, row) for number, row in enumerate(_rows(path), 1)]
    if not passages:
        raise StageError(f"{path}: holds no passage")
    return passages


def _rows(path: str) -> Iterator[Any]:
    file = local_file(path)
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet

            for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
                yield from batch.to_pylist()
        elif file.suffix == ".json":
            yield from json.loads(file.read_text(encoding="utf-8"))
        else:
            yield from _json_lines(path, file)
    except OSError as error:
        raise StageError(f"{path}: {error.strerror or error}; check the paths under benchmarks.multihop_qa") from None
    except (ValueError, TypeError, RecursionError):
        raise StageError(f"{path}: not readable as {file.suffix or 'JSON Lines'}; give JSON Lines, a JSON array or Parquet") from None


def _json_lines(path: str, file: Path) -> Iterator[Any]:
    with open(file, "rb") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                raise StageError(f"{path}:{number}: not JSON; every line is one object") from None


def _question(path: str, number: int, row: Any) -> QuestionRow:
    if not isinstance(row, dict):
        raise StageError(f"{path}:{number}: not an object")
    fields = {key.lower(): value for key, value in row.items()}
    question, answers = fields.get("question"), _answers(fields)
    if not isinstance(question, str) or not question.strip():
        raise StageError(f"{path}:{number}: has no text under 'question'")
    if not answers:
        raise StageError(f"{path}:{number}: has no text under 'answer' or 'golden_answers'")
    identity = next((str(fields[key]) for key in ("id", "_id", "idx") if fields.get(key) is not None), str(number))
    try:
        paragraphs, supporting = _paragraphs(fields)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise StageError(f"{path}:{number}: 'context' or 'paragraphs' is laid out neither like HotpotQA's nor like MuSiQue's") from None
    return QuestionRow(identity, question.strip(), answers, paragraphs, supporting)


def _answers(fields: dict[str, Any]) -> tuple[str, ...]:
    given = [fields.get("answer"), *_list(fields.get("golden_answers")), *_list(fields.get("answer_aliases"))]
    texts = [str(answer).strip() for answer in given if isinstance(answer, (str, int, float))]
    return tuple(dict.fromkeys(text for text in texts if text))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _paragraphs(fields: dict[str, Any]) -> tuple[tuple[Passage, ...], tuple[str, ...]]:
    if "paragraphs" in fields:
        given = fields["paragraphs"]
        passages = tuple(Passage(str(item["title"]), str(item["paragraph_text"])) for item in given)
        return passages, _titles(item["title"] for item in given if item["is_supporting"])
    context, facts = fields.get("context"), fields.get("supporting_facts") or []
    if not context:
        return (), ()
    if isinstance(context, dict):  # the hub's columnar form
        pairs: Iterable[tuple[str, Any]] = zip(context["title"], context["sentences"], strict=True)
    else:
        pairs = [(item[0], item[1]) for item in context]
    passages = tuple(Passage(str(title), " ".join(map(str, sentences))) for title, sentences in pairs)
    return passages, _titles(facts["title"] if isinstance(facts, dict) else (fact[0] for fact in facts))


def _titles(titles: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str, titles)))


def _passage(path: str, number: int, row: Any) -> Passage:
    if isinstance(row, dict) and isinstance(row.get("contents"), str):
        title, _, text = row["contents"].partition("\n")
        return Passage(title.strip('"'), text)
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise StageError(f"{path}:{number}: not a passage; each line is {{title, text}} or {{contents}}")
    return Passage(str(row.get("title", "")), row["text"])
