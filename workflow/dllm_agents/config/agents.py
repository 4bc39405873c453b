"""What an agent is."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from dllm_agents.config.section import Section

SCRIPTED = ("random", "empty", "teacher")
MODULE_ROLES = ("memory", "verifier", "selector", "editor", "planner", "seeker", "writer")


class Agent(Section):
    """A workflow with backbones in its roles; `policy` may also be one of the scripted baselines."""

    policy: str = Field(description="backbone, or random / empty / teacher")
    workflow: Literal["planner"] | None = Field(
        default=None, description="`planner` plays search tasks with a planner, seekers and a writer; default: the benchmark's own"
    )
    planner: str | None = Field(default=None, description="backbone that plans (planner workflow); default: the policy's")
    seeker: str | None = Field(default=None, description="backbone that searches (planner workflow); default: the policy's")
    writer: str | None = Field(default=None, description="backbone that answers (planner workflow); default: the policy's")
    benchmarks: list[str] | None = Field(default=None, description="default: all of the run that the policy has")
    history: Literal["full", "recent", "last10"] = "full"
    attempts: int = Field(default=3, ge=1, description="completions asked for until an action parses")
    memory: str | None = Field(default=None, description="backbone of the memory module (embodied)")
    memory_every: int = Field(default=5, ge=1, description="steps between two memories (k_mem)")
    memory_keep: int = Field(default=2, ge=0, description="latest interactions kept beside the memory")
    verifier: str | None = Field(default=None, description="backbone of the early-exit verifier (embodied)")
    verifier_prompt: Literal["strict", "modest"] = "modest"
    verifier_every: int = Field(default=5, ge=1, description="steps between two verifications")
    selector: str | None = Field(default=None, description="backbone of the tool selector (tool calling)")
    selector_confidence: float | None = Field(
        default=None,
        gt=0.5,
        le=1,
        description="choose by a tool graph learnt from accepted trajectories where every tool is this sure to be needed or not; "
        "the selector's backbone is asked elsewhere. Null always asks it",
    )
    editor: str | None = Field(default=None, description="backbone of the tool-call editor (tool calling)")
    acting: Literal["react", "p_react", "tool_first"] = Field(
        default="react",
        description="search: call after thinking; P-ReAct, the call decoded first; or the call first by prompt (AR control)",
    )
    decoding: dict[str, Any] = Field(default={}, description="decoding settings of the policy that differ from its backbone's")
    tasks: dict[str, int] = Field(default={}, description="benchmark -> play only n of its tasks, at even distances")
    concurrency: int = Field(default=8, ge=1, description="episodes in flight")
    max_tokens: int | None = Field(
        default=None, ge=1, description="new tokens an episode may take over all roles; it ends before the next call"
    )
    max_seconds: float | None = Field(default=None, gt=0, description="wall seconds an episode may take; it ends before the next call")
    seed: int | None = None
