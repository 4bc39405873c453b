"""Tool calling in BFCL's prompt mode (DiffuAgent section 2.2), single-turn: one prompt, one answer, judged by the score stage;
multi-turn: a conversation with the isolated simulators."""

from __future__ import annotations

from typing import Any

from dllm_agents import prompts
from dllm_agents.agents.modules.editor import Editor
from dllm_agents.agents.modules.selector import Seen, Selecting
from dllm_agents.agents.policy import Complete, EpisodeLimit, ending_of
from dllm_agents.agents.react import call_seed, close, take_step
from dllm_agents.benchmarks.base import Benchmark, Dialogue
from dllm_agents.benchmarks.bfcl_language import call_pattern, called_names
from dllm_agents.client.client import PromptTooLong
from dllm_agents.records import Ending, EpisodeStep, Outcome, Task, ToolMeasures

MAX_ANSWER = 16_000


def answer(
    benchmark: Benchmark,
    task: Task,
    complete: Complete,
    *,
    style: str,
    seed: int,
    selector: Selecting | None = None,
    editor: Editor | None = None,
    constrain: bool = False,
) -> Outcome:
    """Ask for the tool calls of a single-turn task, and let the modules, where given, choose the tools before and mend the
    form after. With `constrain` only calls of the offered functions can be written, where a call in Python is wanted. Whether the calls
    are right is left to the official checker in the score stage."""
    functions = list(task.data["functions"])
    if selector is not None:
        functions = [dict(function) for function in selector.select(Seen(task.goal), functions, call_seed(seed, task, 0, 0))]
        task = task.model_copy(update={"data": task.data | {"functions": functions}})
    constraint = held_to(task) if constrain else None
    messages, key = prompts.tool_messages(style, benchmark, task), call_seed(seed, task, 0, 1)
    completion = complete(messages, seed=key, constraint=constraint)
    text = completion.text
    if editor is not None:
        text = editor.edit(text, functions, call_seed(seed, task, 0, 2))
    outcome = answered(text)
    outcome.steps[0].call = completion.key
    if selector is not None:
        names = [str(function["name"]) for function in functions]
        outcome.tools = ToolMeasures(selected_tools=[names], selector_saved_calls=selector.saved_calls)
    return outcome


def held_to(task: Task) -> dict[str, Any] | None:
    """What an answer to a single-turn task is held to: calls of the offered functions, where one in Python is wanted."""
    functions = task.data["functions"]
    readable = functions and task.data.get("language") == "Python" and "irrelevance" not in task.category
    return {"regex": call_pattern(functions)} if readable else None


def converse(
    conversation: Dialogue,
    task: Task,
    complete: Complete,
    *,
    seed: int,
    selector: Selecting | None = None,
    editor: Editor | None = None,
) -> Outcome:
    """Play a multi-turn task in BFCL's own protocol: the whole official chat is sent every time, a reply without a call ends the turn,
    and the environment ends the episode (DiffuAgent section 5.2; BFCL-v3's base handler).

    The selector chooses before every reply, from all tools, the turn's request and what was said and done before it, which tools the
    system prompt lists (equation 6); the editor mends every reply before it is run (equation 7)."""
    outcome = Outcome(initial_observation=conversation.reset())
    offered = chosen = conversation.offered
    selected: list[list[str]] = []
    ended: Ending | None = None
    done = False
    try:
        while not done:
            index = len(outcome.steps)
            if selector is not None:
                offered = conversation.offered
                names = {function["name"] for function in offered}
                before = [name for step in outcome.steps for name in called_names(step.action or "", names)]
                seen = Seen(conversation.request, (before or [""])[-1], conversation.conversation[1:])
                chosen = [dict(function) for function in selector.select(seen, offered, call_seed(seed, task, index, 0))]
                selected.append([function["name"] for function in chosen])
            messages = conversation.conversation if len(chosen) == len(offered) else conversation.showing(chosen)
            completion = complete(messages, seed=call_seed(seed, task, index, 1))
            text = completion.text[:MAX_ANSWER]
            if editor is not None:
                text = editor.edit(text, chosen, call_seed(seed, task, index, 2))[:MAX_ANSWER]
            outcome.steps.append(take_step(conversation, index, text or None, call=completion.key))
            done = outcome.steps[-1].done
    except (EpisodeLimit, PromptTooLong) as stop:
        ended = ending_of(stop)
    outcome.tools = ToolMeasures(error_type=conversation.verdict.error_type if conversation.verdict is not None else None)
    if selector is not None:
        outcome.tools.selected_tools, outcome.tools.selector_saved_calls = selected, selector.saved_calls
    close(conversation, outcome)
    outcome.ended = ended or outcome.ended
    return outcome


def answered(text: str) -> Outcome:
    """An episode of one step that holds the answer; too long an answer is cut, and a cut answer is never a valid call."""
    text = text[:MAX_ANSWER]
    step = EpisodeStep(index=0, action=text or None, done=True)
    return Outcome(steps=[step], answer=text, ended="answered")
