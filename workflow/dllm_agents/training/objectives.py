"""What each paradigm is trained to predict. An objective turns an example into rows, rows are collated into one `Batch`, and the loop
knows nothing else of it.

AR: cross-entropy of the next token. Full diffusion: masked tokens of the response, everything visible both ways (LLaDA section 2.2).
Block diffusion: masked tokens of a block given the clean blocks before it (BD3-LM; SDAR; DLLM-Searcher's agentic ELBO). Context-causal
block diffusion: the same over a token-causal context, with the AR loss on it (DLLM Agent section 3; openPangu-R-7B-Diffusion). Only
generated tokens are supervised in all of them, so a budget of supervised tokens means the same for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import compress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from dllm_agents.errors import StageError
from dllm_agents.models.families import Attention
from dllm_agents.training import masks, noising
from dllm_agents.training.forward import logits_of
from dllm_agents.training.noising import Noise

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

ContextMask = Literal["aligned", "edges", "naive"]
ContextNoise = Literal["clean", "noisy"]
NoiseRule = Literal["anchored", "independent", "middle", "complementary", "end_masked", "fixed_count"]
IGNORE = -100
# Tokens of end-of-text padding that always stay in the loss, and the share of the others that does. A response padded to a fixed
# length is mostly end tokens; scored in full they drown the words.
KEPT_END_TOKENS = 2
KEPT_PADDING = 0.15


class Example(NamedTuple):
    """Token ids, and which of them the model is to generate: thoughts, actions, end tokens. Context and tool responses are not. `calls`
    marks those of tool calls, where that matters; `role` is who in a team says it, empty for an agent alone."""

    ids: Sequence[int]
    generated: Sequence[bool]
    calls: Sequence[bool] = ()
    role: str = ""

    @classmethod
    def exchange(cls, prompt: Sequence[int], response: Sequence[int]) -> Example:
        """One prompt and its response, which ends in the end token."""
        return cls([*prompt, *response], [False] * len(prompt) + [True] * len(response))


class Row(NamedTuple):
    """One row of a batch before padding, [length] each. `targets` holds the token that the logits of a place are scored against,
    IGNORE elsewhere; `weights` the weight of that loss."""

    ids: Tensor
    position: Tensor
    block: Tensor
    copy: Tensor
    targets: Tensor
    weights: Tensor


@dataclass
class Batch:
    """What the model reads, who sees whom, and what is asked, [batch, length] each. The loss is the weighted sum of cross-entropies over
    the places whose target is not IGNORE."""

    input_ids: Tensor
    position_ids: Tensor
    block: Tensor
    copy: Tensor
    segment: Tensor
    targets: Tensor
    weights: Tensor
    kind: Attention
    places: Tensor | None = field(default=None, kw_only=True)
    """The places that carry loss, as indices into the flattened batch; found on the host, so that no step waits for a GPU to count."""
    columns: Tensor | None = field(default=None, kw_only=True)
    """The same by line, see `supervised_columns`."""
    prompt: int = field(default=0, kw_only=True)
    """Columns at the left, prompts alone, that are run without gradients."""

    @property
    def rule(self) -> masks.Rule:
        """Who sees whom."""
        if self.kind == "block_causal":
            return masks.block_diffusion(self.block, self.copy, self.segment)
        if self.kind == "context_causal":
            return masks.context_causal(self.block, self.copy, self.segment)
        return masks.causal(self.segment) if self.kind == "causal" else masks.full(self.segment)

    @property
    def supervised(self) -> int:
        """Tokens that carry loss."""
        return int((self.targets != IGNORE).sum())

    def keep(self, count: int) -> None:
        """Leave only the first `count` supervised tokens in the loss, so that a budget is met to the token."""
        self.targets.view(-1)[self.supervised_places()[count:]] = IGNORE
        self.places = self.columns = None

    def to(self, device: torch.device) -> Self:
        """The batch on a device, which is not waited for."""
        values = {item.name: getattr(self, item.name) for item in fields(self)} | {
            "places": self.supervised_places(),
            "columns": self.supervised_columns(),
        }
        moved: dict[str, Any] = {name: _moved(value, device) for name, value in values.items() if isinstance(value, (Tensor, nn.Module))}
        return replace(self, **moved)

    def supervised_places(self) -> Tensor:
        """The places that carry loss, as indices into the flattened batch, in row order."""
        return (self.targets != IGNORE).flatten().nonzero().flatten() if self.places is None else self.places

    def supervised_columns(self) -> Tensor:
        """The columns of the places that carry loss [batch, most of any line, at least 1], shorter lines padded with the length."""
        if self.columns is not None:
            return self.columns
        carries = self.targets != IGNORE
        most = max(1, int(carries.sum(1).max()))
        length = carries.shape[1]
        return torch.where(carries, torch.arange(length, device=carries.device), length).sort(1).values[:, :most].contiguous()

    def loss(self, model: LlamaForCausalLM) -> Tensor:
        """What training lowers."""
        return token_losses(logits_of(model, self), self).sum()

    def normalised(self, tokens: int | None = None) -> Batch:
        """The weights over the number of generated `tokens` that the batch estimates the loss of (default: over their own sum)."""
        total = self.weights[self.targets != IGNORE].sum() if tokens is None else torch.tensor(float(tokens))
        self.weights = self.weights / total.clamp(min=1e-9)
        return self


def _moved(value: Tensor | nn.Module, device: torch.device) -> Tensor | nn.Module:
    if isinstance(value, Tensor) and device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


def token_losses(logits: Tensor, batch: Batch) -> Tensor:
    """Weighted cross-entropy of each supervised token [supervised], in row order. `logits` [supervised, vocabulary] are those places'."""
    chosen = batch.supervised_places()
    return functional.cross_entropy(logits.float(), batch.targets.flatten()[chosen], reduction="none") * batch.weights.flatten()[chosen]


def next_token(example: Example) -> Row:
    """AR cross-entropy: place i predicts token i + 1, wherever that one is generated."""
    ids, generated = torch.tensor(example.ids), torch.tensor(example.generated)
    length = len(ids) - 1
    zeros = torch.zeros(length, dtype=torch.long)
    targets = torch.where(generated[1:], ids[1:], IGNORE)
    return Row(ids[:-1], torch.arange(length), zeros, zeros, targets, torch.ones(length))


def full_diffusion(
    example: Example,
    mask: int,
    end: int,
    response_tokens: int,
    generator: torch.Generator,
    rule: NoiseRule = "anchored",
    shift: bool = False,
) -> list[Row]:
    """Masked diffusion over the whole sequence, the last generated run padded with end tokens to `response_tokens`; one row per copy.
    `shift`: a token's loss is taken where the token before it stands (Dream)."""
    first = _last_run(example)
    padding = max(0, response_tokens - (len(example.ids) - first))
    ids = torch.tensor([*example.ids, *[end] * padding])
    generated = torch.tensor([*example.generated, *[True] * padding])
    learnt = generated & ~_dropped(padding, len(ids), generator)
    place, zeros = torch.arange(len(ids)), torch.zeros(len(ids), dtype=torch.long)
    rows = [
        Row(torch.where(noise.masked, mask, ids), place, zeros, zeros, torch.where(noise.masked & learnt, ids, IGNORE), noise.weight)
        for noise in copies(rule, generated, ids == end, None, generator)
    ]
    return [shifted(row) for row in rows] if shift else rows


def block_diffusion(
    example: Example,
    mask: int,
    end: int,
    block_length: int,
    generator: torch.Generator,
    rule: NoiseRule = "anchored",
    context_mask: ContextMask = "aligned",
    context_noise: ContextNoise = "clean",
    shift: bool = False,
    samples: int = 1,
) -> Row:
    """Block diffusion in the layout [clean ; noisy copy 1 ; noisy copy 2 ...], noisy copies of the blocks that hold generated tokens.

    Blocks are counted from position 0, as SDAR decodes, so that one may mix prompt tail, reply and tool response. Context in a block is
    never scored. `context_mask` says what becomes of context that follows generated tokens: masked, as in decoding (`aligned`: agentic
    noising, DLLM-Searcher section 4.2.2); unseen by generated tokens before it (`edges`: DLLM Agent equation 13, through which it still
    leaks where something else in the block sees it); or visible (`naive`). `context_noise`: whether noise hits context too (`noisy`: DLLM
    Agent without context-clean corruption). `shift`: a token's loss is taken where the token before it stands, for a block's first token
    in the clean block before (Fast-dLLM v2 section 3.2). `samples` draws share one clean form, the weight of each divided by their number.
    """
    if len(example.ids) != len(example.generated):
        raise StageError(f"an example has {len(example.ids)} tokens and spans over {len(example.generated)}; encode its trajectory again")
    clean, noisy = _layout(example, end, block_length, torch.arange(len(example.ids)) // block_length)
    none = torch.zeros_like(noisy.generated)
    hidden = noising.hidden_context(noisy.generated, noisy.block) if context_mask == "aligned" else none
    unseen = ~noisy.generated if context_mask == "edges" else none
    drawn_from = noisy.generated if context_noise == "clean" else torch.ones_like(noisy.generated)
    learnt = noisy.generated & ~(noisy.padding & (torch.rand(len(noisy.ids), generator=generator) >= KEPT_PADDING))
    last = int(noisy.block.max())
    context = clean.block < last  # nothing reads the clean form of the last block
    zeros = torch.zeros(int(context.sum()), dtype=torch.long)
    parts = [Row(clean.ids[context], clean.place[context], clean.block[context], zeros, zeros + IGNORE, zeros.float())]
    drawn = [noise for _ in range(samples) for noise in copies(rule, drawn_from, noisy.ids == end, noisy.block, generator)]
    for number, noise in enumerate(drawn, 1):
        targets = torch.where(noise.masked & learnt, noisy.ids, IGNORE)
        ids = torch.where(noise.masked | hidden, mask, noisy.ids)
        copy = torch.where(unseen, -number, number)
        parts.append(Row(ids, noisy.place, noisy.block, copy, targets, noise.weight / samples))
    row = Row(*(torch.cat([part[field] for part in parts]) for field in range(len(Row._fields))))
    return shifted(row) if shift else row


def context_causal(
    example: Example,
    mask: int,
    end: int,
    block_length: int,
    generator: torch.Generator,
    rule: NoiseRule = "anchored",
    ar_weight: float = 0.5,
) -> Row:
    """Context-causal block diffusion: [clean ; noisy copy 1 ; ...], blocks begun anew at every reply, L = L_MDM + `ar_weight` L_AR
    (DLLM Agent equation 12 and section 3; openPangu-R-7B-Diffusion's decoder).

    A token is predicted where the token before it stands. A block's first token is decided by the causal pass before the block, hence
    always visible in its noisy copies, and scored in L_MDM at the clean token before it; L_AR scores every generated token there.
    """
    clean, noisy = _layout(example, end, block_length, reply_blocks(example.generated, block_length), whole=True)
    length = len(clean.ids) - 1
    following = torch.where(clean.generated[1:], clean.ids[1:], IGNORE)
    weight = ar_weight + (clean.block[1:] != clean.block[:-1]).float()
    zeros = torch.zeros(length, dtype=torch.long)
    targets = torch.where(weight > 0, following, IGNORE)
    parts = [Row(clean.ids[:-1], clean.place[:-1], clean.block[:-1], zeros, targets, weight)]
    inner = torch.cat([torch.tensor([False]), noisy.block[1:] == noisy.block[:-1]])
    open_ = noisy.generated & inner
    learnt = open_ & ~(noisy.padding & (torch.rand(len(noisy.ids), generator=generator) >= KEPT_PADDING))
    for number, noise in enumerate(copies(rule, open_, noisy.ids == end, noisy.block, generator), 1):
        scored = torch.where(noise.masked & learnt, noisy.ids, IGNORE)
        ids = torch.where(noise.masked, mask, noisy.ids)
        ahead = functional.pad(scored[1:], (0, 1), value=IGNORE), functional.pad(noise.weight[1:], (0, 1))
        parts.append(Row(ids, noisy.place, noisy.block, torch.full_like(ids, number), *ahead))
    return Row(*(torch.cat([part[field] for part in parts]) for field in range(len(Row._fields))))


def copies(rule: NoiseRule, generated: Tensor, end: Tensor, block: Tensor | None, generator: torch.Generator) -> list[Noise]:
    """The noised copies an example is trained on. `anchored`: one with t ~ U(0, 1), one fully masked, each of weight 1 (a tiny model
    that never sees the fully masked state cannot begin a reply); the others are the published rules of `noising`."""
    if rule == "fixed_count":
        return [noising.fixed_count(generated, generator)]
    if rule == "end_masked":
        return [noising.end_masked(noising.independent(generated, generator, block, 0.1, 0.9), end & generated)]
    if rule == "middle":
        return [noising.independent(generated, generator, block, 0.1, 0.9)]
    drawn = noising.independent(generated, generator, block)
    if rule == "independent":
        return [drawn]
    plain = drawn._replace(weight=torch.ones(len(generated)))
    return [plain, noising.everything(generated) if rule == "anchored" else noising.complementary(drawn, generated)]


def collate(
    rows: Sequence[Row],
    attention: Attention,
    pad: int,
    packed_length: int | None = None,
    multiple: int = 1,
    prompt_gradient: bool = True,
) -> Batch:
    """Rows side by side, padded on the right to a `multiple`; with `packed_length` several share a line as long as they fit, unseen by
    one another. Without `prompt_gradient` what comes before a row's first target is padded on the left, so that prompts end together."""
    lines = _pack(rows, packed_length) if packed_length else [[row] for row in rows]
    prompts = [0 if prompt_gradient else int((line[0].targets != IGNORE).int().argmax()) for line in lines]
    left = [max(prompts) - prompt for prompt in prompts]
    length = -(-max(ahead + sum(len(row.ids) for row in line) for ahead, line in zip(left, lines, strict=True)) // multiple) * multiple

    def stack(field: int, fill: float) -> Tensor:
        joined = [torch.cat([row[field] for row in line]) for line in lines]
        pairs = zip(left, joined, strict=True)
        return torch.stack([functional.pad(item, (ahead, length - ahead - len(item)), value=fill) for ahead, item in pairs])

    ids, position, block, copy, targets, weights = (stack(field, fill) for field, fill in enumerate((pad, 0, 0, 0, IGNORE, 0.0)))
    segment = torch.full_like(ids, -1)
    for at, (ahead, line) in enumerate(zip(left, lines, strict=True)):
        sizes = torch.tensor([len(row.ids) for row in line])
        segment[at, ahead : ahead + int(sizes.sum())] = torch.arange(len(line)).repeat_interleave(sizes)
    return Batch(ids, position, block, copy, segment, targets, weights, attention, prompt=max(prompts))


class _Part(NamedTuple):
    ids: Tensor
    place: Tensor
    block: Tensor
    generated: Tensor
    padding: Tensor


def _layout(example: Example, end: int, block_length: int, block: Tensor, whole: bool = False) -> tuple[_Part, _Part]:
    """The clean tokens, and those of the blocks that hold generated tokens; the last one, or with `whole` each, filled up with end tokens.
    `block` [tokens] numbers the blocks."""
    ids, generated = torch.tensor(example.ids), torch.tensor(example.generated)
    place = torch.arange(len(ids))
    clean = _Part(ids, place, block, generated, torch.zeros_like(generated))
    blocks = block[generated].unique()
    pieces = []
    for number in blocks:
        inside = block == number
        fill = block_length - int(inside.sum()) if whole or (number == block[-1] and generated[-1]) else 0
        start = int(place[inside][0])
        new = torch.tensor([False] * int(inside.sum()) + [True] * fill)
        pieces.append(
            _Part(
                torch.cat([ids[inside], torch.full((fill,), end)]),
                torch.arange(start, start + len(new)),
                torch.full((len(new),), int(number)),
                torch.cat([generated[inside], torch.ones(fill, dtype=torch.bool)]),
                _beyond_kept(new),
            )
        )
    return clean, _Part(*(torch.cat([piece[field] for piece in pieces]) for field in range(len(_Part._fields))))


def reply_blocks(generated: Sequence[bool], block_length: int) -> Tensor:
    """The block of each token, begun anew wherever generated text begins or ends."""
    numbers, number, inside = [], -1, block_length
    for at, flag in enumerate(generated):
        if inside == block_length or (at and flag != generated[at - 1]):
            number, inside = number + 1, 0
        numbers.append(number)
        inside += 1
    return torch.tensor(numbers)


def _beyond_kept(new: Tensor) -> Tensor:
    """Of the end tokens that fill up a block, those after the one that is always scored beside the reply's own."""
    return new & (new.cumsum(0) > KEPT_END_TOKENS - 1)


def _dropped(padding: int, length: int, generator: torch.Generator) -> Tensor:
    new = torch.arange(length) >= length - padding
    return _beyond_kept(new) & (torch.rand(length, generator=generator) >= KEPT_PADDING)


def _last_run(example: Example) -> int:
    """Where the last run of generated tokens begins."""
    at = len(example.generated)
    while at and example.generated[at - 1]:
        at -= 1
    return at


def weighted_calls(row: Row, example: Example, weight: float, ahead: int) -> Row:
    """The row with the loss of tool-call tokens times `weight`; of weight 0 they are not supervised at all. A target is the token
    `ahead` places after the one it is scored at."""
    at = row.position + ahead
    call = torch.tensor(example.calls)[at.clamp(max=len(example.ids) - 1)] & (at < len(example.ids))
    targets = row.targets.masked_fill(call, IGNORE) if weight == 0 else row.targets
    return row._replace(targets=targets, weights=torch.where(call, weight * row.weights, row.weights))


def rare_tokens(examples: Sequence[Example], vocabulary: int, share: float = 0.2) -> Tensor:
    """Which tokens [vocabulary] stand in fewer than `share` of the generated texts: names, relations and values, not the words around
    them."""
    counts = Counter(token for example in examples for token in set(compress(example.ids, example.generated)))
    return torch.tensor([counts[token] < share * len(examples) for token in range(vocabulary)])


def weighted_rare(row: Row, rare: Tensor, weight: float) -> Row:
    """The row with the loss of `rare` tokens [vocabulary] times `weight`."""
    chosen = (row.targets != IGNORE) & rare[row.targets.clamp(min=0)]
    return row._replace(weights=torch.where(chosen, weight * row.weights, row.weights))


@torch.no_grad()
def rightness(model: LlamaForCausalLM, batches: Sequence[Batch], rare: Tensor) -> tuple[int, int]:
    """How many of the `rare` targets [vocabulary] the model predicts right, everything else of the batches given, and of how many."""
    right = total = 0
    for batch in batches:
        moved = batch.to(model.device)
        targets = moved.targets.flatten()[moved.supervised_places()]
        chosen = rare.to(model.device)[targets]
        right += int((logits_of(model, moved).argmax(-1) == targets)[chosen].sum())
        total += int(chosen.sum())
    return right, total


def learnt_share(by_role: Sequence[tuple[int, int]]) -> float:
    """Of (right, all) tokens by role the share over all roles, or the upper end of a role's interval where that is lower; 0 without any."""
    from scipy.stats import binomtest

    counted = [(right, total) for right, total in by_role if total]
    uppers = [float(binomtest(right, total).proportion_ci(method="wilson").high) for right, total in counted]
    return min([sum(right for right, _ in counted) / max(1, sum(total for _, total in counted)), *uppers])


def shifted(row: Row) -> Row:
    """Each target moved to the place that holds the token before: in its own copy and block, else among the clean tokens."""
    targets, weights = torch.full_like(row.targets, IGNORE), torch.zeros_like(row.weights)
    places = list(zip(row.copy.abs().tolist(), row.block.tolist(), row.position.tolist(), strict=True))
    at = {place: index for index, place in enumerate(places)}
    clean = {position: index for index, (copy, _, position) in enumerate(places) if copy == 0}
    for index in (row.targets != IGNORE).nonzero().flatten().tolist():
        before = int(row.position[index]) - 1
        source = at.get((abs(int(row.copy[index])), int(row.block[index]), before), clean.get(before))
        if source is not None:
            targets[source], weights[source] = row.targets[index], row.weights[index]
    return row._replace(targets=targets, weights=weights)


def _pack(rows: Sequence[Row], length: int) -> list[list[Row]]:
    """First fit, longest first; a row longer than `length` has a line of its own."""
    lines: list[list[Row]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        place = next((at for at, left in enumerate(room) if left >= len(row.ids)), None)
        if place is None:
            lines.append([])
            room.append(length)
            place = -1
        lines[place].append(row)
        room[place] -= len(row.ids)
    return lines
