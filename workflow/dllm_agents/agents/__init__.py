"""Agents: workflows that play tasks with backbones in their roles."""

MODULE_STYLE = "react"
"""The prompt style of DiffuAgent's modules, whatever the policy's own."""
