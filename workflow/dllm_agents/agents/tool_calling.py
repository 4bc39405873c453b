"""Tool calling in BFCL's prompt mode (DiffuAgent section 2.2), single-turn: one prompt, one answer, judged by the score stage."""

from __future__ import annotations

from dllm_agents import prompts
from dllm_agents.agents.policy import Complete, add_usage
from dllm_agents.agents.react import MAX_COMPLETION_CHARACTERS, Played, call_seed
from dllm_agents.benchmarks.base import Benchmark
from dllm_agents.records import EpisodeStep, Task


def answer(benchmark: Benchmark, task: Task, complete: Complete, *, style: str, seed: int) -> Played:
    """Ask for the tool calls of a single-turn task. Whether they are right is left to the official checker in the score stage."""
    completion = complete(prompts.tool_messages(style, benchmark, task), seed=call_seed(seed, task, 0, 1))
    played = answered(completion.text)
    add_usage(played.usage, "policy", completion)
    played.steps[0] = played.steps[0].model_copy(
        update={
            "finish_reason": completion.finish_reason,
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "forwards": completion.nfe,
            "seconds": completion.seconds,
            "trace": completion.trace,
        }
    )
    return played


def answered(text: str) -> Played:
    """An episode of one step that holds the answer; too long an answer is cut, and cut text is never a valid call."""
    text = text[: 4 * MAX_COMPLETION_CHARACTERS]
    step = EpisodeStep(index=0, completion=text, action=text or None, done=True)
    return Played(steps=[step], answer=text, ended="answered")
