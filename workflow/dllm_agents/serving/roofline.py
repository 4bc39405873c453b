"""How long a forward takes, what it moves and computes, and what the hardware can move and compute at best (Williams et al., 2009)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from dllm_agents.models import Model

TOKENS = (1, 8, 32, 128)
# A size is measured again and again for this long, at least once: five runs of a millisecond fit into one stall of a busy machine.
MEASURED_SECONDS = 0.3
COPY_BYTES = 1 << 27
MATRIX = 1024


def measure(model: Model) -> list[dict[str, float]]:
    """One forward over `tokens` tokens and no cache, for each of TOKENS: tokens, seconds (median), bytes, flops.

    `bytes` are the weights read plus keys and values written; `flops` two per weight of a matrix product and token, and four per pair of
    positions and channel of attention. An embedding is looked up, not multiplied, unless it is the output layer too.
    """
    from dllm_agents.models.attention import Segment, cell_bytes, forward

    config: Any = model.network.config
    weights = {name: parameter for name, parameter in model.network.named_parameters() if parameter.ndim == 2}
    tied = bool(getattr(config, "tie_word_embeddings", False))
    multiplied = [parameter for name, parameter in weights.items() if tied or "embed_tokens" not in name]
    moved = sum(parameter.numel() * parameter.element_size() for parameter in multiplied)
    products = sum(parameter.numel() for parameter in multiplied)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    levels = []
    for tokens in TOKENS:
        rows = torch.arange(tokens)
        block = tokens if model.attention == "block_causal" else None
        segment = Segment(torch.ones(tokens, dtype=torch.int64), 0, tokens, model.attention, block, rows)
        seconds = _timed(lambda segment=segment: forward(model, [segment]), model.device)  # type: ignore[misc]
        attention = 4 * tokens * tokens * config.num_hidden_layers * config.num_attention_heads * size
        levels.append(
            {
                "tokens": float(tokens),
                "seconds": seconds,
                "bytes": float(moved + tokens * cell_bytes(model)),
                "flops": float(2 * tokens * products + attention),
            }
        )
    return levels


def ceilings(dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """What a copy of 128 MiB moves and a product of square matrices computes a second, with the threads this process may use."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    left, right = (torch.ones(MATRIX, MATRIX, dtype=dtype, device=device) for _ in range(2))
    return {
        "bytes_per_second": 2 * COPY_BYTES / _timed(lambda: target.copy_(source), device),
        "flops_per_second": 2 * MATRIX**3 / _timed(lambda: left @ right, device),
    }


@torch.inference_mode()
def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds of the runs that fit into `MEASURED_SECONDS`, after a first that is thrown away: it pays for what is set up once."""

    def once() -> float:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    once()
    runs = [once()]
    while sum(runs) < MEASURED_SECONDS:
        runs.append(once())
    return statistics.median(runs)
