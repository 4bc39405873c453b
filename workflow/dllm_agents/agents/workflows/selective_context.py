"""Selective-Context (Li et al., EMNLP 2023): phrases with low self-information under a language model are dropped from the prompt.

The paper scores with GPT-2 and splits noun phrases with spaCy. Here a bigram model of the search results in accepted trajectories scores,
and phrases are split before function words and at punctuation.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dllm_agents.agents.game import Game, answer_in
from dllm_agents.benchmarks.base import Benchmark
from dllm_agents.benchmarks.search import Passage
from dllm_agents.errors import StageError
from dllm_agents.records import Trajectory

START = ""
BACKOFF = 0.5
_TOKEN = re.compile(r"\w+|[^\w\s]")
_WORDS = "a an the of in on at to for from by with and or but is are was were be been has have had that which who whose it its as"
_FUNCTION_WORDS = frozenset(_WORDS.split())


def play(game: Game) -> None:
    """Retrieve once, drop the phrases whose mean self-information is below the `removed` (0.35) quantile, answer once from the rest."""
    passages = game.search(game.question, game.options["passages"])
    kept = compress(passages, game.learnt, game.options["removed"])
    before, after = (sum(len(_TOKEN.findall(passage.text)) for passage in part) for part in (passages, kept))
    game.counts["context_words"] += before
    game.counts["context_words_kept"] += after
    game.answer(answer_in(game.ask("read", passages=kept)))


@dataclass(frozen=True)
class Bigrams:
    """Counts of words and of pairs of words, interpolated: p = (1 - b) p(word | before) + b p(word), with add-one smoothing of words."""

    words: Counter[str]
    pairs: Counter[tuple[str, str]]
    before: Counter[str]

    def self_information(self, tokens: Sequence[str]) -> list[float]:
        """-log2 p of every token given the one before it."""
        total, vocabulary = self.words.total(), len(self.words) + 1
        bits = []
        for previous, token in zip([START, *tokens], tokens, strict=False):
            alone = (self.words[token] + 1) / (total + vocabulary)
            after = self.pairs[previous, token] / self.before[previous] if self.before[previous] else alone
            bits.append(-math.log2((1 - BACKOFF) * after + BACKOFF * alone))
        return bits


def learn(trajectories: Sequence[Trajectory], options: Mapping[str, Any], _benchmark: Benchmark) -> Bigrams:
    """The bigram model of search results in accepted trajectories. Raises StageError if there are none."""
    model = Bigrams(Counter(), Counter(), Counter())
    for trajectory in trajectories:
        for line in (line for step in trajectory.steps for line in step.observation.splitlines()):
            tokens = [token.casefold() for token in _TOKEN.findall(line)]
            model.words.update(tokens)
            model.pairs.update(zip([START, *tokens], tokens, strict=False))
            model.before.update([START, *tokens[:-1]])
    if not model.words:
        raise StageError("workflow selective_context: no accepted trajectory has search results to learn from; raise train_tasks")
    return model


def compress(passages: Sequence[Passage], model: Bigrams, removed: float) -> list[Passage]:
    """The passages without their least informative phrases, with one threshold for all of them."""
    cut = [phrases(passage.text) for passage in passages]
    scored = [[(phrase, fmean(model.self_information([token.casefold() for token in phrase]))) for phrase in text] for text in cut]
    values = sorted(value for text in scored for _, value in text)
    threshold = values[min(len(values) - 1, int(removed * len(values)))] if values else 0.0
    return [
        passage._replace(text=" ".join(" ".join(phrase) for phrase, value in text if value >= threshold))
        for passage, text in zip(passages, scored, strict=True)
    ]


def phrases(text: str) -> list[list[str]]:
    """A text's tokens in phrases: a new one begins at a function word that follows another word, and behind punctuation."""
    cut: list[list[str]] = [[]]
    for token in _TOKEN.findall(text):
        previous = cut[-1][-1].casefold() if cut[-1] else ""
        if previous and (not previous[-1].isalnum() or (token.casefold() in _FUNCTION_WORDS and previous not in _FUNCTION_WORDS)):
            cut.append([])
        cut[-1].append(token)
    return [phrase for phrase in cut if phrase]
