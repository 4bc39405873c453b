"""Search-o1 (Li et al., EMNLP 2025): searches within one growing chain of reasoning, with a second prompt that condenses the results."""

from __future__ import annotations

from dllm_agents.agents.game import Game, answer_in
from dllm_agents.agents.search import read_reply
from dllm_agents.benchmarks import dialects
from dllm_agents.benchmarks.search import Passage
from dllm_agents.benchmarks.search_reply import Reply
from dllm_agents.config.dialects import DIALECTS, OURS

FINAL = "**Final Information**"
NOTHING = "No helpful information found."


def play(game: Game) -> None:
    """At most `turns` (15) replies and `searches` (10): after a query comes a block with the condensed results, or with a notice if the
    query is a repeat or the limit is reached, and the reasoning continues; any other reply is the last."""
    tags = DIALECTS[game.dialect or OURS]
    reasoning, queries = "", dict[str, str]()
    for _ in range(game.options["turns"]):
        call = game.ask(
            "reason", so_far=reasoning if tags.growing else "", results=list(queries.items()), searches=game.options["searches"]
        )
        reply = read_reply(call, game.dialect)
        if not isinstance(reply, Reply) or not reply.queries:
            break
        query = reply.queries[0]
        reasoning += dialects.closed(tags, call.whole_text)
        if query in queries:
            notice = "You have searched for this already; its results are above."
        elif len(queries) >= game.options["searches"]:
            notice = "The limit of searches is reached; go on without searching."
        else:
            notice = queries[query] = condense(game, reasoning, query, game.search(query, game.options["passages"]))
        reasoning += dialects.wrapped(tags, notice)
    game.answer(reply.answer or "" if isinstance(reply, Reply) else "")


def condense(game: Game, reasoning: str, query: str, passages: list[Passage]) -> str:
    """The documents' information that matters to the reasoning so far (Reason-in-Documents)."""
    documents = "\n".join(f"{passage.title}: {passage.text}" for passage in passages)[: game.options["characters"]]
    reply = game.ask("condense", reasoning=reasoning[-game.options["characters"] :], query=query, documents=documents)
    return answer_in(reply).rpartition(FINAL)[2].strip(" :\n")[: game.options["characters"]] or NOTHING
