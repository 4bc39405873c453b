"""The multi-LLM agent (alpha-UMi; Shen et al., EMNLP 2024): one agent split into a planner, a caller and a summariser."""

from __future__ import annotations

from dllm_agents import thoughts
from dllm_agents.agents.game import Game, answer_in, plain_text
from dllm_agents.agents.search import read_reply
from dllm_agents.benchmarks.search_reply import Reply
from dllm_agents.records import Call


def play(game: Game) -> None:
    """At most `steps` (8) times the planner writes a rationale and names the next role: the caller writes a call, which is executed, or
    the summariser writes the answer, as it also does after the last step. A planner that gives up ends the episode."""
    history: list[tuple[str, str, str]] = []  # rationale, query, results
    rationale = ""
    for _ in range(game.options["steps"]):
        planned = game.ask("plan", "planner", history=history)
        rationale, following = plain_text(planned), next_role(planned)
        if following == "give up":
            return game.answer("")
        if following == "summariser":
            break
        query = query_in(game.ask("call", "caller", history=history, rationale=rationale))
        if not query:
            game.note(valid=False, error="no call")
            history.append((rationale, "", ""))
            continue
        passages = game.search(query, game.options["passages"])
        history.append((rationale, query, "\n".join(passage.text for passage in passages)))
    return game.answer(answer_in(game.ask("summarise", "summariser", history=history, rationale=rationale)))


def next_role(planned: Call) -> str:
    """The role that a planner's reply names last; an answer in our search format goes to the summariser."""
    reply = read_reply(planned)
    if isinstance(reply, Reply):
        return "caller" if reply.answer is None else "summariser"
    text = planned.text.casefold()
    places = {role: text.rfind(word) for role, word in (("caller", "caller"), ("summariser", "summari"), ("give up", "give up"))}
    return max(places, key=lambda role: places[role]) if max(places.values()) >= 0 else "caller"


def query_in(call: Call) -> str:
    """The query of a caller's reply: in the format of our prompts, or its last line."""
    reply = read_reply(call)
    if isinstance(reply, Reply):
        return reply.queries[0] if reply.queries else ""
    lines = [line.strip() for line in thoughts.behind(call.text).splitlines() if line.strip()]
    return lines[-1] if lines else ""
