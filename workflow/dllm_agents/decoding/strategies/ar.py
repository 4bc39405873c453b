"""Autoregressive decoding with cached keys and values: the prompt once, then one token a forward."""

from __future__ import annotations

from dllm_agents.decoding.canvas import Steps
from dllm_agents.decoding.selection import Rule
from dllm_agents.decoding.state import State
from dllm_agents.decoding.strategies import Strategy


def decode(state: State) -> Steps:
    """One forward per new token; the stop token's forward counts."""
    canvas, start = state.canvas, 0
    for position in range(canvas.prompt_length, canvas.length):
        # The row before a position predicts it, so the window ends there.
        yield from state.unmask(state.call(start, position, position, canvas.masked(position, position + 1), clean=position), Rule())
        if int(canvas.tokens[position]) in state.stop_ids:
            return
        start = position


STRATEGY = Strategy(decode, attention=("causal", "context_causal"), shift=True)
