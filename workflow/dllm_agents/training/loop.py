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
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import KW_ONLY, asdict, dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dllm_agents.errors import StageError
from dllm_agents.files import directory_aside
from dllm_agents.training.objectives import Batch
from dllm_agents.training.optimiser import held_rate, make_optimisers, rate_fraction

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import LlamaForCausalLM

LINE_EVERY = 20.0
CURVE_POINTS = 50
SAVE_EVERY = 50  # steps between saved states
DECAY = 1.0  # of the tokens that it took to learn: over so many more the rates fall
LOOK_EVERY = 20  # steps between two looks at the loss where each would make a GPU wait
WAITING_BATCHES = 4  # that each process which makes batches keeps ready
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
    accuracy_curve: list[tuple[int, float]] = field(default_factory=list)
    learnt_at: int | None = None
    """Supervised tokens at which `measure` first reached `learnt`."""
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


@dataclass
class Loop:
    """What `fit` is told, and what it keeps while it goes.

    `batch_at(i)` is the i-th batch, the same whenever it is asked for; `workers` processes make them ahead. `checks` are the batches of
    the validation loss; with `keep` best the weights of its lowest value are left in the model. A `state` left by a run of the same
    `fingerprint` is continued; the folder is removed at the end. `scalars` is told what a curve is drawn from, `describe` names what a
    batch holds. With `learnt` the rates stay high until `measure`, of held-out examples, has reached it; training ends after as
    many tokens again, over which they fall, or at the budget.
    """

    model: LlamaForCausalLM
    batch_at: Callable[[int], Batch]
    budget: int
    _: KW_ONLY
    learning_rate: float
    muon_learning_rate: float | None
    warmup: float
    clip: float
    accumulate: int = 1
    precision: Literal["no", "bf16"] = "no"
    max_seconds: float | None = None
    workers: int = 0
    checks: Sequence[Batch] = ()
    measure: Callable[[], float] | None = None
    learnt: float | None = None
    keep: Literal["last", "best"] = "last"
    state: Path | None = None
    fingerprint: str = ""
    scalars: Scalars | None = None
    describe: Callable[[int], str] | None = None
    label: str = "training"
    run: Run = field(default_factory=Run)
    best: dict[str, Tensor] = field(default_factory=dict)
    losses: list[Tensor] = field(default_factory=list)
    """Of the steps since the last look at them."""

    def __post_init__(self) -> None:
        from accelerate import Accelerator

        self.accelerator = Accelerator(mixed_precision=self.precision)
        # A twin trained on a GPU had seen what its mask hides; the cause is not known. This kernel is
        # the least proven of those that may run.
        torch.backends.cuda.enable_cudnn_sdp(False)
        optimisers = make_optimisers(self.model, self.learning_rate, self.muon_learning_rate)
        self.scorer, *self.optimisers = self.accelerator.prepare(Scorer(self.model), *optimisers)
        self.rates = [optimiser.param_groups[0]["lr"] for optimiser in self.optimisers]
        self.sharded = self.accelerator.distributed_type == "FSDP"
        self.first = self.accelerator.is_main_process
        if self.sharded:
            self.state = None  # no process has the whole of it; a sharded training begins again
        if self.state is not None:
            self.run = _resume(self.state, self.fingerprint, self.model, self.optimisers, self.best) or self.run

    @property
    def progress(self) -> float:
        """The share of the tokens, or of the seconds if that is further, that is spent."""
        return max(self.run.supervised_tokens / self.end, self.run.seconds / self.max_seconds if self.max_seconds else 0.0)

    @property
    def end(self) -> int:
        """Supervised tokens at which training ends."""
        return self.budget if self.run.learnt_at is None else min(self.budget, round(self.run.learnt_at * (1 + DECAY)))

    def _rate(self, spent: float) -> float:
        """The share of the full rates."""
        if self.learnt is None:
            return rate_fraction(spent, self.warmup)
        decay = self.budget / (1 + DECAY) if self.run.learnt_at is None else self.run.learnt_at
        return held_rate(self.run.supervised_tokens, decay, self.end, self.warmup * self.budget)

    def go(self) -> Run:
        """All steps, and the weights that are to be kept in the model."""
        run, share = self.run, self.accumulate * self.accelerator.num_processes
        start = time.monotonic() - run.seconds
        source = stream(self.batch_at, run.steps * share, self.workers)
        self.model.train()
        with Display(self.label, self.first) as display:
            while (spent := self.progress) < 1:
                begun = time.monotonic()
                batches = [next(source) for _ in range(share)]
                run.data_seconds += time.monotonic() - begun
                logged = self._step(batches, spent)
                run.seconds = time.monotonic() - start
                self._note(int(spent * CURVE_POINTS), logged, share)
                display.update(run, self.progress)
        self.model.eval()
        _put(self.model, self.best)
        if self.sharded:
            whole = self.accelerator.get_state_dict(self.scorer)
            run.weights = {name.removeprefix("model."): value for name, value in whole.items()} if self.first else None
        if self.state is not None and self.first:
            shutil.rmtree(self.state, ignore_errors=True)
        return run

    def _step(self, batches: list[Batch], spent: float) -> dict[str, float]:
        """One optimiser step; returns what is logged of it, nothing where a GPU would have to be waited for."""
        run = self.run
        counts = _keep(batches, self.end - run.supervised_tokens)
        self.losses.append(_backward(self.accelerator, self.scorer, batches))
        due = self.accelerator.device.type != "cuda" or run.steps % LOOK_EVERY == 0 or run.supervised_tokens + counts >= self.end
        if due:
            self._look(len(batches))
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip)
        fraction = self._rate(spent)
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * fraction
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        run.steps += 1
        run.supervised_tokens += counts
        run.input_tokens += sum(batch.input_ids.numel() for batch in batches)
        if not due:
            return {}
        return {"loss": run.recent[-1], "gradient_norm": float(norm or 0.0), "learning_rate": self.rates[0] * fraction}

    def _look(self, share: int) -> None:
        """Read the losses of the latest steps, and stop at one that is not finite, with the batch that gave it."""
        run, state = self.run, self.state
        values = torch.stack(self.losses).tolist()
        self.losses.clear()
        bad = next((at for at, value in enumerate(values) if not math.isfinite(value)), None)
        if bad is None:
            run.recent += values
            return
        step = run.steps + 1 - len(values) + bad
        if state is not None and self.first and all(item.isfinite().all() for item in self.model.parameters()):
            _save(state, self.fingerprint, self.model, self.optimisers, run, self.best)
        numbers = range(step * share, (step + 1) * share)
        held = "; ".join(self.describe(number) for number in numbers) if self.describe is not None else ", ".join(map(str, numbers))
        kept = f"; the last good weights are in {state}" if state is not None and (state / STATE_FILE).is_file() else ""
        what = f"loss is {values[bad]} at step {step + 1}, batch {held}"
        raise StageError(f"{self.label}: {what}: lower learning_rate or muon_learning_rate{kept}")

    def _note(self, before: int, logged: dict[str, float], share: int) -> None:
        """Points of the curves, a saved state and scalars, where they are due. `before` counts the curve's points before the step."""
        run, last = self.run, self.progress >= 1
        if last and self.losses:
            self._look(share)
        if last or int(self.progress * CURVE_POINTS) > before:
            self._draw(last)
        if self.state is not None and run.steps % SAVE_EVERY == 0 and self.first:
            _save(self.state, self.fingerprint, self.model, self.optimisers, run, self.best)
        if self.scalars is not None and logged and self.first:
            more = {"supervised_tokens": float(run.supervised_tokens), "tokens_per_second": run.tokens_per_second}
            if run.validation_curve and run.validation_curve[-1][0] == run.steps:
                more["validation_loss"] = run.validation_curve[-1][1]
            self.scalars(run.steps, logged | more)

    def _draw(self, last: bool) -> None:
        """The next point of the training curve, now and then one of the validation curve, which has the `last`."""
        run = self.run
        if run.recent:
            run.loss_curve.append((run.steps, round(sum(run.recent) / len(run.recent), 6)))
            run.recent.clear()
        elif not last:
            return
        if self.measure is not None and (last or (self.learnt is not None and len(run.loss_curve) % 2 == 0)):
            self.model.eval()
            run.accuracy_curve.append((run.steps, round(self.measure(), 6)))
            self.model.train()
            if run.learnt_at is None and self.learnt is not None and run.accuracy_curve[-1][1] >= self.learnt:
                run.learnt_at = run.supervised_tokens
        if self.checks and (last or len(run.loss_curve) % (CURVE_POINTS // 5) == 0):
            lowest = min((loss for _, loss in run.validation_curve), default=math.inf)
            run.validation_curve.append((run.steps, round(mean_loss(self.scorer, self.checks, self.accelerator.device), 6)))
            if self.keep == "best" and run.validation_curve[-1][1] < lowest:
                self.best.update({name: parameter.detach().clone() for name, parameter in _trained(self.model)})


def fit(model: LlamaForCausalLM, batch_at: Callable[[int], Batch], budget: int, **settings: Any) -> Run:
    """Train `model` in place until exactly `budget` supervised tokens have carried loss, or for `max_seconds`; settings as in `Loop`.

    Raises StageError naming the step and the batch of a loss that is not finite; the last good weights stay in `state`.
    """
    return Loop(model, batch_at, budget, **settings).go()


class _Batches(Dataset[Batch]):
    def __init__(self, batch_at: Callable[[int], Batch]) -> None:
        self.batch_at = batch_at

    def __getitem__(self, number: int) -> Batch:
        return self.batch_at(number)


def stream(batch_at: Callable[[int], Batch], first: int, workers: int) -> Iterator[Batch]:
    """The batches from number `first` on without end, made ahead by so many processes."""
    if workers == 0:
        return map(batch_at, count(first))
    # Forked, since a batch's rule is a closure over the examples; the workers touch no GPU.
    return iter(
        DataLoader(
            _Batches(batch_at),
            batch_size=None,
            sampler=count(first),  # type: ignore[arg-type]
            num_workers=workers,
            prefetch_factor=WAITING_BATCHES,
            multiprocessing_context="fork",
        )
    )


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _put(model: nn.Module, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in _trained(model):
            if name in weights:
                parameter.copy_(weights[name])


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


def _backward(accelerator: Accelerator, scorer: nn.Module, batches: Sequence[Batch]) -> Tensor:
    """Gradients of the mean loss over the step's batches, this process's share of them run here; returns that mean []."""
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    total = torch.zeros((), device=accelerator.device)
    for place, batch in enumerate(mine):
        last = place == len(mine) - 1
        with nullcontext() if last else accelerator.no_sync(scorer):  # gradients travel once a step
            value = scorer(batch.to(accelerator.device)) / len(mine)
            total += value.detach()
            accelerator.backward(value)
    return accelerator.reduce(total, reduction="mean")  # type: ignore[no-any-return]


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
    try:
        saved = json.loads((state / "run.json").read_text())
    except (ValueError, RecursionError):
        raise StageError(f"{state / 'run.json'}: not JSON; delete its folder, and the training starts anew") from None
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
    saved |= {name: [(step, value) for step, value in saved[name]] for name in ("loss_curve", "validation_curve", "accuracy_curve")}
    return Run(**saved)


class Display:
    """Steps, loss, tokens a second and time left: a bar on a terminal, a line now and then anywhere else."""

    def __init__(self, label: str, shown: bool = True) -> None:
        self.label, self.shown, self.last = label, shown, time.monotonic()
        self.bar: Progress | None = None
        if shown and sys.stderr.isatty():
            texts = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
            self.bar = Progress(*texts, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
            self.task = self.bar.add_task(label, total=1.0, text="")

    def __enter__(self) -> Display:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, run: Run, progress: float) -> None:
        """Show where the run is."""
        loss_text = f"loss {run.loss_curve[-1][1]:.3f}" if run.loss_curve else ""
        text = f"step {run.steps} {loss_text} {run.tokens_per_second:,.0f} tokens/s"
        if self.bar:
            self.bar.update(self.task, completed=progress, text=text)
            return
        now = time.monotonic()
        if self.shown and now - self.last >= LINE_EVERY:
            self.last = now
            left = run.seconds * (1 / max(progress, 1e-9) - 1)
            print(f"{self.label}: {text}, {100 * progress:.0f} %, {left:.0f} s left", file=sys.stderr, flush=True)
