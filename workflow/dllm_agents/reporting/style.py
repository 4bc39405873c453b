"""One visual language for all figures. A backbone has the same colour everywhere; AR and diffusion differ in hatch and marker, and every
bar or point is labelled, so that nothing rests on colour alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dllm_agents.config import Agent, Config
from dllm_agents.reporting import published

# seaborn's "colorblind" palette for this run's backbones and "pastel" for published models, written out so that a colour can be asked
# for without importing seaborn. Pale against full tones stays visible in greyscale.
PALETTE = ("#0173B2", "#DE8F05", "#029E73", "#D55E00", "#CC78BC", "#CA9161", "#56B4E9", "#ECE133", "#949494", "#FBAFE4")
PALE = ("#A1C9F4", "#FFB482", "#8DE5A1", "#FF9F9B", "#D0BBFF", "#DEBB9B")
SCRIPTED_COLOUR = "#BBBBBB"
HATCH = {"ar": "", "diffusion": "////", "unknown": "xx", "scripted": "...."}
MARKER = {"ar": "o", "diffusion": "D", "unknown": "X", "scripted": "s"}
PARADIGM = {"ar": "autoregressive", "diffusion": "diffusion", "unknown": "paradigm unknown", "scripted": "scripted"}
FONT = 8
DPI = 300


@dataclass(frozen=True)
class Look:
    """How a model is drawn."""

    colour: str
    paradigm: str

    @property
    def hatch(self) -> str:
        return HATCH[self.paradigm]

    @property
    def marker(self) -> str:
        return MARKER[self.paradigm]


def looks(config: Config) -> dict[str, Look]:
    """The look of every published model and of every agent of the run. Backbones take the palette in the order in which they are
    defined; a published checkpoint that is run here has the colour of its published row."""
    models = published.models()
    by_name = {model.agent: Look(PALE[index % len(PALE)], model.paradigm) for index, model in enumerate(models)}
    by_hub = {model.hub_id: by_name[model.agent] for model in models}
    own = [name for name, backbone in config.backbones.items() if backbone.model not in by_hub]
    colours = {name: Look(PALETTE[index % len(PALETTE)], config.backbones[name].paradigm or "unknown") for index, name in enumerate(own)}
    colours |= {name: by_hub[backbone.model] for name, backbone in config.backbones.items() if backbone.model in by_hub}
    for agent, entry in config.agents.items():
        by_name[agent] = colours.get(entry.policy, Look(SCRIPTED_COLOUR, "scripted"))
    return by_name


def backbone_looks(config: Config) -> dict[str, Look]:
    """The look of every backbone: that of the agents whose policy it is."""
    backbones = config.model_copy(update={"agents": {name: Agent(policy=name) for name in config.backbones}})
    by_name = looks(backbones)
    return {name: by_name[name] for name in config.backbones}


def theme() -> None:
    """Set seaborn's theme and the fonts of all figures."""
    import matplotlib

    matplotlib.use("Agg")
    import seaborn

    settings: dict[str, Any] = {
        "font.size": FONT,
        "text.parse_math": False,  # a dollar sign in a name is one
        "axes.labelsize": FONT,
        "axes.titlesize": FONT + 1,
        "xtick.labelsize": FONT - 1,
        "ytick.labelsize": FONT,
        "legend.fontsize": FONT - 1,
        "hatch.linewidth": 0.6,
        "axes.edgecolor": "#444444",
        "axes.linewidth": 0.6,
        "pdf.fonttype": 42,
        "figure.constrained_layout.use": True,
    }
    seaborn.set_theme(context="paper", style="whitegrid", palette="colorblind", rc=settings)
