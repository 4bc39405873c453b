"""Post-hoc tool-call editor (DiffuAgent section 5.2): malformed calls are written again so that they fit the format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dllm_agents import prompts
from dllm_agents.agents.policy import Complete

MAX_CALL = 8000


@dataclass(slots=True)
class Editor:
    """Runs on every output. UNCHANGED and NO_VALID_TOOL_CALLS keep it; anything else replaces it; an empty reply keeps it."""

    complete: Complete
    style: str

    def edit(self, output: str, functions: Sequence[Mapping[str, Any]], seed: int) -> str:
        """The output to decode: the agent's own, or the editor's repair of it."""
        tools = [dict(function) for function in functions]
        messages = prompts.request(self.style, "editor.j2", output=output[:MAX_CALL], functions=tools)
        reply = self.complete(messages, seed=seed).text.strip()
        return output if not reply or "UNCHANGED" in reply or "NO_VALID_TOOL_CALLS" in reply else reply
