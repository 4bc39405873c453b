"""The training loop: batches in, one optimiser step each, until the budget of supervised tokens is spent."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

from dllm_agents.errors import StageError
from dllm_agents.training.objectives import IGNORE, Batch, loss
from dllm_agents.training.optimiser import Optimisers, rate_fraction

LINE_EVERY = 20.0
CURVE_POINTS = 50


@dataclass
class Run:
    """What a training run did."""

    steps: int = 0
    supervised_tokens: int = 0
    input_tokens: int = 0
    loss_curve: list[tuple[int, float]] = field(default_factory=list)
    validation_curve: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens the model read a second, noised copies included."""
        return self.input_tokens / max(self.seconds, 1e-9)


def batch_loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """The objective's loss on one batch. Logits are made for supervised rows only."""
    hidden = model.model(
        input_ids=batch.input_ids, attention_mask=batch.attention, position_ids=batch.position_ids, use_cache=False
    ).last_hidden_state
    return loss(model.lm_head(hidden[batch.targets != IGNORE]), batch)


def fit(
    model: LlamaForCausalLM,
    batches: Iterator[Batch],
    budget: int,
    *,
    learning_rate: float,
    muon_learning_rate: float | None,
    warmup_steps: int,
    clip: float,
    validate: Callable[[], float] | None = None,
    label: str = "training",
) -> Run:
    """Train `model` in place until exactly `budget` supervised tokens have carried loss. Raises StageError naming the step of a
    loss that is not finite."""
    optimisers = Optimisers(model, learning_rate, muon_learning_rate)
    run, recent = Run(), list[float]()
    start = time.monotonic()
    model.train()
    with Display(label, budget) as display:
        while run.supervised_tokens < budget:
            batch = next(batches)
            batch.keep(budget - run.supervised_tokens)
            value = batch_loss(model, batch)
            if not torch.isfinite(value):
                raise StageError(f"{label}: loss is {value.item()} at step {run.steps + 1}; lower learning_rate or muon_learning_rate")
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimisers.step(rate_fraction(run.steps, warmup_steps, run.supervised_tokens / budget))
            before = run.supervised_tokens
            run.steps += 1
            run.supervised_tokens += batch.supervised
            run.input_tokens += batch.input_ids.numel()
            recent.append(value.item())
            if run.supervised_tokens * CURVE_POINTS // budget > before * CURVE_POINTS // budget:
                run.loss_curve.append((run.steps, round(sum(recent) / len(recent), 6)))
                recent.clear()
                if validate is not None and (run.supervised_tokens == budget or len(run.loss_curve) % (CURVE_POINTS // 5) == 0):
                    run.validation_curve.append((run.steps, round(validate(), 6)))
            run.seconds = time.monotonic() - start
            display.update(run)
    model.eval()
    return run


def mean_loss(model: LlamaForCausalLM, batches: Sequence[Batch]) -> float:
    """The mean loss over fixed batches, without gradients."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        losses = [batch_loss(model, batch).item() for batch in batches]
    model.train(was_training)
    return sum(losses) / len(losses)


class Display:
    """Steps, loss, tokens a second and time left: a bar on a terminal, a line now and then anywhere else."""

    def __init__(self, label: str, budget: int) -> None:
        self.label, self.budget, self.last = label, budget, time.monotonic()
        self.bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
            )
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task(label, total=budget, text="")

    def __enter__(self) -> Display:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, run: Run) -> None:
        """Show where the run is."""
        loss_text = f"loss {run.loss_curve[-1][1]:.3f}" if run.loss_curve else ""
        text = f"step {run.steps} {loss_text} {run.tokens_per_second:,.0f} tokens/s"
        if self.bar:
            self.bar.update(self.task, completed=run.supervised_tokens, text=text)
            return
        now = time.monotonic()
        if now - self.last >= LINE_EVERY:
            self.last = now
            left = run.seconds * (self.budget / max(1, run.supervised_tokens) - 1)
            print(
                f"{self.label}: {text}, {100 * run.supervised_tokens / self.budget:.0f} %, {left:.0f} s left", file=sys.stderr, flush=True
            )
