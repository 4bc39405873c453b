"""What plays in a workflow: its roles, and the keys of an agent that mean something there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WorkflowName = Literal["react", "tool_calling", "search", "planner", "deepdiver"]


@dataclass(frozen=True)
class Workflow:
    """The roles that backbones play in a workflow, and which of an agent's other keys it reads."""

    roles: tuple[str, ...]
    keys: tuple[str, ...] = ()


WORKFLOWS: dict[WorkflowName, Workflow] = {
    "react": Workflow(("policy", "memory", "verifier"), ("history", "attempts", "max_steps", "constrain")),
    "tool_calling": Workflow(("policy", "selector", "editor"), ("constrain",)),
    "search": Workflow(("policy",), ("acting", "workflow", "constrain")),
    "planner": Workflow(("planner", "seeker", "writer"), ("workflow",)),
    "deepdiver": Workflow(("planner", "seeker"), ("workflow", "budget")),
}
MODULES = ("memory", "verifier", "selector", "editor")
"""Roles that are sections of an agent, with a backbone and settings of their own."""
TEAM = WORKFLOWS["planner"].roles
"""Roles that fall to the policy's backbone where an agent names no other."""
MODULE_ROLES = (*MODULES, *TEAM)
CALLED = {"memory": "memory", "verifier": "early-exit verifier", "selector": "tool selector", "editor": "tool-call editor"}
"""Role -> what it is called in a message, where that is not its name."""
REPLY_TOKENS = {"verifier": 128, "selector": 64, "editor": 64}
"""Role -> tokens its reply takes at most, whatever its backbone may say: YES or NO and why, names of tools, a call."""
