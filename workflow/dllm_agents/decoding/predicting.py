"""From the logits of many requests' calls to a prediction each: one pass over all rows, one copy to the host, one selection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dllm_agents.decoding.canvas import Call, Floats, Prediction
from dllm_agents.decoding.sampling import CONFIDENCE, ENTROPY, MARGIN, TOKEN, Draws, predict
from dllm_agents.decoding.selection import Rule, select
from dllm_agents.decoding.state import State
from dllm_agents.errors import StageError

NOT_FINITE = "the model's logits are not finite (NaN or inf); the checkpoint is damaged or overflows in this dtype"
COMMIT_NOTHING = Rule(0)


@torch.inference_mode()
def predictions(requests: Sequence[tuple[State, Call]], logits: Tensor) -> list[Prediction | StageError]:
    """What each call predicts, from `logits` [rows of all calls, vocabulary]. A request whose logits are not finite gets the error."""
    constraints = [None if call.rule is None else state.constraint for state, call in requests]
    # Before the host waits for the logits: a device may still be computing them.
    flags = [None if constraint is None else constraint.flags(call) for (_, call), constraint in zip(requests, constraints, strict=True)]
    numbers = _numbers(requests, logits)
    bounds = np.cumsum([0, *(len(call.positions) for _, call in requests)]).tolist()
    parts = [slice(first, last) for first, last in zip(bounds[:-1], bounds[1:], strict=True)]
    entropy = -numbers[ENTROPY] if len(numbers) > ENTROPY else None  # as the model says it, whatever a constraint changes
    free, finite = numbers[TOKEN].astype(np.int64), np.isfinite(numbers[CONFIDENCE])
    whole = bool(finite.all())
    for (_, call), part, constraint, allowed in zip(requests, parts, constraints, flags, strict=True):
        if constraint is not None and allowed is not None and (whole or finite[part].all()):
            constraint.allow(call, allowed, numbers[:, part], logits[part])
    token_ids = free if constraints == [None] * len(constraints) else numbers[TOKEN].astype(np.int64)
    # In single precision, as in the published code, unless the strategy asks for more.
    single = numbers[CONFIDENCE].astype(np.float32).astype(np.float64)
    confidences = [(numbers[CONFIDENCE] if call.precise else single)[part] for (_, call), part in zip(requests, parts, strict=True)]
    scores = [_scores(call, sure, numbers[:, part]) for (_, call), sure, part in zip(requests, confidences, parts, strict=True)]
    chosen = select(scores, [call.rule or COMMIT_NOTHING for _, call in requests])
    results: list[Prediction | StageError] = []
    for (_, call), part, constraint, sure, mask in zip(requests, parts, constraints, confidences, chosen, strict=True):
        if not (whole or finite[part].all()):
            results.append(StageError(NOT_FINITE))
            continue
        prediction = Prediction(token_ids[part], sure, mask, None if entropy is None else entropy[part])
        results.append(prediction if constraint is None else constraint.settle(call, free[part], prediction, logits[part]))
    return results


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
    scored = any(call.rule is not None and (call.rule.by in ("entropy", "margin") or state.decoding.dynamics) for state, call in requests)
    draws = Draws.of(torch.from_numpy(np.concatenate(table, axis=1)).to(logits.device, non_blocking=True)) if table else None
    masks = torch.tensor(mask_ids).to(logits.device, non_blocking=True) if mask_ids[0] >= 0 else None
    return predict(logits, masks, draws, scored).cpu().numpy()


def _scores(call: Call, confidence: Floats, numbers: Floats) -> Floats:
    """What ranks a call's positions [k]."""
    by = "confidence" if call.rule is None else call.rule.by
    if call.order is not None:
        scores = call.order
    elif by == "confidence":
        scores = confidence
    elif by == "position":
        scores = -np.arange(len(confidence), dtype=np.float64)
    else:
        scores = numbers[ENTROPY if by == "entropy" else MARGIN]
    return scores if call.bias is None else scores + call.bias
