"""Iter-RetGen (Shao et al., 2023): each generation extends the next query, and each retrieval the next prompt."""

from __future__ import annotations

from dllm_agents.agents.game import Game, answer_in, plain_text


def play(game: Game) -> None:
    """`rounds` (3) times: search with the question and the whole previous generation, generate from the passages. The last answer
    counts."""
    generated = ""
    for number in range(game.options["rounds"]):
        passages = game.search(f"{game.question} {generated}", game.options["passages"])
        reply = game.ask("generate", passages=passages, round=number)
        generated = plain_text(reply)
    if generated:
        game.answer(answer_in(reply))
