"""Predictions under a constraint: least intervention, and two joint rules over the same lattice.

With the rule `mask` a prediction that may stand where it does is left alone, bit by bit. Another is replaced by the best token that may
(with temperature: one drawn among those, which is the distribution given that it may stand there) with the model's own probability, not
renormalised, and never more than that of the token it replaces. So an answer that needs no help is decoded as without a constraint, in
the same steps: what is committed there is allowed, and replaced predictions only fall in the ranking.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dllm_agents.decoding.canvas import Call, Canvas, Floats, Positions, Prediction
from dllm_agents.decoding.constraints.joint import best_answer, marginal_factors, place_weights
from dllm_agents.decoding.constraints.lattice import Lattice
from dllm_agents.decoding.constraints.tokens import TokenAutomaton
from dllm_agents.decoding.sampling import CONFIDENCE, ENTROPY, TOKEN, nucleus
from dllm_agents.decoding.settings import Decoding, DecodingError

LAST = -1e3  # below every margin and negative entropy
_CLASSES: WeakKeyDictionary[TokenAutomaton, Tensor] = WeakKeyDictionary()


class Constraint:
    """One request's constraint. `repaired` are the positions whose token is not the one the model would have put there, `deferred` counts
    tokens that wait for a later forward because of another commit of the same step."""

    def __init__(self, automaton: TokenAutomaton, canvas: Canvas, decoding: Decoding) -> None:
        self.canvas, self.decoding = canvas, decoding
        self.lattice = Lattice(automaton, canvas.prompt_length, canvas.prompt_length + decoding.max_new_tokens)
        self.repaired: set[int] = set()
        self.deferred = 0
        self._generator = torch.Generator().manual_seed(decoding.seed + 1 if decoding.seed < 2**63 else decoding.seed - 1)

    def end_at(self, stop: int) -> None:
        """The answer ends with the block that ends at `stop`. Raises DecodingError where no answer fits any more."""
        self.lattice.stop = min(self.lattice.stop, stop)
        self._look(self.lattice.stop - 1)
        if not self.lattice.open:
            raise DecodingError("tool_prefill: no answer of the constraint has its tags at these places")

    def flags(self, call: Call) -> NDArray[np.bool_]:
        """Which classes of tokens [k', classes] may stand at those of `call`'s places that are the answer's; needs no logits."""
        places = call.positions[call.positions < self.lattice.stop]
        if not len(places):
            return np.empty((0, self.lattice.automaton.classes), dtype=np.bool_)
        self._look(int(places.max()))
        return np.stack([self.lattice.allowed(place) for place in places.tolist()])

    def allow(self, call: Call, flags: NDArray[np.bool_], numbers: Floats, logits: Tensor) -> None:
        """Change what is predicted for `call`, `numbers` [2 or 4, k] from `logits` [k, vocabulary], into what may stand there."""
        rows: Positions = np.nonzero(call.positions < self.lattice.stop)[0]
        if self.decoding.constraint_rule != "mask":
            tokens, confidence = self._together(call, rows, flags, numbers, logits) if len(rows) else (rows, rows)
        else:
            kinds = self.lattice.automaton.class_of[numbers[TOKEN, rows].astype(np.int64)]
            barred = ~flags[np.arange(len(rows)), kinds]
            rows = rows[barred]
            tokens, confidence = self._again(call, rows, flags[barred], numbers[TOKEN], numbers[CONFIDENCE], logits)
        numbers[TOKEN, rows], numbers[CONFIDENCE, rows] = tokens, confidence
        numbers[ENTROPY:, rows] = LAST + confidence

    def settle(self, call: Call, free: Positions, prediction: Prediction, logits: Tensor) -> Prediction:
        """What is chosen of `prediction` and fits together, taken in order of confidence; `free` [k] is what the model itself predicts.

        A token that an earlier one of the step rules out waits for a later forward where the rule leaves that open, else the best that
        still fits takes its place.
        """
        token_ids, confidence, chosen = prediction.token_ids.copy(), prediction.confidence.copy(), prediction.chosen.copy()
        required = 0 if call.rule is None else call.rule.at_least
        taken = 0
        for row in np.argsort(-np.where(chosen, confidence, -1.0), kind="stable")[: int(chosen.sum())].tolist():
            place = int(call.positions[row])
            if place < self.lattice.stop:
                allowed = self.lattice.allowed(place)
                if not allowed[self.lattice.automaton.class_of[token_ids[row]]]:
                    if taken >= max(required, 1) and call.order is None:
                        chosen[row] = False
                        self.deferred += 1
                        continue
                    rows = np.array([row])
                    token_ids[rows], confidence[rows] = self._again(call, rows, allowed[None], token_ids, confidence, logits)
                self.lattice.commit(place, int(token_ids[row]))
                if token_ids[row] != free[row]:
                    self.repaired.add(place)
            taken += 1
        return Prediction(token_ids, confidence, chosen, prediction.entropy)

    @property
    def complete(self) -> bool:
        """Whether the answer, every place of it decided, has come to its end."""
        self._look(self.lattice.stop - 1)
        return not self.lattice.kinds and self.lattice.open

    def _look(self, last: int) -> None:
        self.lattice.look(self.canvas.tokens, self.canvas.is_masked, last, self.canvas.padding)

    def _again(
        self, call: Call, rows: Positions, flags: NDArray[np.bool_], token_ids: Floats | Positions, confidence: Floats, logits: Tensor
    ) -> tuple[Positions, Floats]:
        """For `rows` [b] of `logits` [k, vocabulary] the best, or a drawn, token among the allowed classes `flags` [b, classes], and the
        model's probability of it: that of what it replaces, `confidence` [k] of `token_ids` [k], less as the logits differ, never more."""
        if not len(rows):
            return rows, np.empty(0)
        where, replaced = (torch.from_numpy(index).to(logits.device) for index in (rows, token_ids[rows].astype(np.int64)))
        penalties = torch.where(torch.from_numpy(flags).to(logits.device), 0.0, -torch.inf)
        step = len(rows) if logits.is_cuda else 1  # rows that stay in a processor's cache are several times as fast
        tokens = torch.cat([self._best(call, logits, *part) for part in zip(where.split(step), penalties.split(step), strict=True)])
        change = logits[where, tokens].double() - logits[where, replaced].double()
        if call.draws is not None and not call.untempered:
            change /= self.decoding.temperature
        token_change = torch.stack([tokens.double(), change]).cpu().numpy()
        return token_change[0].astype(np.int64), confidence[rows] * np.exp(np.minimum(token_change[1], 0.0))

    def _best(self, call: Call, logits: Tensor, rows: Tensor, penalties: Tensor) -> Tensor:
        """The best, or a drawn, token of each row with penalties [b, classes] of 0 or minus infinity."""
        among = penalties.index_select(1, self._class_of(logits.device)).add_(logits[rows])
        best = among.argmax(dim=-1)
        if call.draws is None:
            return best
        weights = torch.softmax(among / self.decoding.temperature, dim=-1)
        if self.decoding.top_p is not None:
            tempered = torch.softmax(self._without_mask(logits[rows].float()) / self.decoding.temperature, dim=-1)
            top_p = torch.full((len(rows),), self.decoding.top_p, device=logits.device)
            likely = weights.masked_fill(nucleus(tempered, top_p) == 0, 0.0)
            weights = torch.where(likely.sum(dim=-1, keepdim=True) > 0, likely, weights)
        return self._drawn(weights, best)

    def _drawn(self, weights: Tensor, best: Tensor) -> Tensor:
        """Tokens drawn by `weights` [b, vocabulary], `best` [b] where rounding leaves none."""
        cumulative = weights.double().cumsum(dim=-1)
        point = torch.rand(len(weights), generator=self._generator, dtype=torch.float64).to(weights.device) * cumulative[:, -1]
        drawn = torch.searchsorted(cumulative, point[:, None], right=True).clamp(max=weights.shape[-1] - 1)
        return torch.where(weights.gather(-1, drawn)[:, 0] > 0, drawn[:, 0], best)

    def _together(self, call: Call, rows: Positions, flags: NDArray[np.bool_], numbers: Floats, logits: Tensor) -> tuple[Positions, Floats]:
        """The tokens and confidences of `rows` by a joint rule."""
        lattice, automaton = self.lattice, self.lattice.automaton
        most_probable = self.decoding.constraint_rule == "map"
        places = call.positions[rows].tolist()
        temperature = self.decoding.temperature or 1.0
        chosen = logits[torch.from_numpy(rows).to(logits.device)].double()
        probabilities = torch.softmax(self._without_mask(chosen) / temperature, dim=-1).cpu()
        class_of = self._class_of(torch.device("cpu")).expand(len(rows), -1)
        nothing = torch.zeros(len(rows), automaton.pad, dtype=torch.float64)
        mass = nothing.scatter_reduce(1, class_of, probabilities, "amax" if most_probable else "sum").numpy()
        if most_probable:
            with np.errstate(divide="ignore"):
                weights = place_weights(lattice, dict(zip(places, np.maximum(np.log(mass), -1e6), strict=True)), log=True)
            path = best_answer(lattice, weights)
            picked = np.minimum([path[place - lattice.start] for place in places], automaton.stop)  # padding is written as a stop id
            marginals = probabilities.masked_fill(class_of != torch.from_numpy(picked)[:, None], 0.0)
        else:
            factors = marginal_factors(lattice, place_weights(lattice, dict(zip(places, np.maximum(mass, 1e-30), strict=True)), log=False))
            columns = np.stack([factors[place - lattice.start] for place in places])
            marginals = probabilities * torch.from_numpy(columns).gather(1, class_of)
        best = marginals.argmax(dim=-1)
        tokens = best if call.draws is None else self._drawn(marginals, best)
        sure = marginals.gather(-1, tokens[:, None])[:, 0].clamp(max=1.0).numpy()
        token_ids = tokens.numpy()
        barred = ~flags[np.arange(len(rows)), automaton.class_of[token_ids]]  # no mass is left there in double precision
        token_ids[barred], sure[barred] = self._again(call, rows[barred], flags[barred], numbers[TOKEN], numbers[CONFIDENCE], logits)
        return token_ids, sure

    def _without_mask(self, logits: Tensor) -> Tensor:
        mask_id = self.decoding.mask_id
        if mask_id is None:
            return logits
        return logits.index_fill(1, torch.tensor([mask_id], device=logits.device), -torch.inf)

    def _class_of(self, device: torch.device) -> Tensor:
        automaton = self.lattice.automaton
        classes = _CLASSES.get(automaton)
        if classes is None or classes.device != device:
            classes = _CLASSES[automaton] = torch.from_numpy(automaton.class_of).long().to(device)
        return classes
