"""When an answer counts as right by rule: ACC_R in two readings (DLLM-Searcher section 5.1.2)."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# R1-Searcher's scorer puts a blank in place of these, where SQuAD's leaves nothing.
_SEPARATORS = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))
_TRUTH = {"true": "yes", "false": "no"}


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and surplus blanks (SQuAD's rule)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def contains_answer(prediction: str, answers: Sequence[str]) -> bool:
    """ACC_R as the paper words it: a gold answer is a substring of the prediction, both normalised."""
    predicted = normalise(prediction)
    return any(gold in predicted for gold in map(normalise, answers) if gold)


def contains_words(prediction: str, answers: Sequence[str]) -> bool:
    """ACC_R as R1-Searcher's scorer reads it: every word of a gold answer is a word of the prediction, in any order; an answer that is
    true or false and nothing else is read as yes or no (in any case of its letters, where the scorer knows True and False alone)."""
    predicted = set(_words(prediction))
    return any(predicted.issuperset(gold) for gold in map(_words, answers) if gold)


def _words(text: str) -> list[str]:
    """R1-Searcher's words: in lower case, parted by blanks and punctuation, without articles."""
    return _ARTICLES.sub(" ", _TRUTH.get(text.lower(), text.lower()).translate(_SEPARATORS)).split()
