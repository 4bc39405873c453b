"""The `train` stage: accepted trajectories or preference pairs in, a checkpoint directory out."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate import PartialState

from dllm_agents import benchmarks, dependencies, models
from dllm_agents.commands import say
from dllm_agents.config import MIXTURE, PREFERENCE, Backbone, Config, Training, TrainingBudget, load
from dllm_agents.config.backbones import ATTENTION
from dllm_agents.errors import StageError
from dllm_agents.files import iter_jsonl
from dllm_agents.models.adapters import ADAPTER_WEIGHTS
from dllm_agents.models.checkpoints import resolve_model
from dllm_agents.provenance import hardware, sha256, versions
from dllm_agents.records import Pair
from dllm_agents.stage_records import TrainingReport
from dllm_agents.training import checkpoint, data, lora, objectives, preference
from dllm_agents.training.loop import Run, Scalars, fit
from dllm_agents.training.objectives import Batch, Example, Row
from dllm_agents.training.start import base_model, base_tokenizer, build_tokenizer, new_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from dllm_agents.training.start import Network

LIMITS = ("max_prompt_tokens", "response_tokens")
VALIDATION_BATCHES = 4
MEASURED = 96  # held-out replies, of all roles together, on which it is looked whether a training has learnt
Objective = Callable[..., Batch]


def train(
    config: Config,
    backbone: str,
    benchmark: str,
    source: Path | Sequence[Path],
    output: Path,
    base: Path | None = None,
    tensorboard: Path | None = None,
) -> TrainingReport | None:
    """Train a backbone and write its checkpoint directory: on a benchmark's accepted trajectories, on those of each benchmark of its
    mixture (`benchmark` MIXTURE), or, for preference objectives, on the benchmark's pairs in `source`. `base` is the checkpoint of the
    backbone that `training.base` names; scalars for TensorBoard go to `tensorboard`. Processes that accelerate launched together share
    the work.

    Supervised training stops at exactly the budgeted number of supervised tokens, unless `max_seconds` ends it before. Same
    configuration, data and thread count: same weights, but for an end by time.
    With fewer pairs than `preference.min_pairs` the directory holds the reason alone (`serving.checkpoints.NOT_RUN`) and None is returned.
    Raises StageError for a backbone that is not trained here, a file without trajectories, or prompts that are all too long.
    """
    settings = _settings(config, backbone)
    if (name := config.trained_base(backbone)) and base is None:
        raise StageError(f"backbones.{backbone}.training.base: {name} is trained by the run; pass its checkpoint with --base DIR")
    if (launched := int(os.environ.get("WORLD_SIZE", 1))) != PartialState().num_processes:
        raise StageError(
            f"backbones.{backbone}.training.launch: {launched} processes were started and know nothing of one another, since there is no "
            "GPU for them; set ACCELERATE_USE_CPU=true to share the work on processors, or launch to null"
        )
    fit_on = _preferences if settings.objective in PREFERENCE else _trajectories
    sources = (source,) if isinstance(source, Path) else tuple(source)
    if (benchmark == MIXTURE) != bool(settings.mixture) or len(sources) != max(1, len(settings.mixture)):
        needed = f"--benchmark {MIXTURE} and {len(settings.mixture)} files, in its order" if settings.mixture else "one benchmark and file"
        raise StageError(f"backbones.{backbone}.training.mixture: is {', '.join(settings.mixture) or 'empty'}; pass {needed}")
    return fit_on(Request(config, backbone, benchmark, sources, output, base, settings, time.monotonic(), tensorboard))


class Request(NamedTuple):
    """What is to be trained, on what, and where it goes. `started` is a monotonic clock's."""

    config: Config
    backbone: str
    benchmark: str
    sources: tuple[Path, ...]
    output: Path
    base: Path | None
    settings: Training
    started: float
    tensorboard: Path | None = None

    @property
    def seed(self) -> int:
        return self.config.seed if self.settings.seed is None else self.settings.seed

    @property
    def dtype(self) -> str:
        return self.config.backbones[self.backbone].dtype

    @property
    def benchmarks(self) -> list[str]:
        """What is trained on, in the order of the sources."""
        return self.settings.mixture or [self.benchmark]

    @property
    def budget(self) -> TrainingBudget:
        """The benchmark's part of what training depends on; of a mixture, all tokens together and the widest limits."""
        budgets = [self.config.benchmark_options(name).training for name in self.benchmarks]
        widest = {name: max(getattr(budget, name) for budget in budgets) for name in ("batch_size", "max_vocabulary", *LIMITS)}
        return budgets[0].model_copy(update=widest | {"supervised_tokens": sum(budget.supervised_tokens for budget in budgets)})

    def start(self) -> tuple[Network, PreTrainedTokenizerFast, int | None] | None:
        """The base's weights, tokenizer and block length; None to train from scratch."""
        if self.base is None and self.settings.base is None:
            return None
        directory = resolve_model(Backbone(model=self.settings.base), self.base)
        # Frozen weights are held as they are computed with; trained ones in single precision.
        loaded = models.load(directory, "float32" if self.settings.lora is None else self.dtype, trainable=True)
        words, new_mask = base_tokenizer(directory, loaded.mask_id, self.settings.mask_token)
        unused = self.settings.objective == "ar" and self.settings.mask_token is not None
        return base_model(loaded, words, new_mask and not unused, self.settings), words, loaded.block_length

    def fit(
        self,
        model: Network,
        batch_at: Callable[[int], Batch],
        budget: int,
        checks: Sequence[Batch] = (),
        describe: Callable[[int], str] | None = None,
        mask: int | None = None,
        measure: Callable[[], float] | None = None,
    ) -> tuple[dict[str, Tensor], Run]:
        """The loop with this request's settings; returns its adapters, merged into the model. `budget` counts what `Batch.supervised`
        counts."""
        settings = self.settings
        if settings.lora is not None:
            lora.attach(model, settings.lora, mask)
            if settings.lora.start is not None:
                lora.resume(model, resolve_model(Backbone(model=settings.base, adapter=settings.lora.start)) / ADAPTER_WEIGHTS)
        with scalar_writer(self.tensorboard) as scalars:
            run = fit(
                model,
                batch_at,
                budget,
                learning_rate=self.budget.rate_factor * settings.learning_rate,
                muon_learning_rate=self.budget.rate_factor * settings.muon_learning_rate if settings.muon_learning_rate else None,
                warmup=settings.warmup,
                clip=settings.clip,
                accumulate=settings.accumulate,
                max_seconds=settings.max_seconds,
                workers=settings.data_workers,
                precision="bf16" if self.dtype == "bfloat16" and settings.lora is None else "no",
                checks=checks,
                measure=measure,
                learnt=self.budget.learnt if settings.objective in self.budget.early_end else None,
                keep=settings.keep,
                state=self.output.with_name(f".{self.output.name}.state"),
                fingerprint=_fingerprint(self),
                scalars=scalars,
                describe=describe,
                label=f"{self.backbone} on {self.benchmark}",
            )
        return (lora.merge(model) if settings.lora is not None else {}), run

    def finish(
        self,
        model: Network,
        words: PreTrainedTokenizerFast,
        block_length: int | None,
        run: Run,
        examples: int,
        tokens: int,
        adapters: dict[str, Tensor] | None = None,
        **more: Any,
    ) -> TrainingReport:
        """Write the checkpoint directory with its report; in a training of many processes the first one does."""
        attention: objectives.Attention = ATTENTION.get(self.settings.objective, "block_causal")
        accuracy = run.accuracy_curve[-1][1] if run.accuracy_curve else None
        report = TrainingReport(
            backbone=self.backbone,
            benchmark=self.benchmark,
            objective=self.settings.objective,
            steps=run.steps,
            examples=examples,
            supervised_tokens=tokens,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            final_loss=run.loss_curve[-1][1],
            validation_loss=run.validation_curve[-1][1] if run.validation_curve else None,
            best_validation_loss=min((loss for _, loss in run.validation_curve), default=None),
            held_out_accuracy=accuracy,
            learnt=None if accuracy is None or self.budget.learnt is None else accuracy >= self.budget.learnt,
            loss_curve=run.loss_curve,
            validation_curve=run.validation_curve,
            seed=self.seed,
            base=self.settings.base,
            settings=self.settings.model_dump(mode="json") | {"vocabulary": len(words), "input_tokens": run.input_tokens} | more,
            data_sha256=" ".join(map(sha256, self.sources)),
            versions=versions("torch", "transformers", "tokenizers", "accelerate"),
            hardware=hardware(),
            seconds=round(time.monotonic() - self.started, 3),
            tokens_per_second=round(run.tokens_per_second, 1),
            data_seconds=round(run.data_seconds, 3),
        )
        if run.weights is None and not PartialState().is_main_process:
            return report
        shift = self.settings.logit_shift or attention == "context_causal"
        checkpoint.describe(model, words, attention, block_length, shift)
        if adapters and self.settings.lora is not None and self.settings.lora.save == "adapter":
            base = resolve_model(Backbone(model=self.settings.base), self.base)
            name = str(self.base if self.config.trained_base(self.backbone) else self.settings.base)
            checkpoint.save_adapter(self.output, model, adapters, self.settings.lora, name, base, report, self.licence())
        else:
            checkpoint.save(self.output, model, words, report, self.licence(), run.weights)
        return report

    def licence(self) -> str:
        """What the checkpoint's card says of the weights it started from."""
        if self.base is None and self.settings.base is None:
            return "trained from scratch, no base"
        return checkpoint.licence_of(resolve_model(Backbone(model=self.settings.base), self.base))


def _trajectories(request: Request) -> TrainingReport:
    """Supervised fine-tuning."""
    settings, budget, seed = request.settings, request.budget, request.seed
    worlds: dict[str, str] = {}
    taught = zip(request.benchmarks, request.sources, strict=True)
    by_benchmark = [data.accepted(request.config, request.backbone, name, source, worlds) for name, source in taught]
    started = request.start()
    words = started[1] if started else build_tokenizer([exchange for part in by_benchmark for exchange in part], budget.max_vocabulary)
    fitting = []
    for part, name, source in zip(by_benchmark, request.benchmarks, request.sources, strict=True):
        options = request.config.benchmark_options(name)
        if settings.layout == "trajectory":
            fitting += data.whole(data.conversations(words, part), options.training, options.max_steps, source)
        else:
            block = settings.block_length if settings.fill_prompt else None
            fitting += data.fitting(data.encode(words, part, block), part, options.training, source)
    # A world that is held out as a whole tells whether facts are read, or known by heart.
    groups = [worlds[task] for task, _ in fitting] if len(set(worlds.values())) >= data.FEWEST_GROUPS else [task for task, _ in fitting]
    kept, held = data.split(len(fitting), settings.validation_share, groups, seed)
    examples, validation = [fitting[i][1] for i in kept], [fitting[i][1] for i in held]
    torch.manual_seed(seed)
    model = started[0] if started else new_model(settings, words, budget.start)
    rare = objectives.rare_tokens(examples, len(words))
    objective = objective_of(settings, budget, words, rare)
    checks = _validation_batches(validation, objective, budget.batch_size, seed)
    measure = _measure(model, validation, objective, budget, rare, seed)
    order = data.Batches([len(example.ids) for example in examples], budget.batch_size, seed)
    tokens = round(settings.budget_factor * budget.supervised_tokens)
    names = _named(order, [fitting[i][0] for i in kept])
    mask = int(words.mask_token_id) if settings.objective != "ar" else None
    adapters, run = request.fit(model, _batch_at(examples, objective, order, seed), tokens, checks, names, mask, measure)
    block_length = settings.block_length if settings.objective in ("block_diffusion", "context_causal") else None
    more = {"budget": budget.model_dump(mode="json")}
    return request.finish(model, words, block_length, run, len(examples), run.supervised_tokens, adapters, **more)


def _preferences(request: Request) -> TrainingReport | None:
    """Preference optimisation of the base on pairs, against a frozen copy of it."""
    settings = request.settings
    chosen, (source,) = settings.preference, request.sources
    assert chosen is not None
    pairs = [pair for pair in iter_jsonl(source, Pair) if pair.benchmark == request.benchmark and pair.rejected is None]
    if len(pairs) < chosen.min_pairs:
        reason = f"{len(pairs)} preference pairs on {request.benchmark}, {chosen.min_pairs} are needed"
        print(f"{request.backbone}: not run: {reason}; see {source}", file=sys.stderr, flush=True)
        checkpoint.save_not_run(request.output, reason)
        return None
    policy, frozen = request.start(), request.start()
    assert policy is not None and frozen is not None
    model, words, block_length = policy
    if block_length is None:
        raise StageError(f"backbones.{request.backbone}.training.base: {settings.base} is no block-diffusion checkpoint")
    benchmark, style = benchmarks.load(request.benchmark, request.config), request.config.backbones[request.backbone].prompt

    def sides_of(pair: Pair) -> list[list[Example]]:
        assert pair.winner is not None and pair.loser is not None
        if settings.layout == "exchange":
            block = block_length if settings.fill_prompt else None
            return [data.encode(words, side, block) for side in data.differing(benchmark, pair, style)]
        both = (data.exchanges(benchmark, trajectory, style) for trajectory in (pair.winner, pair.loser))
        return [[example for _, example in data.conversations(words, side)] for side in both]

    sides = [sides_of(pair) for pair in pairs]
    kept, held = data.split(len(pairs), settings.validation_share, [pair.task_id for pair in pairs], request.seed)
    pad, mask, end = int(words.pad_token_id), int(words.mask_token_id), int(words.eos_token_id)

    shift = settings.logit_shift

    def batch(sides: Sequence[Sequence[Sequence[Example]]], generator: torch.Generator) -> Batch:
        def draw(example: Example) -> Row:
            naive = settings.objective == "vrpo"
            return preference.draw(example, mask, end, block_length, chosen.samples, generator, naive, shift)

        def in_order(example: Example) -> Row:
            return preference.sequential(example, mask, block_length, shift)

        reference = frozen[0].requires_grad_(False).eval()
        if settings.objective == "just_grpo":
            return preference.group_batch(sides, in_order, pad, reference)
        return preference.pair_batch(sides, draw, pad, reference, chosen.beta, chosen.length_normalised)

    learnt = [sides[i] for i in kept]
    lengths = [sum(len(example.ids) for side in pair for example in side) for pair in learnt]
    size = min(chosen.batch_size, len(learnt))
    order = data.Batches(lengths, size, request.seed)
    batch_at = _batch_at(learnt, batch, order, request.seed)
    checks = _validation_batches([sides[i] for i in held], batch, size, request.seed)
    names = _named(order, [pairs[i].task_id for i in kept])
    _, run = request.fit(model, batch_at, chosen.epochs * (len(learnt) // size) * size, checks, names)
    visits = run.steps * settings.accumulate * PartialState().num_processes
    tokens = sum(preference.generated(side) for number in range(visits) for i in order[number] for side in learnt[i])
    return request.finish(model, words, block_length, run, len(learnt), tokens)


def objective_of(settings: Training, budget: TrainingBudget, words: PreTrainedTokenizerFast, rare: Tensor | None = None) -> Objective:
    """The configured objective, as a function from examples and a source of noise to a batch; the loss of `rare` tokens [vocabulary]
    has the budget's weight."""
    pad, mask, end = int(words.pad_token_id), int(words.mask_token_id), int(words.eos_token_id)
    # The published rules are unbiased only over all generated tokens; the weights of the others sum to what they score.
    estimates = settings.noise in ("independent", "middle", "end_masked", "fixed_count") and settings.objective != "ar"

    shift, context = settings.logit_shift, (settings.context_mask, settings.context_noise)
    multiple = 8 if PartialState().device.type == "cuda" else 1  # what attention kernels want a mask's rows to be

    def rows(example: Example, generator: torch.Generator) -> list[Row]:
        if settings.objective == "ar":
            return [objectives.next_token(example)]
        if settings.objective == "full_diffusion":
            return objectives.full_diffusion(example, mask, end, budget.response_tokens, generator, settings.noise, shift)
        length = settings.block_length
        if settings.objective == "context_causal":
            return [objectives.context_causal(example, mask, end, length, generator, settings.noise, settings.ar_weight)]
        return [objectives.block_diffusion(example, mask, end, length, generator, settings.noise, *context, shift)]

    def weighted(example: Example, generator: torch.Generator) -> list[Row]:
        if settings.call_weight == 1:
            return rows(example, generator)
        ahead = int(settings.objective in ("ar", "context_causal") or shift)
        return [objectives.weighted_calls(row, example, settings.call_weight, ahead) for row in rows(example, generator)]

    def batch(examples: Sequence[Example], generator: torch.Generator) -> Batch:
        batch_rows = [row for example in examples for row in weighted(example, generator)]
        if rare is not None and budget.rare_weight != 1:
            batch_rows = [objectives.weighted_rare(row, rare, budget.rare_weight) for row in batch_rows]
        tokens = sum(sum(example.generated) for example in examples) if estimates else None
        attention = ATTENTION[settings.objective]
        return objectives.collate(batch_rows, attention, pad, settings.packed_length, multiple, settings.prompt_gradient).normalised(tokens)

    return batch


def _settings(config: Config, backbone: str) -> Training:
    entry = config.backbones.get(backbone)
    trained = sorted(name for name, other in config.backbones.items() if other.training)
    if entry is None or entry.training is None:
        raise StageError(f"backbone {backbone!r}: not trained here; backbones with a training section: {', '.join(trained) or 'none'}")
    return entry.training


def _fingerprint(request: Request) -> str:
    """What a saved state must agree with to be continued; the thread count is part of it, since sums depend on it."""
    settings = dependencies.of_checkpoint(request.config, request.backbone, request.benchmark)
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    files = {f"source {number}": source for number, source in enumerate(request.sources)}
    return dependencies.fingerprint(settings | machine, files | {"base": request.base})


def _batch_at(examples: Sequence[Any], objective: Objective, order: data.Batches, seed: int) -> Callable[[int], Batch]:
    # A seed of its own for every batch: the i-th is the same in a resumed run and on every process.
    return lambda index: objective([examples[i] for i in order[index]], generator=torch.Generator().manual_seed(seed * 1_000_003 + index))


def _measure(
    model: Network, held: Sequence[Example], objective: Objective, budget: TrainingBudget, rare: Tensor, seed: int
) -> Callable[[], float] | None:
    """What says how much is learnt: the share of rare tokens predicted right in held-out replies, always the same, as many of each role;
    or the upper end of a role's 95 % interval (Wilson) where that is lower, so that easy replies hide no role that is not learnt."""
    if budget.learnt is None or not held:
        return None
    generator = torch.Generator().manual_seed(seed)
    roles = sorted({example.role for example in held})
    parts = []
    for role in roles:
        replies = [example for example in held if example.role == role]
        spread = replies[:: max(1, len(replies) * len(roles) // MEASURED)]
        parts.append([objective(spread[start : start + 16], generator=generator) for start in range(0, len(spread), 16)])
    return lambda: objectives.learnt_share([objectives.rightness(model, batches, rare) for batches in parts])


def _named(order: data.Batches, tasks: Sequence[str]) -> Callable[[int], str]:
    """What a batch holds, for the message about it."""

    def name(number: int) -> str:
        held = sorted({tasks[i] for i in order[number]})
        return f"{number} ({', '.join(held[:4])}{' and others' if len(held) > 4 else ''})"

    return name


@contextmanager
def scalar_writer(folder: Path | None) -> Iterator[Scalars | None]:
    """A function that writes scalars for TensorBoard into a folder; None where there is none to write to."""
    if folder is None:
        yield None
        return
    from tensorboardX import SummaryWriter

    def write(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    with SummaryWriter(str(folder)) as writer:
        yield write


def _validation_batches(held: Sequence[Any], objective: Objective, batch_size: int, seed: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    spread = held[:: max(1, len(held) // (VALIDATION_BATCHES * batch_size))]
    starts = range(0, min(len(spread), VALIDATION_BATCHES * batch_size), batch_size)
    return [objective(spread[start : start + batch_size], generator=generator) for start in starts]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--benchmark", required=True, help=f"what the trajectories are of; `{MIXTURE}` where they are of several")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--trajectories", type=Path, nargs="+", metavar="FILE", help="accepted ones; of each benchmark of a mixture, in order"
    )
    source.add_argument("--pairs", type=Path, metavar="FILE", help="pairs to learn preferences from (vrpo, agentic_vrpo, just_grpo)")
    parser.add_argument("--base", type=Path, metavar="DIR", help="the checkpoint of the backbone that training.base names")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="where scalars for TensorBoard go")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")


def run(args: argparse.Namespace) -> None:
    source = args.pairs or args.trajectories
    report = train(load(args.config), args.backbone, args.benchmark, source, args.output, args.base, args.tensorboard)
    if report is not None:
        say(f"{args.output}: {report.steps} steps, {report.supervised_tokens} supervised tokens, loss {report.final_loss:.3f}")
