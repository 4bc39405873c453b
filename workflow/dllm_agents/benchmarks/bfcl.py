"""BFCL-v3 (Berkeley Function-Calling Leaderboard), as DiffuAgent uses it: 17 categories, prompt mode, official checkers.

The data, prompt, decoder and checkers are those of the pinned bfcl-eval package. Everything that touches model output runs in an
isolated process (`bfcl_worker`); this module reads the data files and talks to it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from dllm_agents.benchmarks import bfcl_answers, bfcl_data, bfcl_faults, bfcl_generated, bfcl_v4
from dllm_agents.benchmarks.base import Benchmark, Split, Verdict
from dllm_agents.benchmarks.bfcl_checker import Checker
from dllm_agents.benchmarks.bfcl_conversation import Conversation
from dllm_agents.config import BFCL_MULTI_TURN, BFCL_SINGLE_TURN
from dllm_agents.errors import StageError
from dllm_agents.records import Task


class BFCL(Benchmark):
    """`options` is `config.BFCLOptions`. `task.data`: id, language, question (text), messages (as published), functions;
    of multi-turn tasks also turns (messages of every turn) and held_back (turn -> functions offered only then); of generated ones and of
    BFCL-v4's truth."""

    name = "bfcl"

    def __init__(self, options: Any, seed: int = 42) -> None:
        super().__init__(options, seed)
        self.checker = Checker(options.scratch)
        self.files = bfcl_v4.Files(options.data, options.categories) if options.data else None
        """BFCL-v4's files in place of the installed ones of v3."""

    @property
    def version(self) -> str:
        if self.files is not None:
            return self.files.version
        return bfcl_data.version() + (f"; faults {self.options.faults}" if self.options.faults else "")

    def tasks(self, split: Split) -> list[Task]:
        """Test: the published draw. Train: single-turn entries outside both the evaluated ones and the published 758."""
        if split == "test":
            chosen = {category: self._drawn(category)[: self.options.per_category] for category in self.options.categories}
            return self._spread(chosen, self.options.tasks, split)
        chosen = {
            category: self._drawn(category)[max(self.options.per_category, bfcl_data.DRAWN) :]
            for category in self.options.categories
            if not bfcl_data.is_multi_turn(category)
        }
        if self.options.train_tasks and not any(chosen.values()):
            raise StageError("benchmarks.bfcl: no entry is left to train on; lower per_category, add categories or set train_tasks: 0")
        return self._spread(chosen, self.options.train_tasks, split) + self._generated(self.options.generated_calls)

    def _drawn(self, category: str) -> list[int]:
        return bfcl_data.draw(len(bfcl_data.lines(category) if self.files is None else self.files.entries(category)))

    def _generated(self, count: int) -> list[Task]:
        if not count:
            return []
        entries = bfcl_generated.entries(count, self.seed, bfcl_data.function_names())
        return [
            self.task(
                f"{category}/{number}",
                "train",
                category,
                entry["question"],
                {
                    "id": f"{category}_{number}",
                    "language": bfcl_data.language(category),
                    "messages": [{"role": "user", "content": entry["question"]}],
                    **entry,
                },
            )
            for number, (category, entry) in enumerate(entries)
        ]

    def _spread(self, chosen: dict[str, list[int]], limit: int | None, split: Split) -> list[Task]:
        """At most `limit` entries, taken from the categories in turn in an order drawn by seed; in category and file order."""
        shuffled = {category: _shuffled(indices, f"{self.seed}:{split}:{category}") for category, indices in chosen.items()}
        rounds = max((len(indices) for indices in shuffled.values()), default=0)
        order = [(category, shuffled[category][turn]) for turn in range(rounds) for category in shuffled if turn < len(shuffled[category])]
        kept = set(order if limit is None else order[:limit])
        return [
            self._task(category, index, split) for category in chosen for index in sorted(chosen[category]) if (category, index) in kept
        ]

    def _task(self, category: str, index: int, split: Split) -> Task:
        entry = bfcl_data.entry(category, index) if self.files is None else self.files.entries(category)[index]
        question = "\n".join(message["content"] for message in entry["question"][0] if message["role"] == "user")
        data: dict[str, Any] = {
            "id": entry["id"],
            "language": bfcl_data.language(category),
            "question": question,
            "messages": entry["question"][0],
            "functions": entry["function"],
            **({"truth": entry["truth"]} if self.files is not None else {}),
        }
        if bfcl_data.is_multi_turn(category):
            data |= {"turns": entry["question"], "held_back": entry["missed_function"]}
            if self.options.faults:
                seed = f"{self.seed}:{entry['id']}:faults"
                data["functions"], data["faulty"] = bfcl_faults.with_faults(data["functions"], self.options.faults, seed)
        return self.task(f"{category}/{entry['id']}", split, category, question, data)

    def interactive(self, task: Task) -> bool:
        return bfcl_data.is_multi_turn(task.category)

    def messages(self, task: Task) -> list[dict[str, str]]:
        return self.checker.messages(task.data["functions"], task.data["messages"], task.category)

    def judge(self, task: Task, completion: str) -> Verdict:
        return self.judge_many([(task, completion)])[0]

    def judge_many(self, answers: Sequence[tuple[Task, str]]) -> list[Verdict]:
        """The official verdicts on single-turn answers, in order; over 1,000 a second."""
        return self.checker.judge_many([(task.category, *self._truth(task), text) for task, text in answers])

    def environment(self, task: Task) -> Conversation:
        """A multi-turn task, played in the isolated simulators. Raises TypeError for a single-turn task."""
        if not self.interactive(task):
            raise TypeError(f"{task.id} is answered once: it has judge(), not environment()")
        self._check_entry(task)
        return Conversation(self.checker, task, self.max_steps)

    def dialogue(self, task: Task) -> Conversation:
        """A multi-turn task; as `environment`."""
        return self.environment(task)

    def random_answer(self, task: Task, generator: random.Random) -> str:
        return bfcl_answers.random_call(task.data["functions"], task.data["language"], generator)

    def reference_answer(self, task: Task) -> str:
        """The ground truth as a completion; a plain refusal where nothing is to be called, the first function where anything is."""
        if task.category.endswith("irrelevance"):
            return bfcl_answers.REFUSAL
        if bfcl_data.is_relevance(task.category):
            return bfcl_answers.random_call(task.data["functions"][:1], task.data["language"], random.Random(0))
        identifier = "" if "truth" in task.data else self._entry_id(task)
        truth = bfcl_data.answers(task.category)[identifier] if identifier else task.data["truth"]
        return bfcl_answers.reference(truth, task.data["functions"], task.data["language"])

    def _truth(self, task: Task) -> tuple[Any, ...]:
        """What a task is judged by: its entry in BFCL's files, or what a generated one carries."""
        return (task.data["functions"], task.data["truth"]) if "truth" in task.data else (self._entry_id(task),)

    def _entry_id(self, task: Task) -> str:
        self._check_entry(task)
        if bfcl_data.is_multi_turn(task.category):
            raise StageError(f"{task.id}: a multi-turn task has no single answer; play it with environment()")
        return str(task.data["id"])

    def _check_entry(self, task: Task) -> None:
        if task.version != self.version:
            raise StageError(f"{task.id}: made with {task.version}, but {self.version} is installed; delete the task file to draw it again")
        entries = bfcl_data.index_of(task.category) if task.category in BFCL_SINGLE_TURN + BFCL_MULTI_TURN else {}
        if "truth" not in task.data and task.data.get("id") not in entries:
            raise StageError(
                f"{task.id}: BFCL has no entry {task.data.get('id')!r} in {task.category!r}; delete the task file to draw it again"
            )


def _shuffled(items: list[int], seed: str) -> list[int]:
    return random.Random(seed).sample(items, len(items))


BENCHMARK = BFCL
