"""The `train` stage: accepted trajectories in, a checkpoint directory out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dllm_agents import benchmarks
from dllm_agents.config import Config, Training, TrainingBudget
from dllm_agents.errors import StageError
from dllm_agents.provenance import hardware, sha256, versions
from dllm_agents.records import TrainingReport, Trajectory, read_jsonl
from dllm_agents.training import checkpoint, data, objectives, tokenizer
from dllm_agents.training.loop import fit, mean_loss
from dllm_agents.training.objectives import Batch, Example, Row

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

ATTENTION: dict[str, objectives.Attention] = {"ar": "causal", "full_diffusion": "full", "block_diffusion": "block_causal"}
VALIDATION_BATCHES = 4
Objective = Callable[..., Batch]


def train(config: Config, backbone: str, benchmark: str, trajectories: Path, output: Path) -> TrainingReport:
    """Train a backbone from scratch on a benchmark's accepted trajectories and write its checkpoint directory.

    Stops at exactly the budgeted number of supervised tokens. Same configuration, data and thread count: same weights. Raises StageError
    for a backbone that is not trained here, a file without trajectories, or prompts that are all too long.
    """
    started = time.monotonic()
    settings = _settings(config, backbone)
    budget: TrainingBudget = config.benchmark_options(benchmark).training
    found = _exchanges(config, backbone, benchmark, trajectories)
    words = base_tokenizer(settings.base) if settings.base else build_tokenizer(found, budget.max_vocabulary)
    fitting = _fitting(data.encode(words, found), found, budget, trajectories)
    seed = config.seed if settings.seed is None else settings.seed
    kept, held = data.split(len(fitting), settings.validation_share, [task for task, _ in fitting], seed)
    examples, validation = [fitting[i][1] for i in kept], [fitting[i][1] for i in held]
    torch.manual_seed(seed)
    model = base_model(settings.base, words) if settings.base else new_model(settings, words)
    objective = objective_of(settings, budget, words)
    checks = _validation_batches(validation, objective, budget.batch_size, seed)
    run = fit(
        model,
        _batch_at(examples, objective, budget.batch_size, seed),
        budget.supervised_tokens,
        learning_rate=settings.learning_rate,
        muon_learning_rate=settings.muon_learning_rate,
        warmup=settings.warmup,
        clip=settings.clip,
        precision="bf16" if config.backbones[backbone].dtype == "bfloat16" else "no",
        state=output.with_name(f".{output.name}.state"),
        fingerprint=_fingerprint(settings, budget, trajectories, seed),
        validate=(lambda: mean_loss(model, checks)) if checks else None,
        label=f"{backbone} on {benchmark}",
    )
    more = {"budget": budget.model_dump(mode="json"), "vocabulary": len(words), "input_tokens": run.input_tokens}
    report = TrainingReport(
        backbone=backbone,
        benchmark=benchmark,
        objective=settings.objective,
        steps=run.steps,
        examples=len(examples),
        supervised_tokens=run.supervised_tokens,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        final_loss=run.loss_curve[-1][1],
        validation_loss=run.validation_curve[-1][1] if run.validation_curve else None,
        loss_curve=run.loss_curve,
        validation_curve=run.validation_curve,
        seed=seed,
        settings=settings.model_dump(mode="json") | more,
        data_sha256=sha256(trajectories),
        versions=versions("torch", "transformers", "tokenizers"),
        hardware=hardware(),
        seconds=round(time.monotonic() - started, 3),
        tokens_per_second=round(run.tokens_per_second, 1),
    )
    block_length = settings.block_length if settings.objective == "block_diffusion" else None
    checkpoint.save(output, model, words, ATTENTION[settings.objective], block_length, settings.logit_shift, report)
    return report


def build_tokenizer(found: Sequence[data.Exchange], max_vocabulary: int) -> PreTrainedTokenizerFast:
    """The tokenizer of these exchanges; it depends on nothing that differs between paradigms."""
    texts = [text for exchange in found for text in (*(message["content"] for message in exchange.messages), exchange.reply)]
    return tokenizer.build(texts, [text for exchange in found for text in exchange.said], max_vocabulary)


def new_model(settings: Training, words: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of the configured size with random weights, drawn from torch's global generator."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(  # type: ignore[call-arg]
            vocab_size=len(words),
            hidden_size=settings.hidden_size,
            intermediate_size=3 * settings.hidden_size,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
            attn_implementation="sdpa",
        )
    )


def base_tokenizer(base: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint directory, with a mask token added where it has none. Raises StageError when there is none that can
    be read, or when it cuts a tool tag of its own chat format in pieces."""
    from transformers import AutoTokenizer

    try:
        words: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)  # type: ignore[assignment]
    except (OSError, ValueError) as error:
        raise StageError(f"base {base}: no tokenizer to read ({str(error).splitlines()[0]}); give a checkpoint directory") from None
    if words.mask_token is None:
        words.add_special_tokens({"mask_token": tokenizer.MASK})
    if words.pad_token is None:
        words.pad_token = words.eos_token
    for tag in tokenizer.TAGS:
        if tag in (words.chat_template or "") and len(words.encode(tag, add_special_tokens=False)) != 1:
            raise StageError(f"base {base}: its tokenizer splits {tag}; add it to the tokenizer as one token")
    return words


def base_model(base: str, words: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The weights of a Llama checkpoint directory, its embeddings grown for tokens that `base_tokenizer` added (new rows at the mean)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    try:
        kind = LlamaConfig.get_config_dict(base, local_files_only=True)[0].get("model_type")
        if kind != "llama":
            raise StageError(f"base {base}: model_type is {kind}; only llama checkpoints are adapted here")
        model = LlamaForCausalLM.from_pretrained(base, local_files_only=True, dtype=torch.float32, attn_implementation="sdpa")
    except (OSError, ValueError) as error:
        raise StageError(f"base {base}: cannot be loaded ({str(error).splitlines()[0]}); give a checkpoint directory") from None
    if len(words) > model.config.vocab_size:
        model.resize_token_embeddings(len(words), mean_resizing=False)
        with torch.no_grad():
            rows = model.model.embed_tokens.weight
            rows[-1] = rows[:-1].mean(0)
    return model


def objective_of(settings: Training, budget: TrainingBudget, words: PreTrainedTokenizerFast) -> Objective:
    """The configured objective, as a function from examples and a source of noise to a batch."""
    pad, mask, end = int(words.pad_token_id), int(words.mask_token_id), int(words.eos_token_id)
    # The published rules are unbiased only over all generated tokens; the weights of the others sum to what they score.
    estimates = settings.noise in ("independent", "end_masked", "fixed_count") and settings.objective != "ar"

    def rows(example: Example, generator: torch.Generator) -> list[Row]:
        if settings.objective == "ar":
            return [objectives.next_token(example)]
        if settings.objective == "full_diffusion":
            return objectives.full_diffusion(example, mask, end, budget.response_tokens, generator, settings.noise)
        naive, shift = settings.context_mask == "naive", settings.logit_shift
        return [
            objectives.block_diffusion(
                example, mask, end, settings.block_length, generator, settings.noise, align=settings.align, naive=naive, shift=shift
            )
        ]

    def batch(examples: Sequence[Example], generator: torch.Generator) -> Batch:
        found = [row for example in examples for row in rows(example, generator)]
        tokens = sum(sum(example.generated) for example in examples) if estimates else None
        return objectives.collate(found, ATTENTION[settings.objective], pad, settings.packed_length).normalised(tokens)

    return batch


def _settings(config: Config, backbone: str) -> Training:
    entry = config.backbones.get(backbone)
    trained = sorted(name for name, other in config.backbones.items() if other.training)
    if entry is None or entry.training is None:
        raise StageError(f"backbone {backbone!r}: not trained here; backbones with a training section: {', '.join(trained) or 'none'}")
    return entry.training


def _exchanges(config: Config, backbone: str, benchmark: str, trajectories: Path) -> list[data.Exchange]:
    source = benchmarks.load(benchmark, config)
    style = config.backbones[backbone].prompt
    accepted = read_jsonl(trajectories, Trajectory)
    found = [exchange for trajectory in accepted for exchange in data.exchanges(source, trajectory, style)]
    if not found:
        raise StageError(f"{trajectories}: no accepted trajectory with an action; collect more (benchmarks.{benchmark}.train_tasks)")
    return found


def _fitting(
    examples: Sequence[Example], found: Sequence[data.Exchange], budget: TrainingBudget, trajectories: Path
) -> list[tuple[str, Example]]:
    fitting = [
        (exchange.task, example)
        for exchange, example in zip(found, examples, strict=True)
        if len(example.ids) - sum(example.generated) <= budget.max_prompt_tokens and sum(example.generated) <= budget.response_tokens
    ]
    if not fitting:
        generated = [sum(example.generated) for example in examples]
        prompts = [len(example.ids) - count for example, count in zip(examples, generated, strict=True)]
        longest = f"{min(prompts)} prompt and {min(generated)} response tokens"
        raise StageError(f"{trajectories}: no example fits; the shortest need {longest}: raise max_prompt_tokens or response_tokens")
    if dropped := len(examples) - len(fitting):
        kept = {task for task, _ in fitting}
        first = next((exchange.task for exchange in found if exchange.task not in kept), found[0].task)
        limits = f"{budget.max_prompt_tokens} prompt or {budget.response_tokens} response tokens"
        print(f"{trajectories}: {dropped} of {len(examples)} examples left out (over {limits}), e.g. of {first}", file=sys.stderr)
    return fitting


def _fingerprint(settings: Training, budget: TrainingBudget, trajectories: Path, seed: int) -> str:
    """What a saved state must agree with to be continued; the thread count is part of it, since sums depend on it."""
    parts = [
        settings.model_dump_json(),
        budget.model_dump_json(),
        sha256(trajectories),
        str(seed),
        str(torch.get_num_threads()),
        torch.__version__,
    ]
    return "|".join(parts)


def _batch_at(examples: Sequence[Example], objective: Objective, batch_size: int, seed: int) -> Callable[[int], Batch]:
    chosen = data.Batches(examples, batch_size, seed)
    # A seed of its own for every batch: the i-th is the same in a resumed run and on every process.
    return lambda index: objective([examples[i] for i in chosen[index]], generator=torch.Generator().manual_seed(seed * 1_000_003 + index))


def _validation_batches(held: Sequence[Example], objective: Objective, batch_size: int, seed: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    starts = range(0, min(len(held), VALIDATION_BATCHES * batch_size), batch_size)
    return [objective(held[start : start + batch_size], generator=generator) for start in starts]
