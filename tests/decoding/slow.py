"""The strategies, written out slowly over the plain transformer: no slots, no sessions. What they decide, the package must decide.

Where a cache is exact (AR, block-causal models) the reference recomputes everything from the tokens. Where it is part of the method
(Fast-dLLM's prefix and dual caches, its sub-block cache, dLLM-Var), the reference keeps the same stale keys by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from plain_transformer import Plain
from torch import Tensor

KeysValues = list[tuple[Tensor, Tensor]]


@dataclass
class Slow:
    """Tokens being decoded by hand. `settle` notes which forward decided a position."""

    plain: Plain
    tokens: Tensor
    start: int
    mask: int
    step: dict[int, int] = field(default_factory=dict)
    nfe: int = 0

    def masks(self, first: int, last: int) -> list[int]:
        return [p for p in range(first, last) if self.tokens[p] == self.mask]

    def settle(self, position: int, token: int) -> None:
        self.tokens[position] = token
        self.step[position] = self.nfe - 1

    def full(self) -> Tensor:
        self.nfe += 1
        return self.plain.full(self.tokens)

    def window(self, first: int, last: int, keys: KeysValues) -> Tensor:
        """Logits of [first, last) under everything in `keys`, in which the window's own keys are replaced for good."""
        self.nfe += 1
        before = [(k[:, :first], v[:, :first]) for k, v in keys]
        after = [(k[:, last:], v[:, last:]) for k, v in keys]
        past = [(torch.cat([a, c], 1), torch.cat([b, d], 1)) for (a, b), (c, d) in zip(before, after, strict=True)]
        n = last - first
        seen = torch.ones(n, past[0][0].shape[1] + n, dtype=torch.bool)
        logits, own = self.plain.forward(self.tokens[first:last], torch.arange(first, last), seen, past)
        for layer, (k, v) in enumerate(own):
            keys[layer] = (torch.cat([before[layer][0], k, after[layer][0]], 1), torch.cat([before[layer][1], v, after[layer][1]], 1))
        return logits

    def all_keys(self, last: int | None = None) -> tuple[Tensor, KeysValues]:
        """Logits and keys of the sequence up to `last`, everything seeing everything."""
        self.nfe += 1
        tokens = self.tokens[:last]
        n = len(tokens)
        return self.plain.forward(tokens, torch.arange(n), torch.ones(n, n, dtype=torch.bool))

    def reveal(self, count: int) -> list[int]:
        return [self.step[p] for p in range(self.start, self.start + count)]


def begin(plain: Plain, prompt: list[int], new: int, mask: int) -> Slow:
    return Slow(plain, torch.tensor(prompt + [mask] * new), len(prompt), mask)


def guess(row: Tensor, dtype: torch.dtype = torch.float32) -> tuple[float, int]:
    probabilities = row.to(dtype).softmax(-1)
    best = int(row.argmax())
    return float(probabilities[best]), best


def split(masks: int, steps: int) -> list[int]:
    return [masks // steps + (1 if i < masks % steps else 0) for i in range(steps)]


def llada(slow: Slow, steps: int, length: int, leftmost: bool = False) -> None:
    """ML-GSAI/LLaDA generate.py: per block a fixed number of tokens a step, the surest first."""
    count = (len(slow.tokens) - slow.start) // length
    for first in range(slow.start, len(slow.tokens), length):
        for quota in split(length, steps // count):
            rows = slow.full()
            found = [(*guess(rows[p]), p) for p in slow.masks(first, first + length)]
            found.sort(key=(lambda item: item[2]) if leftmost else (lambda item: -item[0]))
            for _, token, position in found[:quota]:
                slow.settle(position, token)


def accept(found: list[tuple[float, int, int]], threshold: float | None, factor: float | None, quota: int) -> list[tuple[float, int, int]]:
    found = sorted(found, key=lambda item: -item[0])
    if factor is not None:
        taken = 1
        while taken < len(found) and found[taken][0] >= 1 - factor / (taken + 2):
            taken += 1
        return found if taken == len(found) - 1 else found[:taken]
    if threshold is not None:
        return [item for n, item in enumerate(found) if n == 0 or item[0] >= threshold]
    return found[:quota]


def fast_dllm(
    slow: Slow, length: int, cache: str, threshold: float | None = None, factor: float | None = None, steps: int | None = None,
    refresh: int = 1,
) -> None:  # fmt: skip
    """NVlabs/Fast-dLLM v1 on LLaDA: a block's first call runs over everything; prefix and dual caches after it. With `refresh` only every
    so many blocks' first call runs over the prompt too; in between its keys are those of the last one that did."""
    count = (len(slow.tokens) - slow.start) // length
    keys: KeysValues = []
    for number, first in enumerate(range(slow.start, len(slow.tokens), length)):
        last = first + length
        quotas = iter(split(length, (steps or length * count) // count))
        fresh = False
        while slow.masks(first, last):
            if cache == "none" or (not fresh and number % refresh == 0):
                rows, keys = slow.all_keys()
                offset, fresh = 0, True
            elif not fresh:
                rows, offset, fresh = slow.window(slow.start, len(slow.tokens), keys), slow.start, True
            else:
                rows, offset = slow.window(first, last if cache == "dual" else len(slow.tokens), keys), first
            found = [(*guess(rows[p - offset], torch.float64), p) for p in slow.masks(first, last)]
            for _, token, position in accept(found, threshold, factor, next(quotas, 1)):
                slow.settle(position, token)


def dream(slow: Slow, steps: int, order: str) -> None:
    """Dream's diffusion_generate: position i reads row i - 1, all masks compete, the count follows the noise schedule."""
    times = torch.linspace(1, 1e-3, steps + 1)
    for step in range(steps):
        rows = slow.full()
        masks = slow.masks(slow.start, len(slow.tokens))
        ratio = 1 - times[step + 1] / times[step]
        count = int(torch.tensor(float(len(masks))) * ratio) if step < steps - 1 else len(masks)
        ranked = []
        for position in masks:
            probabilities = rows[position - 1].softmax(-1)
            best = probabilities.sort(descending=True).values
            surety = {
                "maskgit_plus": best[0],
                "topk_margin": best[0] - best[1],
                "entropy": (probabilities * torch.log(probabilities + 1e-10)).sum(),
            }[order]
            ranked.append((float(surety), int(probabilities.argmax()), position))
        for _, token, position in sorted(ranked, key=lambda item: -item[0])[:count]:
            slow.settle(position, token)


def sdar(slow: Slow, length: int, steps: int, rule: str, threshold: float, stops: tuple[int, ...]) -> None:
    """JetAstra/SDAR generate.py, uncached: blocks from absolute position 0; one more call stores a full block."""
    prefix = slow.start // length * length
    slow.nfe += prefix > 0
    for first in range(prefix, len(slow.tokens), length):
        last = first + length
        for quota in split(length, steps):
            if not slow.masks(first, last):
                break
            slow.nfe += 1
            rows = slow.plain.block_causal(slow.tokens[:last], length)
            found = [(*guess(rows[p]), p) for p in slow.masks(first, last)]
            surest = sorted(found, key=lambda item: -item[0])[:quota]
            sure = [item for item in found if item[0] > threshold]
            chosen = {
                "sequential": found[:quota],
                "low_confidence_static": surest,
                "low_confidence_dynamic": sure if len(sure) >= quota else surest,
            }
            for _, token, position in chosen[rule]:
                slow.settle(position, token)
        slow.nfe += 1
        if any(int(token) in stops for token in slow.tokens[max(first, slow.start) : last]):
            return


def fast_dllm_v2(slow: Slow, length: int, part: int, threshold: float, stops: tuple[int, ...]) -> None:
    """The checkpoint's generate without its sub-block cache, uncached: a block's first token comes from the clean block before it."""

    def stopped() -> bool:
        for position in range(slow.start, len(slow.tokens)):
            if slow.tokens[position] == slow.mask:
                return False
            if int(slow.tokens[position]) in stops:
                return True
        return False

    def store(last: int) -> None:
        slow.nfe += 1
        if last < len(slow.tokens) and slow.tokens[last] == slow.mask:
            slow.settle(last, int(slow.plain.block_causal(slow.tokens[:last], length)[-1].argmax()))

    prefix = slow.start // length * length
    if prefix:
        store(prefix)
    for first in range(prefix, len(slow.tokens), length):
        for begin_ in range(first, first + length, part):
            while (masks := slow.masks(begin_, begin_ + part)) and not stopped():
                slow.nfe += 1
                rows = slow.plain.block_causal(slow.tokens[: first + length], length)
                found = sorted(((*guess(rows[p - 1]), p) for p in masks), key=lambda item: -item[0])
                for n, (surety, token, position) in enumerate(found):
                    if n == 0 or surety > threshold:
                        slow.settle(position, token)
        if stopped():
            return
        store(first + length)
        if stopped():
            return


def context_causal(slow: Slow, length: int, part: int, threshold: float, stops: tuple[int, ...], order: str = "confidence") -> None:
    """openPangu's diffusion_generate, uncached: whatever is finished is token-causal, the block at hand sees itself and all before it. It
    ends after a small block with a stop id in it."""

    def rows(first: int, last: int) -> Tensor:
        seen = torch.ones(last, last).tril().bool()
        seen[first:, first:] = True
        return slow.plain.forward(slow.tokens[:last], torch.arange(last), seen)[0]

    for first in range(slow.start, len(slow.tokens), length):
        slow.nfe += 1
        slow.settle(first, int(rows(first, first)[-1].argmax()))
        for begin_ in range(first, first + length, part):
            while masks := slow.masks(begin_, begin_ + part):
                slow.nfe += 1
                logits = rows(first, first + length)
                found = sorted(((*_ranked(logits[p - 1], order), p) for p in masks), key=lambda item: -item[0])
                for n, (score, token, position) in enumerate(found):
                    if n == 0 or (order == "confidence" and score > threshold):
                        slow.settle(position, token)
            if any(int(token) in stops for token in slow.tokens[slow.start :]):
                return


def _ranked(row: Tensor, order: str) -> tuple[float, int]:
    probabilities = row.softmax(-1)
    best = probabilities.topk(2).values
    scores = {"confidence": best[0], "topk_margin": best[0] - best[1], "entropy": (probabilities * probabilities.log()).sum()}
    return float(scores[order]), int(row.argmax())


def dllm_var(slow: Slow, length: int, threshold: float, stops: tuple[int, ...]) -> None:
    """dLLM-Var's generate: the prompt's keys come from the call over prompt and first masks, a block's from the call with the next."""
    keys: KeysValues = []
    for first in range(slow.start, len(slow.tokens), length):
        last = first + length
        fresh = True
        while slow.masks(first, last):
            if fresh and first == slow.start:
                rows, keys = slow.all_keys(last)
                offset = 0
            else:
                offset = first - length if fresh else first
                rows = slow.window(offset, last, keys)
            fresh = False
            found = sorted(((*guess(rows[p - offset]), p) for p in slow.masks(first, last)), key=lambda item: -item[0])
            for n, (surety, token, position) in enumerate(found):
                if n == 0 or surety > threshold:
                    slow.settle(position, token)
        if any(int(token) in stops for token in slow.tokens[first:last]):
            return
