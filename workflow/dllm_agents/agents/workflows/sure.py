"""SuRe (Kim et al., ICLR 2024): candidate answers, each with a summary that supports it; summaries are verified and ranked."""

from __future__ import annotations

import re
from itertools import permutations

from dllm_agents.agents.game import Game, answer_in

_MARK = re.compile(r"^[\s*-]*(?:\(?\d{1,2}[.)](?!\d)\s*)?")
"""What a line of a list begins with; a year or a number is no such mark."""


def play(game: Game) -> None:
    """Retrieve once; propose `candidates` (2) answers; summarise the passages in support of each; ask whether each summary is valid (1 or
    0) and, for each ordered pair, which is more informative (1, 0 or 1/2). The candidate with the greatest sum is the answer."""
    passages = game.search(game.question, game.options["passages"])
    proposed = game.ask("candidates", passages=passages, count=game.options["candidates"])
    candidates = candidates_of(answer_in(proposed), game.options["candidates"])
    if not candidates:
        return game.answer("")
    summaries = {one: answer_in(game.ask("summarise", passages=passages, candidate=one)) for one in candidates}
    scores = {one: validity(game, one, summary) for one, summary in summaries.items()}
    for one, other in permutations(candidates, 2):
        scores[one] += preference(game, summaries[one], summaries[other])
    return game.answer(max(candidates, key=lambda one: scores[one]))


def candidates_of(text: str, count: int) -> list[str]:
    """The candidates in a reply, one a line or numbered in one line, without repeats."""
    lines = text.replace("(b)", "\n").replace("(a)", "\n").replace(";", "\n").splitlines()
    return [item for item in dict.fromkeys(_MARK.sub("", line).strip(" .*") for line in lines) if item][:count]


def validity(game: Game, candidate: str, summary: str) -> float:
    """1 if the backbone accepts that the summary supports the candidate, else 0."""
    verdict = answer_in(game.ask("validate", candidate=candidate, summary=summary)).casefold()
    return float("true" in verdict or verdict.startswith("yes"))


def preference(game: Game, first: str, second: str) -> float:
    """1 if the backbone finds the first summary more informative, 0 for the second, 1/2 for both or neither."""
    verdict = answer_in(game.ask("rank", first=first, second=second)).casefold()
    one, other = "summary 1" in verdict or verdict == "1", "summary 2" in verdict or verdict == "2"
    return 0.5 if one == other else float(one)
