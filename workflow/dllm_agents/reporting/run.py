"""Tables and figures of the run itself: claims, paired comparisons, accepted trajectories, serving, trainings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dllm_agents.analysis import statistics
from dllm_agents.config import PREFERENCE
from dllm_agents.records import TableRow
from dllm_agents.reporting import published, style
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.cells import NOT_RUN, Rows, cell, number
from dllm_agents.reporting.claims import load_claims, load_untested
from dllm_agents.reporting.comparison import compare, family_name, matched_pairs, seed_pairs
from dllm_agents.reporting.drawing import plain_numbers, say_not_run
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.judging import NOBODY, VERDICTS, Finding, evaluate
from dllm_agents.reporting.layout import OURS_BLOCK, PUBLISHED_BLOCK, Block, Cell, Layout, Line, Sheet, Table, Text, plain_heads
from dllm_agents.reporting.rows import published_rows
from dllm_agents.reporting.sentences import sentence
from dllm_agents.stage_records import Probe, TrainingReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPEEDS = ("tokens_per_second", "p50_s", "p95_s", "nfe_per_token")


def claims(inputs: Inputs) -> Table:
    """The papers' claims tested on this run: a verdict each, and the numbers behind it in sentences. What reads the clock stands with the
    timing."""
    rows: list[TableRow] = []
    timing: list[TableRow] = []
    blocks: dict[str, list[Line]] = {verdict: [] for verdict in VERDICTS}
    for name, claim in load_claims().items():
        verdict, findings = evaluate(claim, inputs, name)
        target = timing if any(test.timed for test in claim.every()) else rows
        smallest = min((finding.n for finding in findings if finding.value is not None), default=0)
        target.append(TableRow(agent=name, benchmark="", category=claim.source, metric=verdict.replace(" ", "_"), n=smallest, value=1.0))
        target += [_finding_row(name, finding) for finding in findings]
        sentences = [("Premise: " * (finding.test in claim.premise)) + sentence(finding, inputs.config) for finding in findings]
        absent = all(finding.why == NOBODY for finding in findings)
        if verdict not in ("holds", "does not hold"):
            sentences.append(f"To be told by {claim.told_by}")
        lines = blocks.setdefault(NOBODY if absent else verdict, [])
        lines.append(Line(claim.statement, [claim.source, verdict, str(smallest), ". ".join(dict.fromkeys(sentences))]))
    heads = plain_heads("Source", "On this run", "n", "Numbers")
    notes = (
        f"Margins are {number(inputs.config.report.margin)} points; for amounts, as many percent of the second group's value. 'More' and "
        "'less' hold where the 95 % interval of the difference is beyond 0; they do not hold where it excludes a difference as large as "
        "the margin in that direction. Every benchmark is judged by itself, on the tasks that the named agents share; those with a "
        "verdict decide. Cannot tell: the interval is too wide, the agents cannot be distinguished from a scripted one, or the metric is "
        "at its limit. Not comparable: times of "
        "runs under unequal load. Not applicable: what a claim presumes does not hold. Agents are compared with those of the same origin: "
        "trained in this run, tuned by the package's adapters, as they came. Intervals are over tasks: of models that are trained once, "
        "another training can decide otherwise."
    )
    shown = [Block(title.capitalize(), lines) for title, lines in blocks.items() if lines]
    shown += [Block("Not tested", [Line(item.statement, [item.source, "not tested", "", item.why]) for item in load_untested()])]
    return Table(rows, Layout("Claim", heads, shown), timing, notes)


def _finding_row(claim: str, finding: Finding) -> TableRow:
    test = finding.test
    row = Rows(claim, finding.benchmark).row(test.metric, test.expect, finding.n, finding.value)
    return row.model_copy(update={"low": finding.low, "high": finding.high, "published": test.published})


def comparisons(inputs: Inputs) -> Table:
    """Every agent against the random one, and every diffusion agent against every AR one of its kind (both trained in this run, or both
    ready-made), on the tasks both have: difference in success with a paired bootstrap interval over tasks and clusters, exact McNemar p,
    Holm's correction over the table, Cohen's h, and whether the two are equivalent within `report.margin` points. Where agents differ by
    training seed alone, all seeds of a kind stand against all of another, and whole seeds are drawn too."""
    compared = [(first, second, name, compare(inputs, first, second, name)) for first, second, name in _pairs(inputs)]
    tested = [result["mcnemar_p"] for *_, result in compared if result]
    corrected = iter(statistics.holm([1.0 if row.value is None else row.value for row in tested]))
    margin = number(inputs.config.report.margin)
    heads = plain_heads("Benchmark", "n", "Difference (points)", "p", "p (Holm)", "Cohen's h", f"Within ±{margin}")
    sheet = Sheet("Pair", heads)
    for first, second, benchmark, result in compared:
        agent, other = family_name(first), family_name(second)
        name = f"{agent} against {other}"
        if not result:
            missing = inputs.missing([*first, *second], [benchmark])
            row = TableRow(agent=agent, benchmark=benchmark, category=f"against {other}", metric="success_difference", n=0, missing=missing)
            sheet.line(name, [display_name(benchmark), "0", missing, *[NOT_RUN] * 4], [row])
            continue
        result["holm_p"] = result["mcnemar_p"].model_copy(update={"metric": "holm_p", "value": next(corrected)})
        difference, comparable = result["success_difference"], result["comparable"]
        cells: list[Cell] = [Text(text, difference) for text in (display_name(benchmark), str(difference.n))]
        cells += [difference, *(Text(f"{result[metric].value:.2g}", result[metric]) for metric in ("mcnemar_p", "holm_p"))]
        cells += [Text(f"{result['cohens_h'].value:.2f}", difference), Text("yes" if comparable.value else "no", comparable)]
        sheet.line(name, cells, result.values())
    notes = (
        "Intervals of differences: paired bootstrap over clusters (BabyAI levels, shared multi-turn ids, training seeds). "
        f"'Within' is an equivalence test at a margin of {margin} points, alpha 0.05."
    )
    return sheet.table(notes)


def _pairs(inputs: Inputs) -> list[tuple[list[str], list[str], str]]:
    """(agents, as many others, benchmark) that are compared, where all of them play it."""
    random_agent = inputs.random_agent()
    pairs = [
        ([agent], [random_agent], name) for name in inputs.config.run.benchmarks for agent in inputs.agents if random_agent is not None
    ]
    pairs += [([agent], [other], name) for agent, other, name in matched_pairs(inputs)] + seed_pairs(inputs)
    return [pair for pair in pairs if all(pair[2] in inputs.config.agent_benchmarks(agent) for agents in pair[:2] for agent in agents)]


def trajectory_filter(inputs: Inputs) -> Table:
    """Teacher trajectories per benchmark: collected, accepted, rejected by reason."""
    sheet = Sheet("Benchmark", plain_heads("Collected", "Accepted", "Share (%)", "Rejected because"))
    for benchmark in inputs.config.run.benchmarks:
        counts, teacher = inputs.filtered(benchmark), Rows("teacher", benchmark)
        if counts is None:
            sheet.line(display_name(benchmark), ["0", NOT_RUN, NOT_RUN, ""], [teacher.row("accepted_share", n=0)])
            continue
        n = counts.accepted + counts.rejected.total()
        share = teacher.rate("accepted_share", counts.accepted, n)
        rows = [share, teacher.row("accepted", n=n, value=counts.accepted)]
        rows += [teacher.row("rejected", reason, n, count) for reason, count in sorted(counts.rejected.items())]
        reasons = "; ".join(f"{reason}: {count}" for reason, count in counts.rejected.most_common())
        sheet.line(display_name(benchmark), [str(n), str(counts.accepted), cell(share), reasons or "none"], rows)
    return sheet.table()


def later_agents(inputs: Inputs) -> Table:
    """What is published of agents since the papers, on benchmarks that this package does not have, or has in part."""
    sheet = Sheet("Agent", plain_heads("Benchmark", "Published", "Source", "Beside ours"))
    for value, row in zip(published.values("later_agents"), published_rows("later_agents"), strict=True):
        sheet.line(value.agent, [value.benchmark, row, value.source, value.note], block=PUBLISHED_BLOCK)
    return sheet.table()


def serving(inputs: Inputs) -> Table:
    """The serving probe of every backbone: health, canary against the reference, speed at each concurrency."""
    heads = plain_heads("Engine", "Healthy", "Canary", "Concurrency", "Tokens/s", "p50 (s)", "p95 (s)", "NFE per token")
    sheet = Sheet("Backbone", heads)
    for value in published.values("diffuagent_figure1"):
        row = TableRow(agent=value.agent, benchmark="serving", category="published", metric=value.metric, published=value.value)
        cells = ["", "", "", "1", number(value.value or 0.0), "", "", ""]
        sheet.line(value.agent, cells, [row], "Published (one A800, read off Figure 1)")
    for backbone in inputs.config.used_backbones():
        probe = inputs.probes.get(backbone)
        if probe is None:
            row = Rows(backbone, "serving").row("tokens_per_second", n=0)
            sheet.line(backbone, [*[NOT_RUN] * 3, "", *[NOT_RUN] * 4], [row], OURS_BLOCK)
            continue
        sheet.rows += _probe_rows(backbone, probe)
        health = [probe.engine, "yes" if probe.healthy else "no", probe.canary]
        for level in probe.concurrency or [{}]:
            speeds = [number(level[name]) if name in level else NOT_RUN for name in SPEEDS]
            sheet.line(backbone, [*health, f"{level['concurrency']:.0f}" if level else "", *speeds], block=OURS_BLOCK)
    hardware = sorted({probe.hardware for probe in inputs.probes.values() if probe.hardware})
    return sheet.table(f"Hardware: {'; '.join(hardware) or NOT_RUN}.")


def _probe_rows(backbone: str, probe: Probe) -> list[TableRow]:
    canary = {"equal": 1.0, "different": 0.0}.get(probe.canary)
    own = Rows(backbone, "serving")
    rows = [
        own.row("healthy", n=1, value=float(probe.healthy)),
        own.row("canary_equal", n=int(canary is not None), value=canary),
        own.row("peak_memory_mb", n=1, value=probe.peak_memory_mb),
    ]
    for level in probe.concurrency:
        category, n = f"concurrency={level['concurrency']:.0f}", int(level["requests"])
        rows += [own.row(name, category, n, level[name]) for name in SPEEDS if name in level]
    return rows


def roofline(inputs: Inputs, figure: Figure) -> None:
    """Arithmetic speed of one forward over its arithmetic intensity, per backbone, under the ceilings measured where it was probed."""
    axis = figure.subplots()
    looks = style.backbone_looks(inputs.config)
    probes = {name: probe for name, probe in inputs.probes.items() if probe.forwards and probe.roof}
    axis.set(xscale="log", yscale="log", xlabel="Floating-point operations per byte moved", ylabel="GFLOP/s reached")
    plain_numbers(axis.xaxis, axis.yaxis)
    intensity = [level["flops"] / level["bytes"] for probe in probes.values() for level in probe.forwards]
    if not intensity:
        axis.set(xlim=(0.1, 1000), ylim=(0.1, 1000))
        say_not_run(axis)
        return
    ends = (min(intensity) / 2, max(intensity) * 3)
    _draw_ceilings(axis, probes, ends)
    for name, probe in probes.items():
        levels = sorted(probe.forwards, key=lambda level: level["tokens"])
        xs = [level["flops"] / level["bytes"] for level in levels]
        ys = [level["flops"] / level["seconds"] / 1e9 for level in levels]
        times = ", ".join(f"{level['tokens']:.0f}: {_milliseconds(level)}" for level in levels)
        label = f"{name} ({probe.parameters / 1e6:.1f}M): {times}"
        colour = looks[name].colour
        axis.plot(xs, ys, color=colour, linewidth=0.7, zorder=1)
        axis.plot(xs, ys, looks[name].marker, markersize=5, markerfacecolor=colour, markeredgecolor="#222222", linestyle="", label=label)
    axis.set_xlim(*ends)
    figure.legend(loc="outside lower center", ncols=1, frameon=False, title="tokens a forward: milliseconds", title_fontsize=style.FONT - 1)


def _draw_ceilings(axis: Axes, probes: Mapping[str, Probe], ends: tuple[float, float]) -> None:
    """One line per machine: the highest ceilings its probes measured."""
    for hardware in dict.fromkeys(probe.hardware for probe in probes.values()):
        roofs = [probe.roof for probe in probes.values() if probe.hardware == hardware]
        memory, peak = (max(roof[name] for roof in roofs) for name in ("bytes_per_second", "flops_per_second"))
        line = sorted({*ends, min(max(peak / memory, ends[0]), ends[1])})
        axis.plot(line, [min(peak, memory * x) / 1e9 for x in line], color="#444444", linewidth=1.2)
        axis.set_title(f"{hardware}: {memory / 1e9:.1f} GB/s, {peak / 1e9:.0f} GFLOP/s", fontsize=style.FONT)


def _milliseconds(level: Mapping[str, float]) -> str:
    return f"{1000 * level['seconds']:.2g} ms" if level["seconds"] < 0.1 else f"{1000 * level['seconds']:.0f} ms"


def training_curves(inputs: Inputs, figure: Figure) -> None:
    """Loss by step, a panel per benchmark, a colour per backbone; preference losses have a panel of their own."""
    looks = style.backbone_looks(inputs.config)
    panels: dict[str, list[TrainingReport]] = {}
    for (_, benchmark), report in inputs.trainings.items():
        kind = "preference loss" if report.objective in PREFERENCE else "loss"
        panels.setdefault(f"{display_name(benchmark)}, {kind}", []).append(report)
    axes = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
    if not panels:
        say_not_run(axes[0])
    for axis, (title, shown) in zip(axes, panels.items(), strict=False):
        for report in shown:
            colour = looks[report.backbone].colour
            axis.plot(*zip(*report.loss_curve, strict=True), color=colour, linewidth=0.7, alpha=0.7)
            steps, losses = zip(*(report.validation_curve or report.loss_curve[-1:]), strict=True)
            axis.plot(steps, losses, color=colour, linewidth=1.8, marker="o", markersize=2.5, label=report.backbone)
        axis.set_title(title, fontsize=style.FONT)
        axis.set(xlabel="Optimiser step", yscale="log")
        plain_numbers(axis.yaxis)
        axis.legend(fontsize=style.FONT - 2, frameon=False)
    axes[0].set_ylabel("Cross-entropy (nats, log scale)")
