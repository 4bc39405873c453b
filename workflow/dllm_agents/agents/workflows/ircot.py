"""IRCoT (Trivedi et al., ACL 2023): retrieval interleaved with the sentences of a chain of thought."""

from __future__ import annotations

import re

from dllm_agents import thoughts
from dllm_agents.agents.game import Game, answer_in
from dllm_agents.agents.search import read_reply
from dllm_agents.benchmarks.search import Passage
from dllm_agents.benchmarks.search_reply import Reply
from dllm_agents.records import Call

SENTENCE = re.compile(r".*?[.!?](?=\s|$)", re.DOTALL)
FINAL = "answer is"


def play(game: Game) -> None:
    """At most `steps` (8) times: generate the next sentence from the question, the passages and the sentences so far; stop at "answer is",
    otherwise search with the sentence and add new passages to the pool (at most `pool`, 15). A reader answers from the pool."""
    read(game, *reason(game, game.options["steps"]))


def reason(game: Game, steps: int) -> tuple[list[Passage], list[str], list[Passage]]:
    """The pool of passages, the sentences, and the latest passages at the end of reasoning."""
    passages = game.search(game.question, game.options["passages"])
    pool = dict.fromkeys(passages)
    thoughts: list[str] = []
    for _ in range(steps):
        reply = game.ask("think", passages=list(pool), latest=passages, thoughts=thoughts)
        sentence = next_sentence(reply)
        if not sentence or sentence in thoughts:  # a repeated sentence would repeat its search
            break
        thoughts.append(sentence)
        if FINAL in sentence:
            break
        passages = game.search(sentence, game.options["passages"])
        pool |= dict.fromkeys(passages[: max(0, game.options.get("pool", 15) - len(pool))])
    return list(pool), thoughts, passages


def read(game: Game, pool: list[Passage], thoughts: list[str], latest: list[Passage]) -> None:
    """The reader's answer."""
    game.answer(answer_in(game.ask("read", passages=pool, thoughts=thoughts, latest=latest)))


def next_sentence(call: Call) -> str:
    """The first sentence of a reply, or all of it without a full stop; for a reply in our search format its query or answer."""
    reply = read_reply(call)
    if isinstance(reply, Reply):
        return reply.queries[0] if reply.answer is None else f"So the {FINAL}: {reply.answer}."
    text = thoughts.behind(call.text).strip()[:4000]
    end = SENTENCE.match(text)
    return (end[0] if end else text).strip()
