"""Checkpoint directories that hold low-rank adapters of another checkpoint, in PEFT's layout: merged into its weights when loaded.

`adapter_config.json` names the base and the checksum of its weights; `config.json` is that of the merged model.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dllm_agents.errors import StageError
from dllm_agents.models.checkpoints import ADAPTER_CONFIG, resolve_model
from dllm_agents.models.families import read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
MASK_ROW = "model.embed_tokens.mask_row"


@cache
def weights_sha256(directory: Path) -> str:
    """SHA-256 over names and stored numbers of a checkpoint's tensors: the same for the same weights, however they are split in files."""
    import torch
    from safetensors import safe_open

    digest = hashlib.sha256()
    files = {key: file for file in sorted(directory.glob("*.safetensors")) for key in _keys(file)}
    for key, file in sorted(files.items()):
        with safe_open(file, framework="pt") as weights:
            digest.update(key.encode() + b"\0" + weights.get_tensor(key).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _keys(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        return list(weights.keys())


class Adapter:
    """The adapters in a directory. Raises StageError when they are damaged, or when their base is missing or another one."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / ADAPTER_WEIGHTS
        try:
            rule: dict[str, Any] = read_json(directory / ADAPTER_CONFIG)
            name, checksum = str(rule["base_model_name_or_path"]), str(rule["base_sha256"])
            self.scale = float(rule["lora_alpha"]) / int(rule["r"])
        except (ValueError, TypeError, KeyError, ZeroDivisionError):
            raise StageError(f"{directory / ADAPTER_CONFIG}: lacks base, base_sha256, r or lora_alpha; copy it again") from None
        from dllm_agents.config import Backbone  # whoever loads no adapter needs no configuration

        self.base = resolve_model(Backbone(model=name))
        if (there := weights_sha256(self.base)) != checksum:
            raise StageError(
                f"{directory}: these adapters are for weights {checksum[:12]} of {name}, {self.base} holds {there[:12]}; install that base"
            )

    def merge(self, network: nn.Module, mask_id: int | None) -> None:
        """Add the adapters to a network's weights, in place, and put the trained embedding of the mask token where it belongs."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        parameters = dict(network.named_parameters())
        try:
            tensors = {key.removeprefix(PREFIX): value for key, value in load_file(self.file).items()}
        except (OSError, SafetensorError) as error:
            raise StageError(f"{self.file}: truncated or not safetensors ({error}); copy the adapters again") from None
        with torch.no_grad():
            for key, value in tensors.items():
                name, _, side = key.removesuffix(".weight").rpartition(".")
                try:
                    if key == MASK_ROW and mask_id is not None:
                        parameters["model.embed_tokens.weight"][mask_id] = value
                    elif side == "lora_B":
                        self._add(parameters[f"{name}.weight"], value, tensors[f"{name}.lora_A.weight"])
                    elif side != "lora_A":
                        raise KeyError(key)
                except (KeyError, RuntimeError, AttributeError):
                    raise StageError(f"{self.file}: {key} fits no weight of {self.base}; copy the adapters again") from None

    def _add(self, weight: Tensor, up: Tensor, down: Tensor) -> None:
        weight += (self.scale * up.float() @ down.float()).to(weight)
