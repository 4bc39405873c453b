"""Tool calling in BFCL's prompt mode (DiffuAgent section 2.2), single-turn: one prompt, one answer, judged by the score stage;
multi-turn: a conversation with the isolated simulators."""

from __future__ import annotations

import time

from dllm_agents import prompts
from dllm_agents.agents.modules.editor import Editor
from dllm_agents.agents.modules.selector import Selector
from dllm_agents.agents.policy import Complete, add_usage, step_cost
from dllm_agents.agents.react import Played, call_seed, close
from dllm_agents.benchmarks.base import Benchmark
from dllm_agents.benchmarks.bfcl_conversation import Conversation
from dllm_agents.records import EpisodeStep, Task

MAX_ANSWER = 16_000


def answer(
    benchmark: Benchmark,
    task: Task,
    complete: Complete,
    *,
    style: str,
    seed: int,
    selector: Selector | None = None,
    editor: Editor | None = None,
) -> Played:
    """Ask for the tool calls of a single-turn task, and let the modules, where given, choose the tools before and mend the
    form after. Whether the calls are right is left to the official checker in the score stage."""
    functions = list(task.data["functions"])
    if selector is not None:
        functions = [dict(function) for function in selector.select(task.goal, functions, call_seed(seed, task, 0, 0))]
        task = task.model_copy(update={"data": task.data | {"functions": functions}})
    completion = complete(prompts.tool_messages(style, benchmark, task), seed=call_seed(seed, task, 0, 1))
    text = completion.text
    if editor is not None:
        text = editor.edit(text, functions, call_seed(seed, task, 0, 2))
    played = answered(text)
    add_usage(played.usage, "policy", completion)
    for module in (selector, editor):
        played.usage |= module.usage if module is not None else {}
    if selector is not None:
        played.extra |= {"selected_tools": [function["name"] for function in functions], "selector_fallbacks": selector.fallbacks}
    if editor is not None:
        played.extra["edits"] = editor.edits
    played.steps[0] = played.steps[0].model_copy(update={"completion": completion.text[:MAX_ANSWER], **step_cost(completion)})
    return played


def converse(conversation: Conversation, task: Task, complete: Complete, *, seed: int) -> Played:
    """Play a multi-turn task in BFCL's own protocol: the whole official chat is sent every time, a reply without a call ends the turn,
    and the environment ends the episode (DiffuAgent section 2.2; BFCL-v3's base handler)."""
    played = Played(initial_observation=conversation.reset())
    done = False
    while not done:
        index = len(played.steps)
        completion = complete(conversation.conversation, seed=call_seed(seed, task, index, 1))
        add_usage(played.usage, "policy", completion)
        started = time.perf_counter()
        observation, progress, done, valid = conversation.step(completion.text[:MAX_ANSWER])
        played.steps.append(
            EpisodeStep(
                index=index,
                completion=completion.text[:MAX_ANSWER],
                action=completion.text[:MAX_ANSWER] or None,
                observation=observation,
                progress=progress,
                valid=valid,
                done=done,
                environment_seconds=time.perf_counter() - started,
                **step_cost(completion),
            )
        )
    if conversation.verdict is not None:
        played.extra["error_type"] = conversation.verdict.error_type
    return close(conversation, played)


def answered(text: str) -> Played:
    """An episode of one step that holds the answer; too long an answer is cut, and a cut answer is never a valid call."""
    text = text[:MAX_ANSWER]
    step = EpisodeStep(index=0, completion=text, action=text or None, done=True)
    return Played(steps=[step], answer=text, ended="answered")
