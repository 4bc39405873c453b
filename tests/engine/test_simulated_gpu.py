"""The engine's own loop, pool and schedule with LLaDA-8B's and SDAR-8B's shape, on a clock that charges each step what a GPU would.

Tensors lie on the meta device; predictions are drawn. Bytes are the weights and the keys read, operations those of the products; a step
takes the longer of both at an H200's measured rates.
"""

from __future__ import annotations

import queue
import random
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from shapes import LLADA_8B, SDAR_8B, random_model

from dllm_agents.decoding import Decoding
from dllm_agents.engine import engine as module
from dllm_agents.engine.engine import Engine, Finished, Unmasked
from dllm_agents.engine.pool import pool_positions
from dllm_agents.models.attention import Pool, Segment, cell_bytes

BYTES, OPERATIONS, HELD = 4.3e12, 650e12, 120e9
VOCABULARY = 64


@dataclass
class Step:
    """What a step ran: rows of each request's call, how many requests were admitted, and the seconds charged."""

    rows: list[int]
    running: int
    seconds: float


@dataclass
class Simulated:
    """In place of the runner: logits are noise, the clock goes on by what a GPU would take."""

    model: Any
    positions: int
    compiled: bool = False
    steps: list[Step] = field(default_factory=list)
    engine: Any = None
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.pool = Pool(self.model, self.positions)
        self.generator = torch.Generator().manual_seed(0)

    def free(self) -> None:
        """Nothing is held."""

    def logits(self, segments: list[Segment]) -> torch.Tensor:
        self.gate.wait()
        config = self.model.network.config
        weights = sum(p.numel() for p in self.model.network.parameters())
        rows = [segment.token_ids.shape[0] for segment in segments]
        keys = sum(segment.limit for segment in segments)
        moved = 2 * weights + keys * cell_bytes(self.model)
        scores = sum(n * segment.limit for n, segment in zip(rows, segments, strict=True))
        products = 2 * weights * sum(rows) + 4 * scores * config.num_hidden_layers * config.hidden_size
        self.steps.append(Step(rows, len(self.engine._running), max(moved / BYTES, products / OPERATIONS)))
        return torch.randn(sum(len(segment.rows) for segment in segments), VOCABULARY, generator=self.generator) * 3


def simulated(monkeypatch: pytest.MonkeyPatch, shape: dict[str, int], attention: str, positions: int, **options: Any) -> Engine:
    model = random_model({**shape, "vocab_size": VOCABULARY}, attention, "meta", torch.bfloat16, 4 if attention == "block_causal" else None)
    monkeypatch.setattr(module, "Runner", Simulated)
    engine = Engine(model, positions=positions, **options)
    engine._runner.engine = engine  # type: ignore[attr-defined]
    return engine


def finish(events: queue.Queue[Any], count: int) -> list[Any]:
    generations = []
    while len(generations) < count:
        event = events.get(timeout=60)
        assert isinstance(event, Unmasked | Finished), event
        if isinstance(event, Finished):
            generations.append(event.generation)
    return generations


def test_32_requests_of_llada_8b_run_together_and_their_blocks_in_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,024 tokens of prompt and 128 new ones each, dual cache, blocks that take different numbers of steps."""
    model = random_model({**LLADA_8B, "vocab_size": VOCABULARY}, "full", "meta", torch.bfloat16)
    assert cell_bytes(model) == 524_288
    engine = simulated(monkeypatch, LLADA_8B, "full", int(HELD / cell_bytes(model)))
    runner: Any = engine._runner
    events: queue.Queue[Any] = queue.Queue()
    decoding = Decoding(strategy="fast_dllm", cache="dual", max_new_tokens=128, block_length=32, threshold=0.55, stop_ids=[])
    for seed in range(32):
        engine.submit([5] * (1024 - seed), decoding, events.put)
    runner.gate.set()
    generations = finish(events, 32)
    assert max(step.running for step in runner.steps) == 32, "all are admitted together"
    blocks = [sum(rows == 32 for rows in step.rows) for step in runner.steps if step.running == 32]
    taken = [count for count in blocks if count]
    calls = sum(generation.nfe for generation in generations) - 4 * 32
    assert 4 < calls / (4 * 32) < 25, "several block calls follow a refresh"
    company = sum(count * count for count in taken) / sum(taken)
    print(f"block calls in company of {company:.1f} of 32 in the mean, {min(taken)} at least; {len(runner.steps)} steps, ", end="")
    print(f"{128 * 32 / sum(step.seconds for step in runner.steps):.0f} tokens/s simulated")
    assert company >= min(taken) >= 24
    # No block call stands behind more than a few refreshes at a time.
    waits = [0]
    for step in runner.steps:
        waits[-1:] = [0, 0] if any(rows == 32 for rows in step.rows) else [waits[-1] + 1]
    assert max(waits[1:]) <= 32
    engine.close()


def test_16_conversations_find_their_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six turns that grow to 3,000 tokens each, in random order among 16 conversations, in a pool with room for all and a third more."""
    draw = random.Random(0)
    engine = simulated(monkeypatch, SDAR_8B, "block_causal", 16 * 4000)
    runner: Any = engine._runner
    runner.gate.set()
    events: queue.Queue[Any] = queue.Queue()
    system = [draw.randrange(VOCABULARY - 2) for _ in range(300)]
    histories = [list(system) for _ in range(16)]
    turns = [number for number in range(16) for _ in range(6)]
    draw.shuffle(turns)
    prompts = 0
    decoding = Decoding(strategy="sdar", max_new_tokens=16, threshold=0.0, stop_ids=[])
    for number in turns:
        histories[number] += [draw.randrange(VOCABULARY - 2) for _ in range(434)]
        prompts += len(histories[number])
        engine.submit(histories[number], decoding, events.put)
        (generation,) = finish(events, 1)
        histories[number] += generation.token_ids
    assert max(len(history) for history in histories) == 3000
    reused = engine.stats().reused_tokens / prompts
    print(f"reused {100 * reused:.1f} % of {prompts} prompt tokens")
    assert reused >= 0.7
    engine.close()


def test_the_pool_is_sized_from_what_the_card_has_free(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model({**LLADA_8B, "vocab_size": VOCABULARY}, "full", "meta", torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (124 << 30, 141 << 30))
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    assert pool_positions(model, 0.9) == (int((124 << 30) * 0.9) - (2 << 30)) // 524_288 > 32 * 1152
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 24 << 30))
    assert pool_positions(model, 0.9) == 0
