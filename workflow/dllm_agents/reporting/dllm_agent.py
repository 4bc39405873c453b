"""DLLM Agent: Table 1 and Figure 2, its teams of a planner and seekers, and what its abstract claims: costs, plans, tool calls, masking
and attention. Its text defines neither hit rate nor backtracking nor attention dynamics: those definitions are this project's own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from dllm_agents.analysis.statistics import calibration_error
from dllm_agents.config import BFCL_SINGLE_TURN, QUESTIONS
from dllm_agents.config.roles import TEAM_WORKFLOWS, WORKFLOWS
from dllm_agents.records import TableRow
from dllm_agents.reporting import published
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.cells import Rows, bare, cell
from dllm_agents.reporting.comparison import masking_family, matched_pairs, solved_by_both
from dllm_agents.reporting.drawing import say_not_run
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import OURS_BLOCK, PUBLISHED_BLOCK, Cell, Sheet, Table, Text, count, plain_heads
from dllm_agents.reporting.rows import Outcomes, error_rows, outcomes, published_rows, timing_rows, values_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEARCH = "multihop_qa"
STAGES = {"plan": "planner", "search": "seeker", "write": "writer"}
"""Stage of a team's work -> the role whose replies it holds."""
ATTENTION_SPANS = {"question": "Question", "plan": "Plan", "results": "Results", "format": "Rest of prompt", "own": "Reply"}
"""What a reply can look at: column of the attention records -> its name to a reader."""
COSTS = {
    "nfe_per_token": "NFE per token",
    "tokens_per_step": "Tokens per step",
    "steps_per_episode": "Steps",
    "forwards_per_success": "Forwards per success",
    "seconds_per_step": "s per step",
    "p50_s": "p50 (s)",
    "p95_s": "p95 (s)",
    "tokens_per_second": "Tokens/s",
}
UNREADABLE = ("schema", "unclosed_thought", "format", "empty")

TEAM_METRICS = {
    "accuracy": "Accuracy",
    "tool_calls": "Tool calls per seeker",
    "turns": "Turns per seeker",
    "tool_calls_per_episode": "Tool calls per episode",
    "turns_per_episode": "Turns per episode",
    "invalid_action_rate": "Invalid actions",
    "calibration_error": "Calibration error",
}
"""Metric -> column. Accuracy and the share of episodes with an invalid action are in percent; the paper's caption counts tool calls and
turns per seeker, its text per episode, so that ours has both."""


def table1(inputs: Inputs) -> Table:
    """DLLM Agent Table 1: accuracy, tool calls and turns, share of episodes with an invalid action, of teams of one planner and its
    seekers, and how their training treats the context."""
    sheet = Sheet("Agent", plain_heads("Benchmark", "Context in training", "n", *TEAM_METRICS.values()))
    rows = published_rows("dllm_agent_table1")
    for name in dict.fromkeys(row.agent for row in rows):
        theirs = {row.metric: row for row in rows if row.agent == name}
        values: list[Cell] = [theirs.get(metric, "") for metric in TEAM_METRICS]
        sheet.line(name, [display_name("browsecomp_zh"), "", str(rows[0].n), *values], theirs.values(), PUBLISHED_BLOCK)
    for benchmark in (name for name in inputs.config.run.benchmarks if name in QUESTIONS):
        for agent in (name for name in teams(inputs) if benchmark in inputs.config.agent_benchmarks(name)):
            played = outcomes(inputs, agent, benchmark, values_of("dllm_agent_table1", published.team_name(inputs.config, agent)))
            own = team_rows(played)
            cells: list[Cell] = [display_name(benchmark), _context(inputs, agent), count(own[0], played.errors)]
            cells += [*own, *[""] * (len(TEAM_METRICS) - len(own))]
            sheet.line(agent, cells, own + error_rows(played), OURS_BLOCK)
    notes = "Seekers, one a task: means over an episode's seekers, then over episodes that have any. Published rows on another draw of 110."
    return sheet.table(notes, "no team of planner and seekers", OURS_BLOCK)


def teams(inputs: Inputs) -> list[str]:
    """The run's agents with a planner and seekers."""
    return [agent for agent in inputs.agents if inputs.kind(agent) == "team"]


def team_rows(own: Outcomes) -> list[TableRow]:
    """A team's line, in the order of TEAM_METRICS; without the calibration error where no answer states a confidence, as the judge of
    BrowseComp-ZH reads it."""

    def mean(metric: str, measure: str) -> TableRow:
        row = own.mean(metric, own.stated(measure))
        return row.model_copy(update={"missing": "no seeker"}) if len(own) and not row.n else row

    rows = [
        own.success(metric="accuracy"),
        mean("tool_calls", "seeker_tool_calls"),
        mean("turns", "seeker_turns"),
        mean("tool_calls_per_episode", "tool_calls"),
        mean("turns_per_episode", "turns"),
        own.rate("invalid_action_rate", own.stated("invalid_action").sum(), len(own)),
    ]
    sure = own.select(np.isfinite(own.measure("confidence")))
    if len(sure):
        error = calibration_error(sure.scores["success"].astype(bool).tolist(), sure.measure("confidence").tolist())
        rows.append(sure.row("calibration_error", n=len(sure), value=error))
    return rows


def _context(inputs: Inputs, agent: str) -> str:
    """Noise and attention mask of context in the training of an agent's policy; empty for untrained and AR policies."""
    training = inputs.training(agent)
    if training is None or inputs.paradigm(agent) != "diffusion":
        return ""
    return f"{training.context_noise}, {training.context_mask}"


def efficiency(inputs: Inputs) -> Table:
    """What episodes cost: forward evaluations per kept token, tokens and steps per episode, forwards per solved task; of matched diffusion
    and AR agents also rounds over the tasks that both solve. Seconds, their p50 and p95, and time ratios stand with the timing."""
    sheet = Sheet("Agent", plain_heads("n", *COSTS.values()), blocks={"Per agent": []})
    for benchmark in inputs.config.run.benchmarks:
        for agent in (name for name in inputs.players(benchmark) if name not in inputs.baselines):
            own = outcomes(inputs, agent, benchmark)
            costs, clock = cost_rows(own), clock_rows(own)
            sheet.timing += clock
            by_metric = {row.metric: row for row in (*costs, *clock)}
            cells = [Text(bare(by_metric.get(name, costs[0])), by_metric.get(name)) for name in COSTS]
            sheet.line(f"{agent}, {display_name(benchmark)}", [count(costs[0], own.errors), *cells], costs, "Per agent")
    for first, second, benchmark in matched_pairs(inputs):
        rounds, ratio = solved_by_both(inputs, first, second, benchmark)
        sheet.timing.append(ratio)
        both: list[Cell] = [Text(str(rounds.n), rounds), "", "", rounds, "", Text(f"× {cell(ratio)}", ratio), "", "", ""]
        title = "On the tasks that both solve: difference in steps, ratio of seconds"
        sheet.line(f"{first} against {second}, {display_name(benchmark)}", both, block=title)
    return sheet.table("Published: over 30 % less time on average.")


def cost_rows(own: Outcomes) -> list[TableRow]:
    """What an agent's episodes cost, without a clock: steps, tokens, forward evaluations."""
    steps, tokens, nfe = (own.column(name) for name in ("steps", "completion_tokens", "nfe"))
    return [
        own.mean("steps_per_episode", steps),
        own.ratio("tokens_per_step", tokens, steps),
        own.ratio("nfe_per_token", nfe, tokens),
        own.ratio("forwards_per_success", nfe, own.column("success")),
        own.rate("executable_steps", (steps - own.column("invalid_steps")).sum(), int(steps.sum())),
    ]


def clock_rows(own: Outcomes) -> list[TableRow]:
    """What an agent's episodes cost in time: the means of `timing_rows`, and the median and 95th percentile of an episode."""
    quantiles = {"p50_s": 0.5, "p95_s": 0.95}
    values = {metric: float(np.quantile(own.column("seconds"), share)) if len(own) else None for metric, share in quantiles.items()}
    return timing_rows(own) + [own.row(metric, n=len(own), value=value) for metric, value in values.items()]


def planning(inputs: Inputs) -> Table:
    """DLLM Agent: what a planner's plans were worth, on questions whose gold hops are known."""
    heads = plain_heads(
        *("Paradigm", "n", "ACC_R", "Planner hit rate", "Hop recall", "Full coverage", "First full round", "Backtracks"),
        *("Rounds (solved)", "Searches (solved)"),
    )
    sheet = Sheet("Agent", heads)
    for agent in inputs.agents:
        if inputs.config.agents[agent].workflow in TEAM_WORKFLOWS and SEARCH in inputs.config.agent_benchmarks(agent):
            own = planning_rows(outcomes(inputs, agent, SEARCH))
            sheet.line(agent, [inputs.paradigm(agent), Text(str(own[0].n or 0), own[0]), *own])
    notes = (
        "A first plan hits when it covers every gold hop with one step each; backtracks are later sub-questions that ask again what was "
        "asked or found. The paper claims higher hit rates, earlier convergence and less backtracking of diffusion agents, but neither "
        "defines nor counts them."
    )
    return sheet.table(notes, "no planner agent", row=Rows("this run", SEARCH).row("planner_hit_rate", "first plan", n=0))


def planning_rows(own: Outcomes) -> list[TableRow]:
    """What a planner's plans were worth: hit rate of the first plan, recall of gold hops, first round that covers them all, sub-questions
    that go back; rounds and tool calls over the questions answered rightly."""
    planned = own.select(np.isfinite(own.measure("planner_hit")))
    with_hops = planned.select(np.isfinite(planned.measure("hop_recall")))
    right = planned.select(planned.scores["success"].astype(bool))
    return [
        planned.success(metric="acc_r"),
        with_hops.rate("planner_hit_rate", with_hops.measure("planner_hit").sum(), len(with_hops), "first plan"),
        with_hops.mean("hop_recall", with_hops.stated("hop_recall"), share=True),
        with_hops.rate("full_coverage", len(with_hops.stated("first_full_round")), len(with_hops)),
        with_hops.mean("first_full_coverage_round", with_hops.stated("first_full_round")),
        planned.mean("backtracks_per_question", planned.stated("backtracks")),
        right.mean("rounds", right.stated("rounds"), "answered rightly"),
        right.mean("tool_calls", right.stated("tool_calls"), "answered rightly"),
    ]


def tool_errors(inputs: Inputs) -> Table:
    """Tool calls by what is wrong with them: share of BFCL's single-turn entries that call for a tool (no hallucination sets) which are
    well formed, name the right functions, and are right."""
    calling = [category for category in BFCL_SINGLE_TURN if "relevance" not in category]
    sheet = Sheet("Agent", plain_heads("n", "Well formed", "and right function", "Correct"))
    for agent in inputs.players("bfcl"):
        calls = outcomes(inputs, agent, "bfcl").within(calling)
        n = calls.n_classified
        malformed = calls.failing(*UNREADABLE, "prompt_too_long")
        misnamed = malformed | calls.failing("wrong_function")
        own = [
            calls.rate("well_formed", n - len(malformed), n),
            calls.rate("right_function", n - len(misnamed), n),
            calls.rate("correct", calls.scores["success"].sum(), n),
        ]
        sheet.line(agent, [count(own[0], calls.errors), *own])
    return sheet.table()


def masking(inputs: Inputs) -> Table:
    """DLLM Agent, Table 1's ablations: agents whose trainings differ in the mask or the noise of context alone, benchmark by benchmark."""
    sheet = Sheet("Agent", plain_heads("Noise", "Mask", "Benchmark", "n", "Success", "Unreadable", "Held-out loss"))
    for agent in masking_family(inputs):
        for benchmark in inputs.config.agent_benchmarks(agent):
            played = outcomes(inputs, agent, benchmark)
            report = inputs.trainings.get((inputs.config.agents[agent].policy, benchmark))
            own = [
                played.success(),
                played.rate("unreadable", len(played.failing(*UNREADABLE)), len(played)),
                played.row("validation_loss", value=report.validation_loss if report else None),
            ]
            training = inputs.training(agent)
            assert training is not None
            switches = [training.context_noise, training.context_mask]
            sheet.line(agent, [*switches, display_name(benchmark), Text(str(len(played)), own[0]), *own])
    nobody = "no two agents that differ in their mask"
    return sheet.table(nobody=nobody, row=Rows(nobody, "").row("success_rate", n=0))


def attention(inputs: Inputs) -> Table:
    """DLLM Agent: where a planning agent's replies look while they are decoded, by workflow stage."""
    sheet = Sheet("Agent", plain_heads("Paradigm", "Stage", "Replies", *ATTENTION_SPANS.values(), "Entropy"))
    for (agent, stage), by_span in attention_rows(inputs).items():
        entropy = by_span["entropy"]
        sheet.line(agent, [inputs.paradigm(agent), stage, Text(str(entropy.n or 0), entropy), *by_span.values()])
    return sheet.table(nobody="no planner agent", row=Rows("this run", SEARCH).row("entropy", "plan", n=0))


def draw_attention(inputs: Inputs, figure: Figure) -> None:
    """DLLM Agent: where a planning agent's replies look, one bar per agent and workflow stage."""
    bars = [(key, by_span) for key, by_span in attention_rows(inputs).items() if by_span["entropy"].n]
    axis = figure.subplots()
    if not bars:
        say_not_run(axis)
        return
    figure.set_figheight(max(2.8, 0.8 + 0.22 * len(bars)))
    shades = [str(0.15 + 0.17 * index) for index in range(len(ATTENTION_SPANS))]
    for place, (_, by_span) in enumerate(reversed(bars)):
        left = 0.0
        for (span, name), shade in zip(ATTENTION_SPANS.items(), shades, strict=True):
            value = by_span[span].value or 0.0
            axis.barh(place, value, left=left, color=shade, edgecolor="white", linewidth=0.5, label=name if place == 0 else None)
            left += value
        entropy = by_span["entropy"]
        axis.annotate(f"H {entropy.value:.0f} %, n {entropy.n}", (101, place), va="center", fontsize=7, annotation_clip=False)
    axis.set_yticks(range(len(bars)), [f"{agent}: {stage}" for (agent, stage), _ in reversed(bars)])
    axis.set(xlim=(0, 100), xlabel="Attention (%)")
    axis.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=7)


def attention_rows(inputs: Inputs) -> dict[tuple[str, str], dict[str, TableRow]]:
    """(planning agent, workflow stage) -> what its replies looked at: mean share of attention per span, and entropy."""
    means = {}
    for agent in inputs.config.trained_teams(SEARCH):
        frame, own = inputs.attention(agent, SEARCH), Rows(agent, SEARCH, inputs.config.seed)
        roles = WORKFLOWS[inputs.config.workflow(agent, SEARCH)].roles
        for stage in (name for name, role in STAGES.items() if role in roles):
            part = frame[frame["stage"] == stage]
            means[agent, stage] = {
                name: own.mean(name, part[name].to_numpy(dtype=float), stage, share=True) for name in (*ATTENTION_SPANS, "entropy")
            }
    return means


def figure2(inputs: Inputs, figure: Figure) -> None:
    """DLLM Agent Figure 2: seekers per episode, the paper's counts above, and below those of the run's first team of each paradigm."""
    axes = figure.subplots(2, 2, sharex=True)
    for column, (paradigm, name) in enumerate({"diffusion": "DLLM Agent", "ar": "AR Agent"}.items()):
        items = [item for item in published.values("dllm_agent_figure2") if item.agent == name and item.category]
        theirs = Counter({int(item.category): round(item.value or 0) for item in items})
        _draw_counts(axes[0][column], f"{name} (published)", theirs)
        agent = next((agent for agent in teams(inputs) if inputs.paradigm(agent) == paradigm), None)
        ours: Counter[int] = Counter()
        for benchmark in QUESTIONS if agent is not None else ():
            ours.update(map(int, outcomes(inputs, str(agent), benchmark).stated("seekers")))
        _draw_counts(axes[1][column], agent or f"no {paradigm} team", ours)
        axes[1][column].set_xlabel("Seekers in an episode")
    for row in axes:
        row[0].set_ylabel("Episodes")


def _draw_counts(axis: Axes, title: str, counts: Counter[int]) -> None:
    episodes = counts.total()
    if not episodes:
        axis.set_title(title)
        say_not_run(axis)
        return
    mean = sum(seekers * number for seekers, number in counts.items()) / episodes
    axis.set_title(f"{title}: mean {mean:.1f}, n {episodes}")
    axis.bar(list(counts), list(counts.values()), width=0.84, color="#0173B2", edgecolor="#222222", linewidth=0.4)
    axis.axvline(mean, color="#D55E00", linewidth=1)
