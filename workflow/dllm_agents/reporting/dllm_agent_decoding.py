"""How replies of a diffusion team are decoded: DLLM Agent's Figures 3 and 5 (order of decoding) and 4 and 6 (confidence, entropy, masks),
for one reply of a planner and one of a seeker, as in the paper."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from dllm_agents.config import QUESTIONS
from dllm_agents.records import Dynamics, TracedCall, TracedEpisode
from dllm_agents.reporting import published
from dllm_agents.reporting.dllm_agent import teams
from dllm_agents.reporting.drawing import say_not_run
from dllm_agents.reporting.inputs import Inputs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALIGNED = ("sdar", "fast_dllm_v2")
"""Strategies whose blocks start at the beginning of the prompt."""
CELLS, MOST_LINES = 16, 24
LETTERS = 7
DARK = 0.55


class Shown(NamedTuple):
    """A reply to draw: its agent and task, and its decoding settings."""

    agent: str
    task: str
    call: TracedCall
    decoding: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.agent}, {self.task}"


class Cell(NamedTuple):
    """A token of a reply, its block, and the step in the block that decided it, from 0."""

    text: str
    block: int
    step: int


def reply(inputs: Inputs, role: str, usable: Callable[[TracedCall], bool]) -> Shown | None:
    """The longest usable reply of a role in the first solved episode, else the first, of the run's first diffusion team that has one."""
    for agent in (name for name in teams(inputs) if inputs.paradigm(name) == "diffusion"):
        first: Shown | None = None
        for benchmark in QUESTIONS:
            for episode in inputs.traced_episodes(agent, benchmark):
                shown = _longest(episode, role, usable)
                if shown is not None and episode.success:
                    return shown
                first = first or shown
        if first is not None:
            return first
    return None


def _longest(episode: TracedEpisode, role: str, usable: Callable[[TracedCall], bool]) -> Shown | None:
    calls = [call for call in episode.calls if call.role == role and usable(call)]
    longest = max(calls, key=lambda call: call.completion_tokens or 0, default=None)
    return None if longest is None else Shown(episode.agent, episode.task_id, longest, episode.decoding.get(role, {}))


def is_traced(call: TracedCall) -> bool:
    """Whether a call records the step of every token."""
    return bool(call.reveal_step) and len(call.reveal_step or ()) == len(call.tokens or ())


def order(call: TracedCall, decoding: dict[str, Any]) -> list[Cell]:
    """The tokens of a reply in reading order. A block's first token, which the pass before it decides where there is one, has step 0; one
    that its s-th denoising forward accepts (s from 0) then has step s + 1 (DLLM Agent, Figures 3 and 5)."""
    steps, texts = call.reveal_step or [], call.tokens or []
    length = int(decoding.get("block_length") or len(steps) or 1)
    whole = decoding.get("strategy") not in ALIGNED or decoding.get("fill_prompt")
    offset = 0 if whole else (call.prompt_tokens or 0) % length
    cells = [Cell(text, (offset + place) // length, step) for place, (text, step) in enumerate(zip(texts, steps, strict=True))]
    first = {block: min(cell.step for cell in part) for block, part in groupby(cells, key=lambda cell: cell.block)}
    return [cell._replace(step=cell.step - first[cell.block]) for cell in cells]


def _draw_order(inputs: Inputs, figure: Figure, role: str) -> None:
    """The order in which a role's reply was decoded: a cell for each token, a red line between blocks; yellow is early, purple late."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    shown, axis = reply(inputs, role, is_traced), figure.subplots()
    axis.grid(visible=False)
    axis.set(xticks=[], yticks=[])
    if shown is None:
        say_not_run(axis)
        return
    cells = order(shown.call, shown.decoding)
    scale, colours = Normalize(0, max(cell.step for cell in cells) or 1), colormaps["viridis_r"]
    blocks = [list(part) for _, part in groupby(cells, key=lambda cell: cell.block)]
    width = min(CELLS, max(map(len, blocks)))
    line, drawn = 0, 0
    for block in blocks:
        lines = -(-len(block) // width)
        if line + lines > MOST_LINES:
            break
        for place, cell in enumerate(block):
            x, y, share = place % width, line + place // width, float(scale(cell.step))
            axis.add_patch(Rectangle((x, y), 1, 1, facecolor=colours(share), edgecolor="white", linewidth=0.3))
            ink = "white" if share > DARK else "black"
            axis.text(x + 0.5, y + 0.5, _printable(cell.text), ha="center", va="center", fontsize=4.5, color=ink, parse_math=False)
        line, drawn = line + lines, drawn + len(block)
        axis.axhline(line, color="red", linewidth=1)
    axis.set(xlim=(0, width), ylim=(max(line, 1), 0))
    left_out = f", first {drawn} of {len(cells)} tokens" if drawn < len(cells) else ""
    axis.set_title(f"{shown.title}{left_out}")
    figure.colorbar(ScalarMappable(scale, colours), ax=axis, label="Decoding step in the block", shrink=0.7)


def _printable(token: str) -> str:
    """A token's text for a cell: ASCII, with visible spaces, cut."""
    text = token.replace("\n", "\\n").replace(" ", "\u00b7")
    return "".join(letter if letter.isascii() or letter == "\u00b7" else "?" for letter in text)[:LETTERS]


def published_dynamics(figure: str) -> tuple[Dynamics, list[float]]:
    """The values of a figure of the paper: blocks, masks and entropies of a reply's forwards, and the share accepted in each bin."""
    values = [item for item in published.values("dllm_agent_figures4_6") if item.table == figure]
    masks, entropies, rates = (
        [item for item in values if item.metric == name] for name in ("masks_remaining", "mean_entropy_nats", "acceptance_rate")
    )
    noted = Dynamics(
        block=[int(item.category.split()[2]) - 1 for item in masks],
        masks=[int(item.value or 0) for item in masks],
        entropy=[item.value or 0.0 for item in entropies],
        shown=[0] * 10,
        accepted=[0] * 10,
    )
    return noted, [item.value or 0.0 for item in rates]


def acceptance(noted: Dynamics) -> list[float]:
    """Of the predictions in each bin of confidence the share (%) that was accepted at once; 0 where there were none."""
    return [100 * accepted / shown if shown else 0.0 for shown, accepted in zip(noted.shown, noted.accepted, strict=True)]


def _draw_dynamics(inputs: Inputs, figure: Figure, role: str, name: str) -> None:
    """Confidence, entropy and masks of a role's reply, the paper's above."""
    shown = reply(inputs, role, lambda call: call.dynamics is not None and bool(call.dynamics.block))
    axes = figure.subplots(2, 3)
    _draw_panels(axes[0], "published", *published_dynamics(name))
    if shown is None or shown.call.dynamics is None:
        for axis in axes[1]:
            say_not_run(axis)
    else:
        _draw_panels(axes[1], shown.agent, shown.call.dynamics, acceptance(shown.call.dynamics))
    for axis, label in zip(axes[1], ("Confidence", "Denoising forward", "Denoising forward"), strict=True):
        axis.set_xlabel(label)


def _draw_panels(axes: Any, title: str, noted: Dynamics, rates: list[float]) -> None:
    """Acceptance by confidence; mean entropy and masks of the block before every denoising forward, a colour a block."""
    from matplotlib import colormaps

    bars, curve, count = axes
    bars.bar([0.05 + 0.1 * place for place in range(10)], rates, width=0.09, color="#0173B2", edgecolor="#222222", linewidth=0.4)
    bars.set(title=title, ylabel="Accepted (%)", xlim=(0, 1), ylim=(0, 105))
    blocks = max(noted.block) + 1
    forwards = list(range(len(noted.block)))
    for _, group in groupby(forwards, key=lambda place: noted.block[place]):
        part = list(group)
        colour = colormaps["Spectral"](noted.block[part[0]] / max(1, blocks - 1))
        for axis, values in ((curve, noted.entropy), (count, noted.masks)):
            axis.plot(part, [values[place] for place in part], color=colour, linewidth=1.2, marker="o", markersize=2)
    curve.set(title=f"{blocks} block{'s' * (blocks != 1)}", ylabel="Mean entropy (nats)")
    count.set(title=f"{len(forwards)} forwards", ylabel="Masks of the block")
    for axis in (curve, count):
        axis.set_ylim(bottom=0)


figure3, figure5 = partial(_draw_order, role="planner"), partial(_draw_order, role="seeker")
figure4 = partial(_draw_dynamics, role="planner", name="Figure 4")
figure6 = partial(_draw_dynamics, role="seeker", name="Figure 6")
