"""How likely a model holds a given text: exactly for autoregressive models, by a bound for diffusion models.

AR: log p(x_i | x_<i) from one forward. Diffusion: the evidence lower bound in its discrete form (LLaDA, Nie et al. 2025, equation 6 with
the number of masks drawn in place of a ratio): the number of masks l is uniform on 1 .. L, l of the L scored tokens are masked, and
(L / l) times the sum of their log-probabilities has the bound as its mean. A token's share is the mean over the draws of its own terms,
so the shares add up to the estimate. Block diffusion is scored block by block, each given the clean blocks before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dllm_agents.models.attention import Segment, Slot

if TYPE_CHECKING:
    from dllm_agents.models import Model

Run = Callable[[Sequence[Segment]], list[Tensor]]
Score = tuple[float | None, dict[int, float]]
"""(log-probability or None where there is none, the likeliest tokens' log-probabilities by id)."""
# Logits of one forward: 256 MiB in float32.
MOST_LOGITS = 1 << 26


def likelihood(
    model: Model, token_ids: Sequence[int], run: Run, *, top: int = 0, draws: int = 32, seed: int = 0, context: int = 0
) -> list[Score]:
    """The log-probability of every token [n]; None for the first `context` ones and where nothing stands before an AR model's token.

    `run` does a forward over segments. Diffusion models take `draws` random maskings of `seed` (per block, in block diffusion). With
    `top` each token comes with the `top` likeliest ones in its place, itself included; for diffusion models they are those of the draw
    with the most masks, at the distance from the token that they had there.
    """
    ids = torch.tensor(list(token_ids))
    if model.attention == "causal":
        return _autoregressive(model, ids, run, top, context)
    generator = torch.Generator().manual_seed(seed % 2**63)
    if model.attention == "full":
        segment = Segment(ids, 0, len(ids), "full", None, torch.arange(0), None)
        first = max(context, 1 if model.shift else 0)
        scores = _bound(model, ids, segment, first, run, top, draws, generator)
        return [(None, {})] * first + scores
    return _by_blocks(model, ids, run, top, draws, generator, context)


def token_scores(logits: Tensor, positions: Sequence[int], chosen: Mapping[int, int], top: int) -> dict[int, Score]:
    """Position -> score of the `chosen` tokens (by position) under the logits [k, vocabulary] that predict `positions` [k]."""
    rows = [row for row, position in enumerate(positions) if position in chosen]
    logprobs = logits[rows].float().log_softmax(-1).cpu() if rows else ()
    tokens = [(positions[row], chosen[positions[row]]) for row in rows]
    return {place: (float(row[token]), _top(row, token, top)) for row, (place, token) in zip(logprobs, tokens, strict=True)}


def _autoregressive(model: Model, ids: Tensor, run: Run, top: int, context: int) -> list[Score]:
    scores: list[Score] = [(None, {})] * min(max(context, 1), len(ids))
    share = max(1, MOST_LOGITS // model.vocab_size)
    for start in range(len(scores), len(ids), share):
        positions = torch.arange(start, min(start + share, len(ids)))
        stop = int(positions[-1]) + 1
        segment = Segment(ids[: stop - 1], 0, stop - 1, "causal", None, positions - 1, None)
        (logits,) = run([segment])
        logprobs = logits.log_softmax(-1).cpu()
        scores += [(float(row[token]), _top(row, token, top)) for row, token in zip(logprobs, ids[positions].tolist(), strict=True)]
    return scores


def _by_blocks(model: Model, ids: Tensor, run: Run, top: int, draws: int, generator: torch.Generator, context: int) -> list[Score]:
    """Blocks from the last to the first: a block's masked keys overwrite only those that no block before it reads."""
    length = model.block_length or 1
    slot = Slot(model, len(ids))
    run([Segment(ids, 0, len(ids), "block_causal", length, torch.arange(0), slot)])
    scores: list[Score] = []
    for start in reversed(range(0, len(ids), length)):
        stop = min(start + length, len(ids))
        segment = Segment(ids[start:stop], start, stop, "block_causal", length, torch.arange(0), slot)
        first = min(max(context, start, 1 if model.shift else 0), stop)
        scores = [(None, {})] * (first - start) + _bound(model, ids, segment, first, run, top, draws, generator) + scores
    return scores


def _bound(
    model: Model, ids: Tensor, segment: Segment, first: int, run: Run, top: int, draws: int, generator: torch.Generator
) -> list[Score]:
    """The shares of the tokens from `first` to the segment's end."""
    stop = segment.start + len(segment.token_ids)
    count = stop - first
    if count <= 0:
        return []
    total = torch.zeros(count, dtype=torch.float64)
    tops: list[tuple[int, dict[int, float]]] = [(0, {})] * count
    # The numbers of masks are spread evenly over 1 .. count.
    offset = float(torch.rand(1, generator=generator))
    for draw in range(draws):
        masks = min(count, int((draw + offset) / draws * count) + 1)
        chosen = torch.randperm(count, generator=generator)[:masks].sort().values
        for logprobs, places in _masked(model, segment, chosen + first, run):
            targets = ids[places]
            total[places - first] += logprobs.gather(-1, targets[:, None])[:, 0].double() * count / masks
            for row, place, token in zip(logprobs, places.tolist(), targets.tolist(), strict=True) if top else ():
                if masks >= tops[place - first][0]:
                    tops[place - first] = masks, _top(row, token, top, relative=True)
    shares = (total / draws).tolist()
    return [(share, {token: share + value for token, value in near.items()}) for share, (_, near) in zip(shares, tops, strict=True)]


def _masked(model: Model, segment: Segment, places: Tensor, run: Run) -> Any:
    """Log-probabilities [k, vocabulary] of the masked places, and the places, in shares that fit the memory."""
    tokens = segment.token_ids.clone()
    tokens[places - segment.start] = model.mask_id or 0
    for part in places.split(max(1, MOST_LOGITS // model.vocab_size)):
        rows = (part - 1).clamp(min=segment.start) if model.shift else part
        (logits,) = run([Segment(tokens, segment.start, segment.limit, segment.attention, segment.block_length, rows, segment.slot)])
        yield logits.log_softmax(-1).cpu(), part


def _top(row: Tensor, token: int, top: int, relative: bool = False) -> dict[int, float]:
    if not top:
        return {}
    values, indices = row.topk(min(top, len(row)))
    base = float(row[token]) if relative else 0.0
    best = {int(index): float(value) - base for index, value in zip(indices, values, strict=True)}
    return {**best, token: float(row[token]) - base}
