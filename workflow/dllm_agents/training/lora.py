"""Low-rank adapters (Hu et al. 2022): W + alpha / r * B A in place of W, with W frozen, and one trained embedding for the mask token.

The sum is made once a step and used like any weight. On a GPU that is faster than a second path beside each layer, and a layer is the
same operation in training as when the adapters are merged.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dllm_agents.config import Lora
from dllm_agents.errors import StageError
from dllm_agents.models.adapters import MASK_ROW, PREFIX

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


class LowRank(nn.Module):
    """`weight` [out, in] -> weight + scale * B A, with A [rank, in] drawn as Linear layers are and B [out, rank] zero. The sum is made in
    single precision, whatever the weight's, and rounded once."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.lora_A = nn.Parameter(torch.empty(rank, columns, device=weight.device, dtype=torch.float32))
        self.lora_B = nn.Parameter(torch.zeros(rows, rank, device=weight.device, dtype=torch.float32))
        self.scale = alpha / rank
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):  # small differences of large numbers
            return torch.addmm(weight.float(), self.lora_B, self.lora_A, alpha=self.scale).to(weight.dtype)


class MaskRow(nn.Module):
    """Embeddings of which one row is trained, that of the mask token; a `head` with the same weights follows it."""

    def __init__(self, embeddings: nn.Embedding, mask: int, head: nn.Linear) -> None:
        super().__init__()
        self.embeddings, self.mask = embeddings, mask
        self.row = nn.Parameter(embeddings.weight[mask].detach().float())
        self.tie = head.register_forward_hook(self._follow) if head.weight is embeddings.weight else None

    def forward(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.embeddings(ids)
        return torch.where((ids == self.mask)[..., None], self.row.to(vectors.dtype), vectors)

    def _follow(self, head: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> Tensor:
        logits[..., self.mask] = (inputs[0] @ self.row.to(inputs[0].dtype)).to(logits.dtype)
        return logits

    def merged(self) -> nn.Embedding:
        """Ordinary embeddings that hold the trained row."""
        if self.tie is not None:
            self.tie.remove()
        with torch.no_grad():
            self.embeddings.weight[self.mask] = self.row.to(self.embeddings.weight.dtype)
        return self.embeddings


def attach(model: LlamaForCausalLM, settings: Lora, mask: int | None) -> None:
    """Put adapters into a model, in place, and freeze everything else but the embedding of `mask`, where there is one. Raises StageError
    when no layer is named as the settings say."""
    model.requires_grad_(False)
    layers = [module for name, module in model.named_modules() if name.rpartition(".")[2] in settings.target_modules]
    if not layers:
        raise StageError(f"training.lora.target_modules: {', '.join(settings.target_modules)}: no such layer in the base")
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, settings.rank, settings.alpha))  # type: ignore[arg-type]
    if mask is not None:
        model.model.embed_tokens = MaskRow(model.model.embed_tokens, mask, model.lm_head)  # type: ignore[assignment,arg-type]


@torch.no_grad()
def resume(model: LlamaForCausalLM, file: Path) -> None:
    """Put saved adapters in place of the new ones of a model. Raises StageError for those of another rank or other layers."""
    saved = {name.removeprefix(PREFIX): tensor for name, tensor in load_file(file).items()}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            pair: LowRank = module.parametrizations.weight[0]  # type: ignore[assignment,index,union-attr]
            for side in ("lora_A", "lora_B"):
                tensor, own = saved.get(f"{name}.{side}.weight"), getattr(pair, side)
                if tensor is None or tensor.shape != own.shape:
                    raise StageError(f"training.lora.start: {file}: its adapters of {name} are of another rank or missing")
                own.copy_(tensor)
    if isinstance(embeddings := model.model.embed_tokens, MaskRow) and MASK_ROW in saved:
        embeddings.row.copy_(saved[MASK_ROW])


def merge(model: LlamaForCausalLM) -> dict[str, Tensor]:
    """Turn a model with adapters into an ordinary one with the weights they lead to; returns the adapters: `<layer>.lora_A.weight`,
    `<layer>.lora_B.weight` and MASK_ROW."""
    adapters: dict[str, Tensor] = {}
    for name, module in list(model.named_modules()):
        if not parametrize.is_parametrized(module, "weight"):
            continue
        pair: LowRank = module.parametrizations.weight[0]  # type: ignore[assignment,index,union-attr]
        adapters |= {f"{name}.{side}.weight": getattr(pair, side).detach().clone() for side in ("lora_A", "lora_B")}
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    embeddings = model.model.embed_tokens
    if isinstance(embeddings, MaskRow):
        adapters[MASK_ROW] = embeddings.row.detach().clone()
        model.model.embed_tokens = embeddings.merged()
    return adapters
