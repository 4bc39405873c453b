"""BrowseComp-ZH (arXiv 2504.19314): 289 Chinese questions whose short answers are hard to find on the web and easy to check.

The questions are published encrypted, to keep them out of training texts. They are decrypted in memory and written only to
the results of a run. DLLM Agent plays 110 of them, drawn uniformly; its draw is not published, ours depends on the seed.
"""

from __future__ import annotations

import base64
import hashlib
import random
from functools import cached_property
from itertools import cycle
from typing import Any

import httpx

from dllm_agents import foreign
from dllm_agents.benchmarks.base import Benchmark, Split
from dllm_agents.benchmarks.multihop_qa import SearchEnvironment
from dllm_agents.benchmarks.qa_files import local_file
from dllm_agents.benchmarks.search import WebSearch, web_engine
from dllm_agents.benchmarks.xlsx import WorkbookError, rows
from dllm_agents.config import BrowseCompOptions
from dllm_agents.errors import StageError
from dllm_agents.records import Task

CANARY = "BrowseComp-ZH"
COLUMNS = ("Topic", "Question", "Answer", "canary")
MAX_FILE_BYTES = 20_000_000
SECONDS = 60.0
FORM = "请按以下格式作答：\n解释：<得出答案的依据>\n答案：<简短的最终答案>\n置信度：<0 到 100 的百分数>"
"""The form of an answer that the benchmark asks for, in words of our own."""


class BrowseCompZH(Benchmark):
    """The draw depends on file, seed and number alone. An episode succeeds if its answer contains the gold one; scores come from the
    LLM judge, as published, if one is configured."""

    name = "browsecomp_zh"
    options: BrowseCompOptions

    @cached_property
    def _content(self) -> bytes:
        if self.options.data is None:
            raise StageError("benchmarks.browsecomp_zh.data: missing; give the path or address of browsecomp-zh-encrypted.xlsx")
        return _content(self.options.data)

    @cached_property
    def _revised(self) -> bytes:
        return b"" if self.options.revised is None else _content(self.options.revised)

    @property
    def version(self) -> str:
        """Which file, which answers, which draw, and the search engine."""
        answers = f"revised {hashlib.sha256(self._revised).hexdigest()[:12]}" if self._revised else "as published"
        return f"{hashlib.sha256(self._content).hexdigest()[:12]} answers {answers} seed {self.seed}; web top {self.options.top_k}"

    def tasks(self, split: Split) -> list[Task]:
        """Test: `tasks` questions drawn uniformly by seed, or all if there are fewer; ids are rows of the file. Other splits are empty."""
        if split != "test":
            return []
        questions = read_questions(self._content, str(self.options.data))
        corrected = revised_answers(self._revised, str(self.options.revised)) if self._revised else {}
        by_text = {_words(question): number for number, (_, question, _) in enumerate(questions)}
        if unknown := next((place for question, (place, _) in corrected.items() if question not in by_text), None):
            raise StageError(f"{unknown}: its problem is no question of {self.options.data}")
        count = min(self.options.tasks or len(questions), len(questions))
        drawn = sorted(random.Random(f"{self.seed}/{self.name}").sample(range(len(questions)), count))
        return [self._task(number + 1, *questions[number], corrected) for number in drawn]

    def _task(self, row: int, topic: str, question: str, answer: str, corrected: dict[str, tuple[str, str]]) -> Task:
        _, final = corrected.get(_words(question), ("", answer))
        return Task(
            id=f"{self.name}/{row}",
            benchmark=self.name,
            split="test",
            category=topic,
            seed=self.seed,
            version=self.version,
            goal=f"{question}\n\n{FORM}",
            data={"set": self.name, "question": question, "answers": [final], "hops": []},
        )

    def environment(self, task: Task) -> SearchEnvironment:
        return SearchEnvironment(task, self._engine, self.options.top_k)

    @cached_property
    def _engine(self) -> WebSearch:
        return web_engine(self.options.web_search_url, "benchmarks.browsecomp_zh")


def read_questions(content: bytes, source: str) -> list[tuple[str, str, str]]:
    """(topic, question, answer) of every row of the encrypted workbook. Raises StageError, which never holds a question, naming the row."""
    try:
        head, *body = rows(content)
    except (WorkbookError, ValueError) as error:
        raise StageError(f"{source}: {error}; download browsecomp-zh-encrypted.xlsx again") from None
    columns = {name: letter for letter, name in head.items()}
    if missing := [name for name in COLUMNS if name not in columns]:
        raise StageError(f"{source}: has no column {missing[0]}; take browsecomp-zh-encrypted.xlsx")
    questions = []
    for number, row in enumerate(body, 1):
        topic, question, answer, canary = (row.get(columns[name], "") for name in COLUMNS)
        if canary != CANARY:
            raise StageError(f"{source}: row {number}: its canary is not {CANARY}; take the file as it is published")
        try:
            questions.append((decrypted(topic, canary), decrypted(question, canary), decrypted(answer, canary)))
        except ValueError:
            raise StageError(f"{source}: row {number}: does not decrypt to text; download the file again") from None
    if not questions:
        raise StageError(f"{source}: holds no question")
    return questions


def decrypted(text: str, canary: str) -> str:
    """Base64, XOR with the SHA-256 of the canary over and over, UTF-8: as the benchmark is published. Raises ValueError."""
    content = base64.b64decode(text, validate=True)
    plain = bytes(byte ^ key for byte, key in zip(content, cycle(hashlib.sha256(canary.encode()).digest()), strict=False)).decode("utf-8")
    if not plain.strip():
        raise ValueError("empty")
    return plain.strip()


def revised_answers(content: bytes, source: str) -> dict[str, tuple[str, str]]:
    """Question -> (place, corrected answer) of BrowseComp-ZH-revised (JSON Lines of problem, answer). Raises StageError naming the line."""

    def parse(row: Any, place: str) -> tuple[str, tuple[str, str]]:
        return _words(row["problem"]), (place, row["answer"].strip())

    return dict(foreign.json_lines(content, source, parse, "is not an object with the texts problem and answer"))


def _words(question: str) -> str:
    """A question without whitespace, which differs between the two files."""
    return "".join(question.split())


def _content(address: str) -> bytes:
    """The content of a file, given by path, hf://datasets/... or web address. Raises StageError if it cannot be read or is too large."""
    try:
        if address.startswith(("http://", "https://")):
            with httpx.stream("GET", address, headers=foreign.ACCEPTED, timeout=SECONDS, follow_redirects=True) as response:
                response.raise_for_status()
                return foreign.gather(foreign.body_of(response), MAX_FILE_BYTES, SECONDS)
        return foreign.file_bytes(local_file(address), MAX_FILE_BYTES)
    except foreign.TooMuch as error:
        raise StageError(f"{address}: {error}; take browsecomp-zh-encrypted.xlsx, of 88 KB") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise StageError(f"{address}: cannot be read ({reason}); check benchmarks.browsecomp_zh") from None


BENCHMARK = BrowseCompZH
