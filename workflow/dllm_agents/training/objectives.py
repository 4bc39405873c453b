"""What each paradigm is trained to predict. An objective turns examples into one `Batch`; the loop knows nothing else of it.

AR: cross-entropy of the next token. Full diffusion: masked tokens of the response, everything visible both ways (LLaDA section 2.2).
Block diffusion: masked tokens of a block given the clean blocks before it (BD3-LM; SDAR). Only response tokens are supervised in all
three, so a budget of supervised tokens means the same for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dllm_agents.training import masks

# Tokens of end-of-text padding that always stay in the loss, and the share of the others that does. A response padded to a fixed
# length is mostly end tokens; scored in full they drown the words.
KEPT_END_TOKENS = 2
KEPT_PADDING = 0.15


class Example(NamedTuple):
    """One prompt and its response, ending in the end token."""

    prompt: Sequence[int]
    response: Sequence[int]


@dataclass
class Batch:
    """What the model reads and what it is asked. `targets` [batch, length] holds the token that the logits of a row are scored
    against, IGNORE elsewhere; `weights` is its share in the loss, which is the weighted sum over all rows."""

    input_ids: Tensor
    position_ids: Tensor
    attention: Tensor
    targets: Tensor
    weights: Tensor

    @property
    def supervised(self) -> int:
        """Tokens that carry loss."""
        return int((self.targets != IGNORE).sum())

    def keep(self, count: int) -> None:
        """Leave only the first `count` supervised tokens in the loss, so that a budget is met to the token."""
        extra = (self.targets != IGNORE).flatten().nonzero().flatten()[count:]
        self.targets.view(-1)[extra] = IGNORE


IGNORE = -100


def loss(logits: Tensor, batch: Batch) -> Tensor:
    """Weighted cross-entropy over the supervised rows. `logits` [supervised, vocabulary] are those rows', in order."""
    chosen = batch.targets != IGNORE
    return (functional.cross_entropy(logits, batch.targets[chosen], reduction="none") * batch.weights[chosen]).sum()


def next_token(examples: Sequence[Example], pad: int) -> Batch:
    """AR cross-entropy: row i predicts token i + 1, over the response and its end token."""
    length = max(len(example.prompt) + len(example.response) for example in examples) - 1
    ids = torch.full((len(examples), length), pad)
    targets = torch.full((len(examples), length), IGNORE)
    valid = torch.zeros(len(examples), length, dtype=torch.bool)
    for row, (prompt, response) in enumerate(examples):
        tokens = torch.tensor([*prompt, *response])
        ids[row, : len(tokens) - 1] = tokens[:-1]
        valid[row, : len(tokens) - 1] = True
        targets[row, len(prompt) - 1 : len(tokens) - 1] = tokens[len(prompt) :]
    return Batch(ids, positions(ids), masks.causal(valid), targets, _mean_weights(targets))


def full_diffusion(examples: Sequence[Example], pad: int, mask: int, response_tokens: int, generator: torch.Generator) -> Batch:
    """Masked diffusion over a response padded with end tokens to `response_tokens`; two noised copies of each example, one at
    t ~ U(0, 1) and one fully masked, the state every reply is decoded from."""
    rows = [example for example in examples for _ in range(2)]
    length = max(len(example.prompt) for example in examples) + response_tokens
    ids = torch.full((len(rows), length), pad)
    targets = torch.full((len(rows), length), IGNORE)
    valid = torch.zeros(len(rows), length, dtype=torch.bool)
    level = torch.rand(len(examples), generator=generator)
    noise = torch.rand(len(examples), response_tokens, generator=generator)
    scored = torch.rand(len(examples), response_tokens, generator=generator) < KEPT_PADDING
    for row, (prompt, response) in enumerate(rows):
        index, copy = divmod(row, 2)
        start, end = len(prompt), len(prompt) + response_tokens
        clean = torch.tensor([*response, *[response[-1]] * (response_tokens - len(response))])
        masked = noise[index] < level[index] if copy == 0 else torch.ones(response_tokens, dtype=torch.bool)
        ids[row, :start] = torch.tensor(prompt)
        ids[row, start:end] = torch.where(masked, mask, clean)
        asked = scored[index].clone()
        asked[: len(response) - 1 + KEPT_END_TOKENS] = True
        targets[row, start:end] = torch.where(masked & asked, clean, IGNORE)
        valid[row, :end] = True
    return Batch(ids, positions(ids), masks.full(valid), targets, _mean_weights(targets))


def block_diffusion(examples: Sequence[Example], pad: int, mask: int, block_length: int, generator: torch.Generator) -> Batch:
    """Block diffusion in the layout [clean ; noisy copy 1 ; noisy copy 2] with blocks counted from absolute position 0.

    The first noisy block begins with the prompt's tail, which stays clean, as it does in decoding. The response is padded with end
    tokens to the end of its last block; later blocks are never decoded. Copy 1 draws t ~ U(0, 1) for each block, copy 2 is fully masked.
    """
    rows = [_block_row(example, mask, block_length, generator) for example in examples]
    length = max(len(row.ids) for row in rows)

    def stack(name: str, fill: int) -> Tensor:
        return torch.stack([functional.pad(getattr(row, name), (0, length - len(row.ids)), value=fill) for row in rows])

    position, copy, targets = stack("position", 0), stack("copy", 0), stack("targets", IGNORE)
    valid = stack("copy", -1) >= 0
    attention = masks.block_diffusion(position // block_length, copy, valid)
    return Batch(stack("ids", pad), position, attention, targets, _mean_weights(targets))


class _Row(NamedTuple):
    ids: Tensor
    position: Tensor
    copy: Tensor
    targets: Tensor


def _block_row(example: Example, mask: int, block_length: int, generator: torch.Generator) -> _Row:
    prompt, response = example
    padding = -(len(prompt) + len(response)) % block_length
    clean = torch.tensor([*prompt, *response, *[response[-1]] * padding])
    first = len(prompt) // block_length * block_length
    context = clean[: len(clean) - block_length]  # nothing reads the clean form of the last block
    tail = clean[first:]
    generated = torch.arange(first, len(clean)) >= len(prompt)
    level = torch.rand(len(tail) // block_length, generator=generator).repeat_interleave(block_length)
    masked = torch.stack([torch.rand(len(tail), generator=generator) < level, torch.ones(len(tail), dtype=torch.bool)]) & generated
    asked = torch.rand(len(tail), generator=generator) < KEPT_PADDING
    asked[: len(prompt) - first + len(response) - 1 + KEPT_END_TOKENS] = True
    noisy = torch.where(masked, mask, tail)
    targets = torch.where(masked & asked, tail, IGNORE)
    place = torch.arange(len(clean))
    return _Row(
        ids=torch.cat([context, noisy.flatten()]),
        position=torch.cat([place[: len(context)], place[first:], place[first:]]),
        copy=torch.cat([torch.zeros(len(context), dtype=torch.long), torch.tensor([1, 2]).repeat_interleave(len(tail))]),
        targets=torch.cat([torch.full((len(context),), IGNORE), targets.flatten()]),
    )


def positions(ids: Tensor) -> Tensor:
    """0, 1, 2, ... in every row of `ids` [batch, length]."""
    return torch.arange(ids.shape[1]).expand(ids.shape)


def _mean_weights(targets: Tensor) -> Tensor:
    chosen = targets != IGNORE
    return chosen.float() / chosen.sum().clamp(min=1)
