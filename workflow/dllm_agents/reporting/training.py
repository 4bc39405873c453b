"""Tables and figures of the trainings of a run, from the report beside each checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllm_agents.config import PREFERENCE
from dllm_agents.errors import StageError
from dllm_agents.records import TableRow, TrainingReport
from dllm_agents.reporting import style
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import NOT_RUN, Block, Layout, Table, cell
from dllm_agents.reporting.rows import rate_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNREADABLE = ("schema", "format", "empty")


def reports(inputs: Inputs) -> dict[tuple[str, str], TrainingReport]:
    """(backbone, benchmark) -> what its training did, of the backbones that the run trains. Raises StageError for a file that is none."""
    found = {}
    for backbone in inputs.config.used_backbones():
        for benchmark in inputs.config.run.benchmarks:
            path = inputs.files.model(backbone, benchmark) / "training.json"
            if inputs.config.backbones[backbone].training is not None and path.is_file():
                try:
                    found[backbone, benchmark] = TrainingReport.model_validate_json(path.read_bytes())
                except ValueError:
                    raise StageError(f"{path}: not a TrainingReport; delete its folder to train again") from None
    return found


def training_curves(inputs: Inputs, figure: Figure) -> None:
    """Loss by step, a panel per benchmark, a colour per backbone; preference losses have a panel of their own."""
    found = reports(inputs)
    looks = style.backbone_looks(inputs.config)
    panels: dict[str, list[TrainingReport]] = {}
    for (_, benchmark), report in found.items():
        kind = "preference loss" if report.objective in PREFERENCE else "loss"
        panels.setdefault(f"{display_name(benchmark)}, {kind}", []).append(report)
    axes = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
    if not panels:
        axes[0].text(0.5, 0.5, NOT_RUN, ha="center", va="center", transform=axes[0].transAxes, style="italic", color="#666666")
    for axis, (title, shown) in zip(axes, panels.items(), strict=False):
        for report in shown:
            colour = looks[report.backbone].colour
            axis.plot(*zip(*report.loss_curve, strict=True), color=colour, linewidth=0.7, alpha=0.7)
            steps, losses = zip(*(report.validation_curve or report.loss_curve[-1:]), strict=True)
            axis.plot(steps, losses, color=colour, linewidth=1.8, marker="o", markersize=2.5, label=report.backbone)
        axis.set_title(title, fontsize=style.FONT)
        axis.set(xlabel="Optimiser step", yscale="log")
        axis.legend(fontsize=style.FONT - 2, frameon=False)
    axes[0].set_ylabel("Cross-entropy (nats, log scale)")


def masking_pairs(inputs: Inputs) -> list[tuple[str, str]]:
    """(aligned agent, naive agent) of every two agents whose policies' trainings differ in their context mask alone."""
    trained = {}
    for agent in inputs.agents:
        training = inputs.config.backbones[inputs.config.agents[agent].policy].training
        if training is not None:
            trained[agent] = (training.context_mask, training.model_dump_json(exclude={"context_mask"}))
    aligned = {rest: agent for agent, (mask, rest) in trained.items() if mask == "aligned"}
    return [(aligned[rest], agent) for agent, (mask, rest) in trained.items() if mask == "naive" and rest in aligned]


def dllm_agent_masking(inputs: Inputs) -> Table:
    """Agents trained with masks aligned to context and action spans against those trained naively, benchmark by benchmark."""
    found = reports(inputs)
    table: list[TableRow] = []
    lines = []
    for agent in (agent for pair in masking_pairs(inputs) for agent in pair):
        backbone = inputs.config.agents[agent].policy
        for benchmark in inputs.config.agent_benchmarks(agent):
            scores, failures = inputs.rows(agent, benchmark), inputs.failures(benchmark)
            unreadable = failures[(failures["agent"] == agent) & failures["kind"].isin(UNREADABLE)]["task_id"].nunique()
            report = found.get((backbone, benchmark))
            made = [
                rate_row(agent, benchmark, "", "success_rate", int(scores["success"].sum()) if len(scores) else 0, len(scores)),
                rate_row(agent, benchmark, "", "unreadable", unreadable, len(scores)),
                TableRow(agent=agent, benchmark=benchmark, metric="validation_loss", value=report.validation_loss if report else None),
            ]
            table += made
            lines.append((agent, [display_name(benchmark), str(len(scores)), *map(cell, made)]))
    heads = [("", name) for name in ("Benchmark", "n", "Success", "Unreadable", "Held-out loss")]
    nobody = "no two agents that differ in their mask"
    rows = lines or [(nobody, [NOT_RUN] * len(heads))]
    return Table(table or [TableRow(agent=nobody, benchmark="", metric="success_rate", n=0)], Layout("Agent", heads, [Block("", rows)]))
