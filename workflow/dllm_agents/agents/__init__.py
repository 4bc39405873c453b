"""Agents: workflows that play tasks with backbones in their roles."""

from dllm_agents.prompts import MODULE_STYLE

__all__ = ["MODULE_STYLE"]
