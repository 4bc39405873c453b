"""Adaptive-RAG (Jeong et al., NAACL 2024): a classifier of the question chooses no retrieval, a single one, or iterative retrieval (IRCoT).

The paper trains T5-large to predict which strategy answers a question. Here a naive Bayes model over the question's words predicts how
many searches the teacher made (`classifier: trajectories`), or the backbone classifies (`classifier: backbone`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dllm_agents.agents.game import Game, answer_in
from dllm_agents.agents.workflows import ircot
from dllm_agents.benchmarks.base import Benchmark
from dllm_agents.commands import say
from dllm_agents.errors import StageError
from dllm_agents.records import Trajectory

CLASSES = ("none", "single", "iterative")
_WORD = re.compile(r"\w+")


def play(game: Game) -> None:
    """Classify the question, then take the branch."""
    branch = classify(game)
    game.counts[f"{branch}_retrieval"] += 1
    if branch == "iterative":
        return ircot.read(game, *ircot.reason(game, game.options["steps"]))
    passages = game.search(game.question, game.options["passages"]) if branch == "single" else []
    return ircot.read(game, passages, [], passages)


def classify(game: Game) -> str:
    """The question's class; `iterative` if the backbone names none of the three."""
    if game.options["classifier"] == "trajectories":
        return str(game.learnt.classify(game.question))
    verdict = answer_in(game.ask("classify")).casefold()
    return next((name for name in CLASSES if name in verdict), "iterative")


@dataclass(frozen=True)
class Classifier:
    """Naive Bayes over word counts by class, with add-one smoothing."""

    words: Mapping[str, Counter[str]]
    questions: Counter[str]

    def classify(self, question: str) -> str:
        """The likeliest class; ties go to the one with fewer searches."""
        vocabulary = len({word for counts in self.words.values() for word in counts})

        def log_likelihood(name: str) -> float:
            total = self.words[name].total() + vocabulary
            seen = (math.log((self.words[name][word] + 1) / total) for word in words_of(question))
            return math.log(self.questions[name]) + sum(seen)

        return max((name for name in CLASSES if self.questions[name]), key=log_likelihood)


def learn(trajectories: Sequence[Trajectory], options: Mapping[str, Any], _benchmark: Benchmark) -> Classifier | None:
    """Fit the classifier to the number of searches in each trajectory; says so if all have the same class. Raises StageError without
    trajectories."""
    if options["classifier"] == "backbone":
        return None
    if options["classifier"] != "trajectories":
        raise StageError(f"workflow adaptive_rag: classifier {options['classifier']!r}; allowed: trajectories, backbone")
    words: dict[str, Counter[str]] = {name: Counter() for name in CLASSES}
    questions: Counter[str] = Counter()
    for trajectory in trajectories:
        searches = sum("<tool_call>" in (step.action or "") for step in trajectory.steps)
        name = CLASSES[min(searches, 2)]
        words[name].update(words_of(trajectory.task.goal))
        questions[name] += 1
    if not questions:
        raise StageError(
            "workflow adaptive_rag: no accepted trajectory to learn from; raise train_tasks, or set options: {classifier: backbone}"
        )
    if len(questions) == 1:
        say(f"workflow adaptive_rag: all accepted trajectories have the class {next(iter(questions))}, so every question will")
    return Classifier(words, questions)


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
