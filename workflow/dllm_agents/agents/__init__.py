"""Agents: workflows that play tasks with backbones in their roles."""
