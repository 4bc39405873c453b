"""Constraints of an answer: JSON Schema, regular expression, list of choices, tool calls -> automaton over a tokenizer's tokens.

Imports no torch: what a constraint means, and whether it can be carried out, is known before a model runs.
"""

from dllm_agents.decoding.constraints.automata import Bounds
from dllm_agents.decoding.constraints.compiler import CACHE, Cache, check, language
from dllm_agents.decoding.constraints.expressions import ConstraintError
from dllm_agents.decoding.constraints.json_schema import json_text
from dllm_agents.decoding.constraints.tokens import TokenAutomaton
from dllm_agents.decoding.constraints.vocabulary import Vocabulary

__all__ = ["CACHE", "Bounds", "Cache", "ConstraintError", "TokenAutomaton", "Vocabulary", "check", "json_text", "language"]
