"""BFCL-v4's single-turn entries from a folder with its files, `BFCL_v4_<category>.json` and the truths in `possible_answer/`. Tasks carry
their truth, and the installed checkers of BFCL-v3 judge them: the layout of these categories is the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from dllm_agents import foreign
from dllm_agents.benchmarks import bfcl_data
from dllm_agents.errors import StageError

T = TypeVar("T")
NAMES = {"simple": "simple_python", "java": "simple_java", "javascript": "simple_javascript"}
"""Category of BFCL-v3 -> its name in v4, where that is another one."""
MAX_FILE_BYTES = 50_000_000
_LAYOUT = 'each line is {"id": ..., "question": [[{"role": ..., "content": ...}]], "function": [{"name": ..., "parameters": {...}}]}'
_TRUTHS = '{"id": ..., "ground_truth": [{name: {parameter: [values]}}]}'


class Files:
    """The files of some categories in a folder."""

    def __init__(self, folder: str, categories: list[str]) -> None:
        self.folder, self.categories = Path(folder), categories
        self._entries: dict[str, list[dict[str, Any]]] = {}

    @cached_property
    def version(self) -> str:
        """What is stored in every task: the hash of all files that are read."""
        digest = sha256(b"".join(self._content(path) for category in self.categories for path in self._paths(category)))
        return f"BFCL-v4 sha256:{digest.hexdigest()[:12]}"

    def entries(self, category: str) -> list[dict[str, Any]]:
        """The entries of a category in file order, with their `truth`. Raises StageError for a missing file, one over 50 MB, a line in
        another layout, and an entry without truth."""
        if category not in self._entries:
            path, *truths = self._paths(category)
            right = dict(self._lines(truths[0], _truth, _TRUTHS)) if truths else {}
            read = self._lines(path, _entry, _LAYOUT)
            if truths and (lacking := next((entry["id"] for entry in read if entry["id"] not in right), None)) is not None:
                raise StageError(f"{truths[0]}: has no ground truth of {lacking}, which {path.name} asks; take both files from one release")
            self._entries[category] = [entry | {"truth": right.get(entry["id"], [])} for entry in read]
        return self._entries[category]

    def _paths(self, category: str) -> list[Path]:
        name = f"BFCL_v4_{NAMES.get(category, category)}.json"
        return [self.folder / name, *([] if bfcl_data.is_relevance(category) else [self.folder / "possible_answer" / name])]

    def _lines(self, path: Path, parse: Callable[[Any, str], T], layout: str) -> list[T]:
        return list(foreign.json_lines(self._content(path), str(path), parse, f"not an entry of BFCL-v4; {layout}"))

    @staticmethod
    def _content(path: Path) -> bytes:
        try:
            return foreign.file_bytes(path, MAX_FILE_BYTES)
        except OSError as error:
            raise StageError(f"{path}: {error.strerror}; correct benchmarks.bfcl.data, or leave its category out of `categories`") from None
        except foreign.TooMuch as excess:
            raise StageError(f"{path}: {excess}; benchmarks.bfcl.data names a folder with BFCL-v4's own files") from None


def _entry(line: Any, _: str) -> dict[str, Any]:
    functions = [{**function, "name": str(function["name"]), "parameters": dict(function["parameters"])} for function in line["function"]]
    messages = [{"role": str(message["role"]), "content": str(message["content"])} for message in line["question"][0]]
    return {"id": str(line["id"]), "question": [messages], "function": functions}


def _truth(line: Any, _: str) -> tuple[str, list[dict[str, Any]]]:
    return str(line["id"]), [dict(call) for call in line["ground_truth"]]
