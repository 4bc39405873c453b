"""The table of workflows: their roles, the benchmarks they can play, and the keys of an agent that they use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Workflow:
    """The roles that backbones play in a workflow, and which of an agent's other keys it reads."""

    roles: tuple[str, ...] = ("policy",)
    keys: tuple[str, ...] = ()
    plays: tuple[str, ...] = ("search",)
    """The benchmarks' own workflows that it can replace."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options that `agents.<name>.options` may set, with their defaults, which fix the types."""
    learns: bool = False
    """Whether it learns from the benchmark's accepted trajectories."""


TEAM = ("planner", "seeker", "writer")
"""Roles with a key of their own in an agent; without it the policy's backbone plays them."""
# A line for each. Beyond the first five, the code of a workflow is agents/workflows/<name>.py and its prompts are <style>/<name>/.
WORKFLOWS: dict[str, Workflow] = {
    "react": Workflow(("policy", "memory", "verifier"), ("history", "attempts", "max_steps", "constrain"), ()),
    "tool_calling": Workflow(("policy", "selector", "editor"), ("constrain",), ()),
    "search": Workflow(keys=("acting", "dialect", "constrain"), plays=()),
    "planner": Workflow(TEAM),
    "deepdiver": Workflow(TEAM[:2], ("budget",)),
    "iter_retgen": Workflow(options={"rounds": 3, "passages": 5}),
    "ircot": Workflow(options={"steps": 8, "passages": 4, "pool": 15}),
    "sure": Workflow(options={"candidates": 2, "passages": 10}),
    "selective_context": Workflow(options={"passages": 10, "removed": 0.35}, learns=True),
    "adaptive_rag": Workflow(options={"classifier": "trajectories", "passages": 5, "steps": 8}, learns=True),
    "search_o1": Workflow(keys=("dialect",), options={"searches": 10, "turns": 15, "passages": 10, "characters": 3000}),
    "llm_compiler": Workflow(("planner", "joiner"), options={"replans": 2, "passages": 3, "workers": 6}),
    "multi_llm": Workflow(("planner", "caller", "summariser"), options={"steps": 8, "passages": 5}),
    "maker": Workflow(plays=("react",), options={"ahead": 3, "samples": 12, "characters": 400}),
    "autotool": Workflow(plays=("react",), options={"agreement": 0.95, "frequency": 0.5}, learns=True),
    "router": Workflow(("policy", "large"), plays=("react", "search"), options={"confidence": 0.9}),
    "self_healing": Workflow(plays=("tool_calling",), options={"retries": 3}),
    "threats": Workflow(keys=("acting",), plays=("react", "search", "tool_calling")),
}
TEAM_WORKFLOWS = {name for name, workflow in WORKFLOWS.items() if "seeker" in workflow.roles}
"""Workflows of a planner that hands tasks to seekers."""
MODULES = ("memory", "verifier", "selector", "editor")
"""Roles that are sections of an agent, with a backbone and settings of their own."""
MODULE_ROLES = (*MODULES, *TEAM)
CALLED = {"memory": "memory", "verifier": "early-exit verifier", "selector": "tool selector", "editor": "tool-call editor"}
"""Role -> what it is called in a message, where that is not its name."""
REPLY_TOKENS = {"verifier": 128, "selector": 64, "editor": 64}
"""Role -> tokens its reply takes at most, whatever its backbone may say: YES or NO and why, names of tools, a call."""
