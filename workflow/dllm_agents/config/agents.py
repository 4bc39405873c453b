"""What an agent is."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from dllm_agents.config.roles import MODULES, TEAM, WORKFLOWS
from dllm_agents.config.section import NOTHING, Count, Section

SCRIPTED = ("random", "empty", "teacher")


class Memory(Section):
    """The memory module of embodied agents (DiffuAgent, equations 3 and 4)."""

    backbone: str = Field(description="backbone that keeps the memory")
    every: int = Field(default=5, ge=1, description="steps between two memories (k_mem)")
    keep: int = Field(default=2, ge=0, description="latest interactions kept beside the memory")


class Verifier(Section):
    """The early-exit verifier of embodied agents (DiffuAgent section 5.1, equation 5)."""

    backbone: str = Field(description="backbone that verifies")
    prompt: Literal["strict", "modest"] = "modest"
    every: int = Field(default=5, ge=1, description="steps between two verifications")


class Selector(Section):
    """The tool selector of tool calling (DiffuAgent, equation 6)."""

    backbone: str = Field(description="backbone that chooses tools")
    confidence: float | None = Field(
        default=None,
        gt=0.5,
        le=1,
        description="choose by a tool graph learnt from accepted trajectories where every tool is this sure to be needed or not; "
        "the backbone is asked elsewhere. Null always asks it",
    )


class Editor(Section):
    """The tool-call editor of tool calling (DiffuAgent, equation 7)."""

    backbone: str = Field(description="backbone that mends calls")


class TeamBudget(Section):
    """What an episode of planner and seekers may take. The paper gives 15 rounds, and a cap on tool calls without its number; DeepDiver-V2
    gives a seeker 30 turns."""

    planner_turns: int = Field(default=15, ge=1, le=100, description="replies of the planner")
    seeker_turns: int = Field(default=15, ge=1, le=100, description="replies of each seeker")
    tool_calls: int = Field(default=100, ge=1, description="calls of the episode; seekers at work side by side share what is left evenly")


class Agent(Section):
    """A workflow with backbones in its roles; `policy` may also be one of the scripted baselines."""

    FORMER: ClassVar = {
        "max_seconds": "is gone; limit an episode by max_tokens, which does not depend on the machine",
        "memory_every": "is now written memory: {every: ...}",
        "memory_keep": "is now written memory: {keep: ...}",
        "verifier_prompt": "is now written verifier: {prompt: ...}",
        "verifier_every": "is now written verifier: {every: ...}",
        "selector_confidence": "is now written selector: {confidence: ...}",
    }

    policy: str = Field(description="backbone, or random / empty / teacher")
    workflow: str | None = Field(
        default=None,
        description="how the agent acts in place of the benchmark's own workflow, where both fit: `deepdiver`, a planner that hands "
        "tasks to seekers, all by tool calls (DLLM Agent); `planner`, a plan of sub-questions, seekers and a writer; the others are the "
        "algorithms of the papers they are named after",
        json_schema_extra={"examples": [name for name, workflow in WORKFLOWS.items() if workflow.plays]},
    )
    options: dict[str, Any] = Field(default={}, description="settings of the workflow that differ from its defaults (config/roles.py)")
    roles: dict[str, str] = Field(default={}, description="role of the workflow -> backbone, where it is not the policy's")
    dialect: str | None = Field(
        default=None,
        description="search: the tags that a checkpoint was trained to search and answer with (data/dialects.yaml); default: ours",
    )
    planner: str | None = Field(default=None, description="backbone that plans (teams); default: the policy's")
    seeker: str | None = Field(default=None, description="backbone that searches (teams); default: the policy's")
    writer: str | None = Field(default=None, description="backbone that answers (planner workflow); default: the policy's")
    benchmarks: list[str] | None = Field(default=None, description="default: all of the run that the policy has", json_schema_extra=NOTHING)
    history: Literal["full", "recent"] = Field(default="full", description="what an embodied agent is shown of the past")
    attempts: int = Field(default=3, ge=1, description="completions asked for until an action parses (embodied)")
    max_steps: int | None = Field(default=None, ge=1, description="longest episode (embodied); null takes the benchmark's")
    memory: Memory | None = Field(default=None, description="memory module (embodied)")
    verifier: Verifier | None = Field(default=None, description="early-exit verifier (embodied)")
    selector: Selector | None = Field(default=None, description="tool selector (tool calling)")
    editor: Editor | None = Field(default=None, description="tool-call editor (tool calling)")
    acting: Literal["react", "p_react", "tool_first"] = Field(
        default="react",
        description="search: call after thinking; P-ReAct, the call decoded first; or the call first by prompt (AR control)",
    )
    constrain: bool = Field(
        default=False,
        description="only replies that can be read can be written: calls of the offered functions (tool calling, single-turn Python "
        "categories), a search or an answer (search), a thought and a valid action where the prompt lists them (embodied)",
    )
    budget: TeamBudget = Field(default_factory=TeamBudget, description="what an episode may take (deepdiver)")
    decoding: dict[str, Any] = Field(default={}, description="decoding settings of the policy that differ from its backbone's")
    tasks: dict[str, Count] = Field(default={}, description="benchmark -> play only n of its tasks, at even distances")
    concurrency: int = Field(default=8, ge=1, description="episodes in flight", json_schema_extra=NOTHING)
    max_tokens: int | None = Field(
        default=None, ge=1, description="new tokens an episode may take over all roles; it ends before the next call"
    )
    seed: int | None = None

    def named(self, role: str) -> str | None:
        """The backbone that the agent names for a role; None where the policy's plays it, or nothing does."""
        module: Memory | Verifier | Selector | Editor | None = getattr(self, role) if role in MODULES else None
        return module.backbone if module is not None else self.roles.get(role) or (getattr(self, role) if role in TEAM else None)

    def backbone(self, role: str) -> str | None:
        """What plays a role where a workflow has it."""
        return self.named(role) or (None if role in MODULES else self.policy)

    @property
    def backbones(self) -> dict[str, str]:
        """Role -> backbone as the agent names them, whether or not a benchmark's workflow has the role; empty for the scripted ones."""
        if self.policy in SCRIPTED:
            return {}
        return {"policy": self.policy} | {role: name for role in (*MODULES, *TEAM, *self.roles) if (name := self.named(role)) is not None}
