"""What DLLM Agent claims in its abstract: costs, plans, tool calls, masking and attention. Its text defines neither hit rate nor
backtracking nor attention dynamics: those definitions are this project's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dllm_agents.config import BFCL_SINGLE_TURN
from dllm_agents.config.roles import TEAM_WORKFLOWS, WORKFLOWS
from dllm_agents.records import TableRow
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.cells import bare, cell, mean_row, rate_row, ratio_row, without_value
from dllm_agents.reporting.comparison import masking_family, matched_pairs, solved_by_both
from dllm_agents.reporting.drawing import say_not_run
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import Block, Cell, Layout, Line, Table, Text, count, own_block, plain_heads
from dllm_agents.reporting.rows import measured, success_row, timing_rows

if TYPE_CHECKING:
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


def efficiency(inputs: Inputs) -> Table:
    """What episodes cost: forward evaluations per kept token, tokens and steps per episode, forwards per solved task; of matched diffusion
    and AR agents also rounds over the tasks that both solve. Seconds, their p50 and p95, and time ratios stand with the timing."""
    rows: list[TableRow] = []
    timing: list[TableRow] = []
    lines, pairs = [], []
    for benchmark in inputs.config.run.benchmarks:
        for agent in (name for name in inputs.players(benchmark) if name not in inputs.baselines):
            costs, clock = cost_rows(inputs, agent, benchmark), clock_rows(inputs, agent, benchmark)
            rows += costs
            timing += clock
            by_metric = {row.metric: row for row in (*costs, *clock)}
            cells = [Text(bare(by_metric.get(name, costs[0])), by_metric.get(name)) for name in COSTS]
            lines.append(Line(f"{agent}, {display_name(benchmark)}", [count(costs[0], inputs.errors(agent, benchmark)), *cells]))
    for first, second, benchmark in matched_pairs(inputs):
        rounds, ratio = solved_by_both(inputs, first, second, benchmark)
        rows.append(rounds)
        timing.append(ratio)
        name = f"{first} against {second}, {display_name(benchmark)}"
        pairs.append(Line(name, [Text(str(rounds.n), rounds), "", "", rounds, "", Text(f"× {cell(ratio)}", ratio), "", "", ""]))
    blocks = [Block("Per agent", lines)]
    blocks += [Block("On the tasks that both solve: difference in steps, ratio of seconds", pairs)] if pairs else []
    layout = Layout("Agent", plain_heads("n", *COSTS.values()), blocks)
    return Table(rows, layout, timing, notes="Published: over 30 % less time on average.")


def cost_rows(inputs: Inputs, agent: str, benchmark: str) -> list[TableRow]:
    """What an agent's episodes cost, without a clock: steps, tokens, forward evaluations."""
    scores = inputs.rows(agent, benchmark)
    columns = {name: scores[name].to_numpy(dtype=float) for name in ("steps", "completion_tokens", "nfe", "success")}
    errors = inputs.errors(agent, benchmark)
    rows = [mean_row(agent, benchmark, "", "steps_per_episode", columns["steps"], inputs.config.seed, errors=errors)]
    for metric, top, bottom in (
        ("tokens_per_step", "completion_tokens", "steps"),
        ("nfe_per_token", "nfe", "completion_tokens"),
        ("forwards_per_success", "nfe", "success"),
    ):
        row = ratio_row(agent, benchmark, metric, columns[top], columns[bottom], inputs.config.seed)
        rows.append(row if len(scores) else without_value(row, errors))
    invalid, steps = int(scores["invalid_steps"].sum()), int(scores["steps"].sum())
    return [*rows, rate_row(agent, benchmark, "", "executable_steps", steps - invalid, steps, errors=errors)]


def clock_rows(inputs: Inputs, agent: str, benchmark: str) -> list[TableRow]:
    """What an agent's episodes cost in time: the means of `timing_rows`, and the median and 95th percentile of an episode."""
    scores = inputs.rows(agent, benchmark)
    rows = timing_rows(inputs, agent, benchmark)
    for metric, share in (("p50_s", 0.5), ("p95_s", 0.95)):
        value = float(np.quantile(scores["seconds"].to_numpy(dtype=float), share)) if len(scores) else None
        rows.append(TableRow(agent=agent, benchmark=benchmark, metric=metric, n=len(scores), value=value))
    return rows


def planning(inputs: Inputs) -> Table:
    """DLLM Agent: what a planner's plans were worth, on questions whose gold hops are known."""
    rows: list[TableRow] = []
    lines = []
    for agent in inputs.agents:
        if inputs.config.agents[agent].workflow in TEAM_WORKFLOWS and SEARCH in inputs.config.agent_benchmarks(agent):
            own = planning_rows(inputs, agent)
            rows += own
            lines.append(Line(agent, [inputs.paradigm(agent), Text(str(own[0].n or 0), own[0]), *own]))
    heads = plain_heads(
        *("Paradigm", "n", "ACC_R", "Planner hit rate", "Hop recall", "Full coverage", "First full round", "Backtracks"),
        *("Rounds (solved)", "Searches (solved)"),
    )
    notes = (
        "A first plan hits when it covers every gold hop with one step each; backtracks are later sub-questions that ask again what was "
        "asked or found. The paper claims higher hit rates, earlier convergence and less backtracking of diffusion agents, but neither "
        "defines nor counts them."
    )
    rows = rows or [TableRow(agent="this run", benchmark=SEARCH, category="first plan", metric="planner_hit_rate", n=0)]
    return Table(rows, Layout("Agent", heads, [own_block(lines, len(heads), "no planner agent", "")]), notes=notes)


def planning_rows(inputs: Inputs, agent: str) -> list[TableRow]:
    """What a planner's plans were worth: hit rate of the first plan, recall of gold hops, first round that covers them all, sub-questions
    that go back; rounds and tool calls over the questions answered rightly."""
    scores, errors = inputs.rows(agent, SEARCH), inputs.errors(agent, SEARCH)
    planned = np.isfinite(measured(scores, "planner_hit"))
    scores = scores[planned]
    with_hops = scores[np.isfinite(measured(scores, "hop_recall"))]
    right = scores[scores["success"].astype(bool)]
    seed = inputs.config.seed

    def mean(metric: str, part: pd.DataFrame, name: str, category: str = "", share: bool = False) -> TableRow:
        values = measured(part, name)
        return mean_row(agent, SEARCH, category, metric, values[np.isfinite(values)], seed, share=share, errors=errors)

    covered = int(np.isfinite(measured(with_hops, "first_full_round")).sum())
    hits = int(measured(with_hops, "planner_hit").sum())
    return [
        rate_row(agent, SEARCH, "", "acc_r", int(scores["success"].sum()), len(scores), errors=errors),
        rate_row(agent, SEARCH, "first plan", "planner_hit_rate", hits, len(with_hops), errors=errors),
        mean("hop_recall", with_hops, "hop_recall", share=True),
        rate_row(agent, SEARCH, "", "full_coverage", covered, len(with_hops), errors=errors),
        mean("first_full_coverage_round", with_hops, "first_full_round"),
        mean("backtracks_per_question", scores, "backtracks"),
        mean("rounds", right, "rounds", "answered rightly"),
        mean("tool_calls", right, "tool_calls", "answered rightly"),
    ]


def tool_errors(inputs: Inputs) -> Table:
    """Tool calls by what is wrong with them: share of BFCL's single-turn entries that call for a tool (no hallucination sets) which are
    well formed, name the right functions, and are right."""
    calling = [category for category in BFCL_SINGLE_TURN if "relevance" not in category]
    rows: list[TableRow] = []
    lines = []
    for agent in inputs.players("bfcl"):
        scores, failures = inputs.rows(agent, "bfcl"), inputs.failures("bfcl")
        scores = scores[scores["category"].isin(calling)]
        failures = failures[(failures["agent"] == agent) & failures["task_id"].isin(scores["task_id"])]
        errors = inputs.errors(agent, "bfcl", calling)
        n = len(scores) if inputs.classified(agent, "bfcl") else 0
        malformed = set(failures[failures["kind"].isin([*UNREADABLE, "prompt_too_long"])]["task_id"])
        misnamed = malformed | set(failures[failures["kind"] == "wrong_function"]["task_id"])
        own = [
            rate_row(agent, "bfcl", "", "well_formed", n - len(malformed) if n else 0, n, errors=errors),
            rate_row(agent, "bfcl", "", "right_function", n - len(misnamed) if n else 0, n, errors=errors),
            rate_row(agent, "bfcl", "", "correct", int(scores["success"].sum()) if n else 0, n, errors=errors),
        ]
        rows += own
        lines.append(Line(agent, [count(own[0], errors), *own]))
    heads = plain_heads("n", "Well formed", "and right function", "Correct")
    return Table(rows, Layout("Agent", heads, [Block("", lines)]))


def masking(inputs: Inputs) -> Table:
    """DLLM Agent, Table 1's ablations: agents whose trainings differ in the mask or the noise of context alone, benchmark by benchmark."""
    rows: list[TableRow] = []
    lines = []
    for agent in masking_family(inputs):
        for benchmark in inputs.config.agent_benchmarks(agent):
            scores, failures = inputs.rows(agent, benchmark), inputs.failures(benchmark)
            unreadable = failures[(failures["agent"] == agent) & failures["kind"].isin(UNREADABLE)]["task_id"].nunique()
            report = inputs.trainings.get((inputs.config.agents[agent].policy, benchmark))
            own = [
                success_row(inputs, agent, benchmark),
                rate_row(agent, benchmark, "", "unreadable", unreadable, len(scores)),
                TableRow(agent=agent, benchmark=benchmark, metric="validation_loss", value=report.validation_loss if report else None),
            ]
            rows += own
            training = inputs.training(agent)
            assert training is not None
            switches = [training.context_noise, training.context_mask]
            lines.append(Line(agent, [*switches, display_name(benchmark), Text(str(len(scores)), own[0]), *own]))
    heads = plain_heads("Noise", "Mask", "Benchmark", "n", "Success", "Unreadable", "Held-out loss")
    nobody = "no two agents that differ in their mask"
    rows = rows or [TableRow(agent=nobody, benchmark="", metric="success_rate", n=0)]
    return Table(rows, Layout("Agent", heads, [own_block(lines, len(heads), nobody, "")]))


def attention(inputs: Inputs) -> Table:
    """DLLM Agent: where a planning agent's replies look while they are decoded, by workflow stage."""
    means = attention_rows(inputs)
    lines = []
    for (agent, stage), by_span in means.items():
        entropy = by_span["entropy"]
        cells: list[Cell] = [inputs.paradigm(agent), stage, Text(str(entropy.n or 0), entropy)]
        lines.append(Line(agent, [*cells, *(by_span[name] for name in ATTENTION_SPANS), entropy]))
    rows = [row for by_span in means.values() for row in by_span.values()]
    heads = plain_heads("Paradigm", "Stage", "Replies", *ATTENTION_SPANS.values(), "Entropy")
    rows = rows or [TableRow(agent="this run", benchmark=SEARCH, category="plan", metric="entropy", n=0)]
    return Table(rows, Layout("Agent", heads, [own_block(lines, len(heads), "no planner agent", "")]))


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
        frame = inputs.attention(agent, SEARCH)
        roles = WORKFLOWS[inputs.config.workflow(agent, SEARCH)].roles
        for stage in (name for name, role in STAGES.items() if role in roles):
            part = frame[frame["stage"] == stage]
            means[agent, stage] = {
                name: mean_row(agent, SEARCH, stage, name, [float(value) for value in part[name]], inputs.config.seed, share=True)
                for name in (*ATTENTION_SPANS, "entropy")
            }
    return means
