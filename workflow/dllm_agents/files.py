"""Records as files: read with the line of the first that does not fit. What is written is written aside and then renamed, so that nothing
half-written ever stands under its final name."""

from __future__ import annotations

import codecs
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import ValidationError

from dllm_agents.errors import StageError
from dllm_agents.records import Record

R = TypeVar("R", bound=Record)
LONGEST_LINE = 256 << 20


def read_jsonl(path: str | Path, record: type[R]) -> list[R]:
    """All records of a JSON Lines file. Raises StageError naming file and line of the first bad one."""
    return list(iter_jsonl(path, record))


def iter_jsonl(path: str | Path, record: type[R]) -> Iterator[R]:
    """The records of a JSON Lines file, one at a time. Raises StageError naming file and line of the first bad one."""
    try:
        handle = open(path, "rb")  # noqa: SIM115 - opened apart so that only opening is guarded
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; run the stage that writes it, or pass another file") from None
    with handle:
        for number, line in enumerate(iter(lambda: handle.readline(LONGEST_LINE + 1), b""), 1):
            if len(line) > LONGEST_LINE:
                raise StageError(f"{path}:{number}: a record of over {LONGEST_LINE >> 20} MiB; delete the file to make it again")
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not line.strip():
                continue
            try:
                yield record.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"]) or "line"
                what = "truncated or not JSON in UTF-8" if first["type"] == "json_invalid" else first["msg"]
                problem = f"not a {record.__name__} record ({where}: {what})"
                raise StageError(f"{path}:{number}: {problem}; delete the file to make it again") from None


@contextmanager
def write_aside(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A handle on a temporary file beside `path` that is renamed to it when the block ends without an error."""
    path = Path(path)
    with _refusals(path, "choose another results folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)


@contextmanager
def directory_aside(output: Path, way_out: str = "choose another results folder") -> Iterator[Path]:
    """A folder beside `output` that takes its place when the block ends without an error. Raises StageError when the disk refuses."""
    with _refusals(output, way_out):
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".part", dir=output.parent))
        try:
            yield folder
            folder.chmod(0o777 & ~_umask())
            if output.exists():
                shutil.rmtree(output)
            folder.rename(output)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _refusals(path: Path, way_out: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StageError(f"{path}: cannot be written ({error.strerror}); free space or {way_out}") from None


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def write_jsonl(path: str | Path, records: Iterable[Record]) -> int:
    """Write records as JSON Lines, aside and then renamed; returns how many."""
    count = 0
    with write_aside(path) as handle:
        for record in records:
            try:
                handle.write(record.model_dump_json(exclude_none=True) + "\n")
            except ValueError as error:  # half a surrogate pair, endless nesting
                reason = " ".join(str(error).split())[:200]
                raise StageError(f"{path}: record {count + 1} cannot be written ({reason}); nothing was") from None
            count += 1
    return count


def write_json(path: str | Path, value: Record | dict[str, Any]) -> None:
    """Write one record or mapping as indented JSON, aside and then renamed."""
    data = value.model_dump(mode="json") if isinstance(value, Record) else value
    with write_aside(path) as handle:
        json.dump(data, handle, indent=1, ensure_ascii=False)
        handle.write("\n")
