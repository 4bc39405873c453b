"""From the logits of many requests' calls to a prediction each: one pass over all rows, one copy to the host, one selection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dllm_agents.decoding.canvas import Call, Floats, Prediction
from dllm_agents.decoding.constrained import Constraint
from dllm_agents.decoding.sampling import CONFIDENCE, ENTROPY, MARGIN, TOKEN, Draws, predict
from dllm_agents.decoding.selection import Rule, select
from dllm_agents.decoding.state import State
from dllm_agents.errors import StageError

NOT_FINITE = "the model's logits are not finite (NaN or inf); the checkpoint is damaged or overflows in this dtype"
COMMIT_NOTHING = Rule(0)


@torch.inference_mode()
def predictions(requests: Sequence[tuple[State, Call]], logits: Tensor) -> list[Prediction | StageError]:
    """What each call predicts, from `logits` [rows of all calls, vocabulary]. A request whose logits are not finite gets the error."""
    calls = [call for _, call in requests]
    numbers = _numbers(requests, logits)
    free = numbers[TOKEN].astype(np.int64)
    bounds = np.cumsum([0, *(len(call.positions) for call in calls)])
    shares = [numbers[:, first:last] for first, last in zip(bounds[:-1], bounds[1:], strict=True)]
    parts = [slice(first, last) for first, last in zip(bounds[:-1], bounds[1:], strict=True)]
    for (state, call), share, part in zip(requests, shares, parts, strict=True):
        if (constraint := _constraint(state, call, share)) is not None:
            constraint.allow(call, share, logits[part])
    scores = [_scores(call, share) for call, share in zip(calls, shares, strict=True)]
    chosen = select(scores, [call.rule or COMMIT_NOTHING for call in calls])
    results: list[Prediction | StageError] = []
    for (state, call), share, mask, part in zip(requests, shares, chosen, parts, strict=True):
        if not np.isfinite(share[CONFIDENCE]).all():
            results.append(StageError(NOT_FINITE))
            continue
        prediction = Prediction(share[TOKEN].astype(np.int64), _confidence(call, share), mask)
        if (constraint := _constraint(state, call, share)) is not None:
            prediction = constraint.settle(call, free[part], prediction, logits[part])
        results.append(prediction)
    return results


def _constraint(state: State, call: Call, share: Floats) -> Constraint | None:
    """The constraint of a call that decides tokens."""
    return state.constraint if call.rule is not None and np.isfinite(share[CONFIDENCE]).all() else None


def _numbers(requests: Sequence[tuple[State, Call]], logits: Tensor) -> Floats:
    """Token, confidence and scores of every row, on the host: the one time a step waits for the device."""
    if not len(logits):
        return np.empty((4, 0))
    mask_ids, table = [], []
    first = 0
    for state, call in requests:
        rows = len(call.positions)
        mask_ids += [-1 if state.decoding.mask_id is None else state.decoding.mask_id] * rows
        if call.draws is not None:
            top_p = 1.0 if state.decoding.top_p is None else state.decoding.top_p
            columns = (np.arange(first, first + rows), state.decoding.temperature, top_p, call.draws, call.untempered)
            table.append(np.stack(np.broadcast_arrays(*columns)))
        first += rows
    scored = any(call.rule is not None and call.rule.by in ("entropy", "margin") for _, call in requests)
    draws = Draws.of(torch.from_numpy(np.concatenate(table, axis=1)).to(logits.device, non_blocking=True)) if table else None
    masks = torch.tensor(mask_ids).to(logits.device, non_blocking=True) if mask_ids[0] >= 0 else None
    return predict(logits, masks, draws, scored).cpu().numpy()


def _confidence(call: Call, share: Floats) -> Floats:
    """In single precision, as in the published code, unless the strategy asks for more."""
    return share[CONFIDENCE] if call.precise else share[CONFIDENCE].astype(np.float32).astype(np.float64)


def _scores(call: Call, share: Floats) -> Floats:
    """What ranks a call's positions [k]."""
    by = "confidence" if call.rule is None else call.rule.by
    if call.order is not None:
        scores = call.order
    elif by == "position":
        scores = -np.arange(len(call.positions), dtype=np.float64)
    else:
        scores = _confidence(call, share) if by == "confidence" else share[ENTROPY if by == "entropy" else MARGIN]
    return scores if call.bias is None else scores + call.bias
