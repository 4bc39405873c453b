"""The training loop: batches in, one optimiser step each, until the budget of supervised tokens is spent.

Runs on accelerate, in one process or many. A step takes `accumulate` times as many batches as there are processes; which batches those
are does not depend on how many processes share them. With a `state` folder the run goes on where it was killed, to the same weights.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NoReturn

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from dllm_agents.errors import StageError
from dllm_agents.training.checkpoint import directory_aside
from dllm_agents.training.objectives import Batch
from dllm_agents.training.optimiser import make_optimisers, rate_fraction

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import LlamaForCausalLM

LINE_EVERY = 20.0
CURVE_POINTS = 50
SAVE_EVERY = 50  # steps between saved states
STATE_FILE = "state.safetensors"
Scalars = Callable[[int, dict[str, float]], None]


@dataclass
class Run:
    """What a training run did so far. Seconds are of this process alone, `data_seconds` those spent making batches."""

    steps: int = 0
    supervised_tokens: int = 0
    input_tokens: int = 0
    loss_curve: list[tuple[int, float]] = field(default_factory=list)
    validation_curve: list[tuple[int, float]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    seconds: float = 0.0
    data_seconds: float = 0.0
    weights: dict[str, Tensor] | None = None
    """The whole weights, gathered on the first process, where every process held a part of them only."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens the model read a second, noised copies included."""
        return self.input_tokens / max(self.seconds, 1e-9)


class Scorer(nn.Module):
    """A model with its loss: what is wrapped for several processes, so that gradients are shared whichever way logits are made."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model = model
        self._no_split_modules = model._no_split_modules  # what FSDP shares out by

    def forward(self, batch: Batch) -> Tensor:
        return batch.loss(self.model)


def fit(
    model: LlamaForCausalLM,
    batch_at: Callable[[int], Batch],
    budget: int,
    *,
    learning_rate: float,
    muon_learning_rate: float | None,
    warmup: float,
    clip: float,
    accumulate: int = 1,
    precision: Literal["no", "bf16"] = "no",
    checks: Sequence[Batch] = (),
    keep: Literal["last", "best"] = "last",
    state: Path | None = None,
    fingerprint: str = "",
    scalars: Scalars | None = None,
    describe: Callable[[int], str] | None = None,
    label: str = "training",
) -> Run:
    """Train `model` in place until exactly `budget` supervised tokens have carried loss.

    `batch_at(i)` is the i-th batch, the same whenever it is asked for. `checks` are the batches of the validation loss; with `keep` best
    the weights of its lowest value are left in the model. A `state` left by a run of the same `fingerprint` is continued; the folder is
    removed at the end. `scalars` is told what a curve is drawn from, `describe` names what a batch holds. Raises StageError naming the
    step and the batch of a loss that is not finite; the last good weights stay in `state`.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision=precision)
    scorer, *optimisers = accelerator.prepare(Scorer(model), *make_optimisers(model, learning_rate, muon_learning_rate))
    rates = [optimiser.param_groups[0]["lr"] for optimiser in optimisers]
    run, best = Run(), dict[str, Tensor]()
    sharded = accelerator.distributed_type == "FSDP"
    if sharded:
        state = None  # no process has the whole of it; a sharded training begins again
    if state is not None:
        run = _resume(state, fingerprint, model, optimisers, best) or run
    start = time.monotonic() - run.seconds
    share = accumulate * accelerator.num_processes
    model.train()
    with Display(label, budget, accelerator.is_main_process) as display:
        while run.supervised_tokens < budget:
            numbers = range(run.steps * share, (run.steps + 1) * share)
            asked = time.monotonic()
            batches = [batch_at(number) for number in numbers]
            run.data_seconds += time.monotonic() - asked
            counts = _keep(batches, budget - run.supervised_tokens)
            value = _backward(accelerator, scorer, batches)
            if not math.isfinite(value):
                if state is not None and accelerator.is_main_process and all(item.isfinite().all() for item in model.parameters()):
                    _save(state, fingerprint, model, optimisers, run, best)
                _refuse(value, run.steps, label, numbers, describe, state)
            norm = accelerator.clip_grad_norm_(model.parameters(), clip)
            fraction = rate_fraction(run.supervised_tokens / budget, warmup)
            for optimiser, rate in zip(optimisers, rates, strict=True):
                optimiser.param_groups[0]["lr"] = rate * fraction
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            before = run.supervised_tokens
            run.steps += 1
            run.supervised_tokens += counts
            run.input_tokens += sum(batch.input_ids.numel() for batch in batches)
            run.recent.append(value)
            if run.supervised_tokens * CURVE_POINTS // budget > before * CURVE_POINTS // budget:
                run.loss_curve.append((run.steps, round(sum(run.recent) / len(run.recent), 6)))
                run.recent.clear()
                if checks and (run.supervised_tokens >= budget or len(run.loss_curve) % (CURVE_POINTS // 5) == 0):
                    lowest = min((loss for _, loss in run.validation_curve), default=math.inf)
                    run.validation_curve.append((run.steps, round(mean_loss(scorer, checks, accelerator.device), 6)))
                    if keep == "best" and run.validation_curve[-1][1] < lowest:
                        best.update({name: parameter.detach().clone() for name, parameter in _trained(model)})
            run.seconds = time.monotonic() - start
            if state is not None and run.steps % SAVE_EVERY == 0 and accelerator.is_main_process:
                _save(state, fingerprint, model, optimisers, run, best)
            if scalars is not None and accelerator.is_main_process:
                scalars(run.steps, _scalars(run, value, float(norm or 0.0), rates[0] * fraction))
            display.update(run)
    model.eval()
    _put(model, best)
    if sharded:
        whole = accelerator.get_state_dict(scorer)
        run.weights = {name.removeprefix("model."): value for name, value in whole.items()} if accelerator.is_main_process else None
    if state is not None and accelerator.is_main_process:
        shutil.rmtree(state, ignore_errors=True)
    return run


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _put(model: nn.Module, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in _trained(model):
            if name in weights:
                parameter.copy_(weights[name])


def _scalars(run: Run, loss: float, norm: float, rate: float) -> dict[str, float]:
    """What is logged of a step; the validation loss where it was taken at this one."""
    values = {"loss": loss, "gradient_norm": norm, "learning_rate": rate, "supervised_tokens": float(run.supervised_tokens)}
    values["tokens_per_second"] = run.tokens_per_second
    if run.validation_curve and run.validation_curve[-1][0] == run.steps:
        values["validation_loss"] = run.validation_curve[-1][1]
    return values


def _refuse(
    value: float, step: int, label: str, numbers: Sequence[int], describe: Callable[[int], str] | None, state: Path | None
) -> NoReturn:
    """Stop at a loss that is not finite, with the batch that gave it."""
    held = "; ".join(describe(number) for number in numbers) if describe is not None else ", ".join(map(str, numbers))
    kept = f"; the last good weights are in {state}" if state is not None and (state / STATE_FILE).is_file() else ""
    raise StageError(f"{label}: loss is {value} at step {step + 1}, batch {held}: lower learning_rate or muon_learning_rate{kept}")


def mean_loss(scorer: nn.Module, batches: Sequence[Batch], device: torch.device) -> float:
    """The mean loss of a `Scorer` over fixed batches, without gradients."""
    scorer.eval()
    with torch.no_grad():
        losses = [scorer(batch.to(device)).item() for batch in batches]
    scorer.train()
    return sum(losses) / len(losses)


def _keep(batches: Sequence[Batch], left: int) -> int:
    """Cut the step's batches to the `left` tokens of the budget; returns how many carry loss."""
    used = 0
    for batch in batches:
        batch.keep(max(0, left - used))
        used += batch.supervised
    return used


def _backward(accelerator: Accelerator, scorer: nn.Module, batches: Sequence[Batch]) -> float:
    """Gradients of the mean loss over the step's batches, this process's share of them run here; returns that mean."""
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    total = torch.zeros((), device=accelerator.device)
    for place, batch in enumerate(mine):
        last = place == len(mine) - 1
        with nullcontext() if last else accelerator.no_sync(scorer):  # gradients travel once a step
            value = scorer(batch.to(accelerator.device)) / len(mine)
            total += value.detach()
            accelerator.backward(value)
    return float(accelerator.reduce(total, reduction="mean"))


def _save(
    state: Path, fingerprint: str, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer], run: Run, best: dict[str, Tensor]
) -> None:
    from safetensors.torch import save_file

    tensors = {f"model.{name}": parameter.detach() for name, parameter in _trained(model)}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for number, optimiser in enumerate(optimisers):
        for place, values in optimiser.state_dict()["state"].items():
            tensors.update({f"optimiser.{number}.{place}.{name}": value for name, value in values.items()})
    tensors["random"] = torch.get_rng_state()  # dropout of adapters draws from it
    with directory_aside(state) as folder:
        save_file(tensors, folder / STATE_FILE)
        (folder / "run.json").write_text(json.dumps({"fingerprint": fingerprint, **asdict(run)}))


def _resume(
    state: Path, fingerprint: str, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer], best: dict[str, Tensor]
) -> Run | None:
    """Put a saved state back; None when there is none, or it is of other settings, data or thread count."""
    from safetensors.torch import load_file

    if not (state / "run.json").is_file():
        return None
    saved = json.loads((state / "run.json").read_text())
    if saved.pop("fingerprint") != fingerprint:
        return None
    tensors = load_file(state / STATE_FILE)
    _put(model, {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")})
    best.update({name.removeprefix("best."): tensor for name, tensor in tensors.items() if name.startswith("best.")})
    torch.set_rng_state(tensors["random"])
    for number, optimiser in enumerate(optimisers):
        values = optimiser.state_dict()
        values["state"] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser" and rest.startswith(f"{number}."):
                _, place, key = rest.split(".")
                values["state"].setdefault(int(place), {})[key] = tensor
        optimiser.load_state_dict(values)
    saved |= {name: [(step, value) for step, value in saved[name]] for name in ("loss_curve", "validation_curve")}
    return Run(**saved)


class Display:
    """Steps, loss, tokens a second and time left: a bar on a terminal, a line now and then anywhere else."""

    def __init__(self, label: str, budget: int, shown: bool = True) -> None:
        self.label, self.budget, self.shown, self.last = label, budget, shown, time.monotonic()
        self.bar: Progress | None = None
        if shown and sys.stderr.isatty():
            texts = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
            self.bar = Progress(*texts, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
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
        if self.shown and now - self.last >= LINE_EVERY:
            self.last = now
            left = run.seconds * (self.budget / max(1, run.supervised_tokens) - 1)
            share = 100 * run.supervised_tokens / self.budget
            print(f"{self.label}: {text}, {share:.0f} %, {left:.0f} s left", file=sys.stderr, flush=True)
