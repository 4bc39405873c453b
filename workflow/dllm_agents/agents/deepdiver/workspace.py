"""The files that a planner and its seekers share in an episode: in memory, bounded, and the same whichever seeker is faster.

Seekers work side by side. Each is given a copy of the workspace, and the copies are merged in the order of their tasks when all are
done, so that an episode can be played again from its answers alone.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping

MAX_FILES = 200
MAX_FILE_CHARACTERS = 200_000
MAX_CHARACTERS = 2_000_000
MAX_PATH_CHARACTERS = 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class WorkspaceError(Exception):
    """What a file tool answers an agent that asked for something impossible."""


class Workspace:
    """Relative path -> text. Every method raises WorkspaceError on a path outside the workspace or beyond its bounds."""

    def __init__(self, files: Mapping[str, str] = {}) -> None:
        self.files = dict(files)
        self._base = dict(files)

    def fork(self) -> Workspace:
        """A copy for a seeker, which `merge` takes back."""
        return Workspace(self.files)

    def merge(self, fork: Workspace) -> None:
        """Take over what a seeker wrote. Text that two seekers wrote to one file is kept from both, in the order of the merges."""
        for path, text in fork.files.items():
            before = fork._base.get(path)
            if text == before:
                continue
            mine = self.files.get(path, "")
            added = text[len(before or "") :] if text.startswith(before or "") else None
            if mine in ("", before) or added is None:
                self.files[path] = text
            else:
                self.files[path] = (mine + added)[:MAX_FILE_CHARACTERS]
        for path in fork._base.keys() - fork.files.keys():
            self.files.pop(path, None)

    def read(self, path: str) -> str:
        """A file's text."""
        name = normal_path(path)
        if name not in self.files:
            near = ", ".join(sorted(self.files)[:5]) or "the workspace is empty"
            raise WorkspaceError(f"{name}: no such file ({near})")
        return self.files[name]

    def append(self, path: str, text: str) -> int:
        """Add text to a file, which is made when it is not there; returns its length."""
        return self.write(path, self.files.get(normal_path(path), "") + text)

    def write(self, path: str, text: str) -> int:
        """Put text in place of a file's; returns its length."""
        name = normal_path(path)
        if len(text) > MAX_FILE_CHARACTERS:
            raise WorkspaceError(f"{name}: a file holds at most {MAX_FILE_CHARACTERS} characters")
        if name not in self.files and len(self.files) >= MAX_FILES:
            raise WorkspaceError(f"{name}: the workspace holds at most {MAX_FILES} files")
        if sum(map(len, self.files.values())) - len(self.files.get(name, "")) + len(text) > MAX_CHARACTERS:
            raise WorkspaceError(f"{name}: the workspace holds at most {MAX_CHARACTERS} characters")
        self.files[name] = text
        return len(text)

    def delete(self, path: str) -> None:
        """Remove a file."""
        self.read(path)
        del self.files[normal_path(path)]

    def listing(self, folder: str = "") -> list[str]:
        """The files beneath a folder, sorted."""
        prefix = f"{normal_path(folder)}/" if folder.strip("./ ") else ""
        return sorted(path for path in self.files if path.startswith(prefix))

    def matching(self, pattern: str, limit: int = 100) -> list[str]:
        """The files whose name fits a shell pattern, sorted."""
        return [path for path in sorted(self.files) if fnmatch.fnmatch(path.rpartition("/")[2], pattern[:MAX_PATH_CHARACTERS])][:limit]


def normal_path(path: str) -> str:
    """A path relative to the workspace. Raises WorkspaceError for one that leaves it."""
    parts = [part for part in path.strip().removeprefix("./").split("/") if part != "."]
    if len(path) > MAX_PATH_CHARACTERS or _CONTROL.search(path) or "\\" in path or "" in parts or ".." in parts:
        raise WorkspaceError(
            f"{path[:60]!r}: a path is relative to the workspace, without `..`, of at most {MAX_PATH_CHARACTERS} characters"
        )
    return "/".join(parts)
