"""The journal of a rollout: finished episodes, appended as they come, so that an interrupted run goes on where it stopped.

It is no output of the workflow (Snakemake deletes the outputs of a job it runs again). Its first line names the version that wrote it
and a fingerprint of everything the episodes depend on. A journal with another fingerprint is kept beside the new one, and taken up
again when its settings are.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from dllm_agents import __version__
from dllm_agents.errors import StageError
from dllm_agents.records import TracedEpisode


class Journal:
    """Episodes by task id, on disk. Holds an exclusive lock while open, so two runs cannot write to one journal.

    Raises StageError for a journal that another run or another version writes, or that cannot be written; nothing of it is changed."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._opened()
        other = self._fingerprint()
        if other not in (None, fingerprint):
            self._set_aside(str(other), fingerprint)
        self.episodes = self._resume(fingerprint)

    def _opened(self) -> IO[bytes]:
        """The file, locked."""
        try:
            if self.path.exists() and not self.path.stat().st_mode & 0o222:
                raise PermissionError(0, "it is read-only")
            if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
                raise PermissionError(0, "it is a link, or no file; remove it")
            # What a link names is another's, also where the link is made this moment.
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            file: IO[bytes] = os.fdopen(descriptor, "a+b")
        except OSError as error:
            raise StageError(f"{self.path}: cannot be opened ({error.strerror}); make the results folder writable") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise StageError(f"{self.path}: another run is writing to it; wait for that run to end, or stop it") from None
        return file

    def _fingerprint(self) -> str | None:
        """The fingerprint in the first line; None before there is one."""
        self._file.seek(0)
        header, whole, _ = self._file.read().partition(b"\n")
        if not whole:
            return None  # killed before it held an episode
        try:
            written = json.loads(header)
            version, fingerprint = str(written.get("version")), str(written["fingerprint"])
        except (ValueError, KeyError, AttributeError):
            version, fingerprint = "another program", ""
        if version != __version__:
            self._file.close()
            way_out = "go on with that version, or move the file away to play its episodes again"
            raise StageError(f"{self.path}: written by dllm-agents {version}, this is {__version__}; {way_out}")
        return fingerprint

    def _set_aside(self, other: str, fingerprint: str) -> None:
        """Keep the journal of other settings beside this one, and take up one that was kept for these."""
        kept = next(path for number in count() if not (path := self._beside(other, number)).exists())
        os.rename(self.path, kept)
        print(f"{self.path}: episodes played with other settings are kept in {kept.name}", file=sys.stderr, flush=True)
        self._file.close()
        if (earlier := self._beside(fingerprint)).exists():
            os.rename(earlier, self.path)
        self._file = self._opened()

    def _beside(self, fingerprint: str, number: int = 0) -> Path:
        return self.path.with_name(f"{self.path.stem}.{fingerprint[:8]}{f'-{number}' if number else ''}.journal")

    def _resume(self, fingerprint: str) -> dict[str, TracedEpisode]:
        """Read what is there; a torn or damaged line is passed over, since its episode is simply played again. What is whole
        stays where it is: a kill here must not lose it."""
        if self._fingerprint() is None:
            self._file.truncate(0)
            self._write(_header(fingerprint) + b"\n")
            return {}
        self._file.seek(0)
        lines = self._file.read().split(b"\n")
        if lines[-1]:
            self._write(b"\n")
        return {episode.task_id: episode for episode in _whole(lines[1:])}

    def append(self, episode: TracedEpisode) -> None:
        """Store a finished episode; it survives the death of this process."""
        self._write(episode.model_dump_json(exclude_none=True).encode() + b"\n")
        self.episodes[episode.task_id] = episode

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise StageError(f"{self.path}: cannot be written ({error.strerror}); free space and run again") from None

    def remove(self) -> None:
        """Delete the journal, once its episodes stand in their final file."""
        os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Release the lock. What a full disk refused is not written again: it has been reported."""
        with suppress(OSError):
            self._file.close()


def read(path: Path, fingerprint: str) -> Iterator[TracedEpisode]:
    """The whole episodes of a journal that this version wrote with a fingerprint; none of any other. Nothing of it is changed."""
    header, *lines = path.read_bytes().split(b"\n")
    if header == _header(fingerprint):
        yield from _whole(lines)


def _header(fingerprint: str) -> bytes:
    return json.dumps({"version": __version__, "fingerprint": fingerprint}).encode()


def _whole(lines: Iterable[bytes]) -> Iterator[TracedEpisode]:
    for line in lines:
        with suppress(ValidationError, UnicodeDecodeError):
            yield TracedEpisode.model_validate_json(line)
