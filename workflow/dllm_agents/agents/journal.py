"""The journal of a rollout: finished episodes, appended as they come, so that an interrupted run goes on where it stopped.

It is no output of the workflow (Snakemake deletes the outputs of a job it runs again). Its first line is a fingerprint of
everything the episodes depend on; a journal with another fingerprint is of another run and is started afresh.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from dllm_agents.errors import StageError
from dllm_agents.records import Episode


class Journal:
    """Episodes by task id, on disk. Holds an exclusive lock while open, so two runs cannot write to one journal."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file: IO[bytes] = open(path, "a+b")  # noqa: SIM115 - stays open, and locked, for the run
        except OSError as error:
            raise StageError(f"{path}: cannot be opened ({error.strerror}); make the results folder writable") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise StageError(f"{path}: another run is writing to it; wait for that run to end, or stop it") from None
        self.episodes = self._resume(fingerprint)

    def _resume(self, fingerprint: str) -> dict[str, Episode]:
        """Read what is there; a torn or damaged line is passed over, since its episode is simply played again. What is whole
        stays where it is: a kill here must not lose it."""
        self._file.seek(0)
        content = self._file.read()
        lines = content.split(b"\n")
        header = json.dumps({"fingerprint": fingerprint}).encode()
        if lines[0] != header or len(lines) == 1:
            self._file.truncate(0)
            self._write(header + b"\n")
            return {}
        if lines[-1]:
            self._write(b"\n")
        episodes: dict[str, Episode] = {}
        for line in lines[1:]:
            try:
                episode = Episode.model_validate_json(line)
            except (ValidationError, UnicodeDecodeError):
                continue
            episodes[episode.task_id] = episode
        return episodes

    def append(self, episode: Episode) -> None:
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
