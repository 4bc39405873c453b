"""Checkpoint directories in the Hugging Face layout, written aside and renamed."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dllm_agents.config import Lora
from dllm_agents.errors import StageError
from dllm_agents.files import directory_aside, write_json
from dllm_agents.models.adapters import ADAPTER_WEIGHTS, PREFIX, weights_sha256
from dllm_agents.models.checkpoints import ADAPTER_CONFIG, NOT_RUN
from dllm_agents.models.families import read_json
from dllm_agents.stage_records import TrainingReport
from dllm_agents.training.objectives import Attention

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


def describe(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, attention: Attention, block_length: int | None, logit_shift: bool
) -> None:
    """Give a model's configuration the object `dllm`, which tells `models.load` what transformers has no word for: attention, mask token,
    whether logits are shifted, block length."""
    from transformers import GenerationConfig

    model.config.dllm = {
        "attention": attention,
        "mask_token_id": tokenizer.mask_token_id,
        "logit_shift": logit_shift,
        "block_length": block_length,
    }
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None, do_sample=False
    )


def save(
    output: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    report: TrainingReport,
    licence: str = "",
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write weights (those given in place of the model's own), configuration, tokenizer, generation settings, report, curves and a model
    card, which names the base's `licence`."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with directory_aside(output) as folder:
        model.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder, save_jinja_files=False)
        _document(folder, report, licence)


def save_adapter(
    output: Path,
    model: LlamaForCausalLM,
    adapters: dict[str, Tensor],
    settings: Lora,
    base: str,
    directory: Path,
    report: TrainingReport,
    licence: str = "",
) -> None:
    """Write adapters in bf16 in PEFT's layout, and everything else but weights and tokenizer, which are those of `base`. They are kept in
    `directory`, by whose weights the adapters' checksum is made."""
    import torch
    from safetensors.torch import save_file

    if model.config.vocab_size != int(read_json(directory / "config.json")["vocab_size"]):
        raise StageError("training.lora.save: adapter: the mask token is new to the base; name one of its own as training.mask_token")
    with directory_aside(output) as folder:
        prefixed = {PREFIX + name: tensor.to("cpu", torch.bfloat16).contiguous() for name, tensor in adapters.items()}
        save_file(prefixed, folder / ADAPTER_WEIGHTS, {"format": "pt"})
        rule = {"r": settings.rank, "lora_alpha": settings.alpha, "target_modules": settings.target_modules}
        names = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "base_sha256": weights_sha256(directory)}
        write_json(folder / ADAPTER_CONFIG, names | rule)
        model.config.save_pretrained(folder)
        assert model.generation_config is not None
        model.generation_config.save_pretrained(folder)
        _document(folder, report, licence)


def _document(folder: Path, report: TrainingReport, licence: str) -> None:
    write_json(folder / "training.json", report)
    _write_curve(folder / "loss.csv", report)
    (folder / "README.md").write_text(card(report, licence), encoding="utf-8")


def card(report: TrainingReport, licence: str) -> str:
    """The model card: what the checkpoint is, on what and how it was trained, what came of it, and whose terms hold."""
    settings = {name: value for name, value in report.settings.items() if value is not None and not isinstance(value, dict)}
    lora: dict[str, Any] | None = report.settings.get("lora")
    validation = [
        f"- validation loss: {report.validation_loss} at the end, {report.best_validation_loss} at best (tasks held out)",
    ]
    lines = [
        f"# {report.backbone} on {report.benchmark}",
        "",
        f"{report.parameters:,} parameters, objective `{report.objective}`, started from {report.base or 'random weights'}"
        + (f" with the adapter {lora['start']}." if lora and lora["start"] else "."),
        f"Licence of the base: {licence}.",
        "",
        "## Data",
        "",
        f"- {report.examples:,} examples of {report.benchmark} (SHA-256 of their file: `{report.data_sha256}`)",
        f"- {report.supervised_tokens:,} supervised tokens in {report.steps:,} steps, {settings.get('input_tokens', 0):,} tokens read",
        "",
        "## Result",
        "",
        f"- training loss: {report.final_loss} at the end",
        *(validation if report.validation_loss is not None else []),
        "- curves: `loss.csv`; everything else: `training.json`",
        "",
        "## Settings",
        "",
        *(f"- {name}: {value}" for name, value in settings.items()),
        f"- seed: {report.seed}",
        "",
        f"Made with {', '.join(f'{name} {number}' for name, number in report.versions.items())} on {report.hardware}.",
        "",
    ]
    return "\n".join(lines)


def licence_of(base: Path) -> str:
    """The licence that a checkpoint's own card states, by the `license` of its front matter or the line of a card of ours."""
    path = base / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace")[:20_000] if path.is_file() else ""
    match = re.search(r"^(?:license|Licence of the base): *(.+?)\.?$", text, re.MULTILINE)
    return match[1].strip()[:200] if match else "not stated in the base's directory"


def save_not_run(output: Path, reason: str) -> None:
    """A model directory that says why there is no model, for the stages after to read as "not run"."""
    with directory_aside(output) as folder:
        write_json(folder / NOT_RUN, {"reason": reason})


def _write_curve(path: Path, report: TrainingReport) -> None:
    rows: list[tuple[str, Any, Any]] = [("training", step, loss) for step, loss in report.loss_curve]
    rows += [("validation", step, loss) for step, loss in report.validation_curve]
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["curve", "step", "loss"])
        writer.writerows(rows)
