"""Tables of our own on agent designs: every workflow by paradigm with its costs, and how often attacks in the input succeed."""

from __future__ import annotations

import numpy as np

from dllm_agents.records import TableRow
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.cells import mean_row, rate_row, ratio_row
from dllm_agents.reporting.comparison import compare
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import Block, Layout, Line, Table, Text, count, own_block, plain_heads
from dllm_agents.reporting.rows import calls_of, measured, success_row, timing_rows
from dllm_agents.reporting.workflow_findings import findings, plain_partner

PLACES = {
    "search_result": "Search result",
    "observation": "Observation",
    "memory": "Memory",
    "tool_description": "Tool description",
    "tool_result": "Tool result",
}
"""Place of an attack: name in the measures -> label."""
PARTIAL = ("seeker_turns", "seeker_tool_calls", "first_full_round", "hop_recall", "confidence")
"""Measures that an episode may lack, which is not the same as 0."""
ACTING = {"react": "thought first", "p_react": "P-ReAct", "tool_first": "call first"}


def workflows(inputs: Inputs) -> Table:
    """Every workflow by benchmark and paradigm: success, its difference from the same policy in the benchmark's own workflow on the same
    tasks, calls, tokens and forwards per episode, cost of a success, and the workflow's own counts (in the CSV)."""
    rows: list[TableRow] = []
    timing: list[TableRow] = []
    blocks = []
    for benchmark in inputs.config.run.benchmarks:
        lines = []
        for agent in sorted(_players(inputs, benchmark), key=lambda name: (_workflow(inputs, name, benchmark), inputs.paradigm(name))):
            success, gain = success_row(inputs, agent, benchmark), _gain(inputs, agent, benchmark)
            costs = _costs(inputs, agent, benchmark)
            noted = _counts(inputs, agent, benchmark)
            rows += [success, *filter(None, [gain]), *costs, *(row for row in noted if not row.metric.endswith("seconds"))]
            timing += timing_rows(inputs, agent, benchmark) + [row for row in noted if row.metric.endswith("seconds")]
            label = f"{_workflow(inputs, agent, benchmark)} ({agent})"
            lines.append(
                Line(label, [inputs.paradigm(agent), count(success, inputs.errors(agent, benchmark)), success, gain or "", *costs])
            )
        blocks += [Block(display_name(benchmark), lines)] if lines else []
    heads = plain_heads(
        *("Paradigm", "n", "Success", "Difference from own workflow", "Calls", "Tokens", "Forwards"),
        *("Forwards per success", "Tokens per success"),
    )
    if not blocks:
        rows, blocks = [TableRow(agent="this run", benchmark="", metric="success_rate", n=0)], [own_block([], len(heads), "no agent", "")]
    notes = ["Differences in points from the same policy in the benchmark's own workflow, paired on the same tasks."]
    return Table(rows, Layout("Workflow", heads, blocks), timing, notes=" ".join(notes + findings(inputs)))


def _players(inputs: Inputs, benchmark: str) -> list[str]:
    """The agents with one backbone or with roles, without modules, that play a benchmark."""
    config = inputs.config
    return [
        agent
        for agent in inputs.agents
        if benchmark in config.agent_benchmarks(agent)
        and not {"memory", "verifier", "selector", "editor"} & set(config.agents[agent].backbones)
    ]


def _workflow(inputs: Inputs, agent: str, benchmark: str) -> str:
    """How an agent acts on a benchmark, with its dialect or the order of thought and call."""
    entry, name = inputs.config.agents[agent], inputs.config.workflow(agent, benchmark)
    dialect = inputs.config.dialect(agent, benchmark) if name == "search" else None
    options = "".join(f", {key} {value}" for key, value in entry.options.items())
    acting = f", {ACTING[entry.acting]}" if name == "search" and entry.acting != "react" else ""
    return f"{name}{f', {dialect}' if dialect else ''}{acting}{options}"


def _gain(inputs: Inputs, agent: str, benchmark: str) -> TableRow | None:
    """Points over the same policy in the benchmark's own workflow, paired; None where there is none to compare with."""
    plain = plain_partner(inputs, agent, benchmark)
    if plain is None:
        return None
    nothing = TableRow(agent=agent, benchmark=benchmark, metric="success_difference", n=0)
    return compare(inputs, [agent], [plain], benchmark).get("success_difference", nothing)


def _costs(inputs: Inputs, agent: str, benchmark: str) -> list[TableRow]:
    """Calls, tokens and forwards per episode, and per success."""
    scores, seed, errors = inputs.rows(agent, benchmark), inputs.config.seed, inputs.errors(agent, benchmark)
    tokens = scores["prompt_tokens"].to_numpy(dtype=float) + scores["completion_tokens"].to_numpy(dtype=float)
    forwards, successes = scores["nfe"].to_numpy(dtype=float), scores["success"].to_numpy(dtype=float)
    per_episode = {"calls": calls_of(scores), "tokens": tokens, "forwards": forwards}
    return [
        *(mean_row(agent, benchmark, "", f"{name}_per_episode", values, seed, errors=errors) for name, values in per_episode.items()),
        ratio_row(agent, benchmark, "forwards_per_success", forwards, successes, seed),
        ratio_row(agent, benchmark, "tokens_per_success", tokens, successes, seed),
    ]


def _counts(inputs: Inputs, agent: str, benchmark: str) -> list[TableRow]:
    """Means per episode of what the workflow counts; an episode that counted nothing of it counts as 0, but for what only some have."""
    scores = inputs.rows(agent, benchmark)
    own = inputs.config.workflow(agent, benchmark)
    if own == inputs.config.benchmark_options(benchmark).workflow:
        return []
    names = sorted({name for noted in scores["measures"] for name in noted if "." not in name and name != "acc_r_words"})
    noted = {name: measured(scores, name) for name in names}
    values = {name: one[np.isfinite(one)] if name in PARTIAL else np.nan_to_num(one) for name, one in noted.items()}
    return [mean_row(agent, benchmark, own, name, one, inputs.config.seed) for name, one in values.items()]


def security(inputs: Inputs) -> Table:
    """Attacks in the input of agents: success rate by place, and share of replies that an attack does not change. A generated set of this
    project, not the published b3."""
    rows: list[TableRow] = []
    lines = []
    for agent in inputs.attacked:
        played = ", ".join(inputs.config.agent_benchmarks(agent))
        totals = {place: total for place in PLACES if (total := _totals(inputs, agent, place))["attacked"]}
        obeyed = {
            place: rate_row(agent, played, place, "attack_success", total["hijacked"], total["attacked"]) for place, total in totals.items()
        }
        attacks, kept = (sum(total[name] for total in totals.values()) for name in ("attacked", "unmoved"))
        unmoved = rate_row(agent, played, "all", "unmoved", kept, attacks)
        rows += [*obeyed.values(), unmoved]
        cells = [obeyed.get(place, "") for place in PLACES]
        acting = ACTING[inputs.config.agents[agent].acting]
        lines.append(Line(agent, [inputs.paradigm(agent), acting, Text(str(attacks), unmoved), *cells, unmoved]))
    heads = plain_heads("Paradigm", "Acting", "Attacks", *PLACES.values(), "Unmoved")
    notes = (
        "The attacks are generated by this project and weak: they compare backbones and do not measure safety. Empty: the agent plays no "
        "benchmark with such a place, or its prompts do not show it."
    )
    rows = rows or [TableRow(agent="this run", benchmark="", metric="attack_success", n=0)]
    return Table(rows, Layout("Agent", heads, [own_block(lines, len(heads), "no agent with workflow: threats", "")]), notes=notes)


def _totals(inputs: Inputs, agent: str, place: str) -> dict[str, int]:
    """The number of attacks at a place, of those that succeeded, and of replies that did not change."""
    scores = [inputs.rows(agent, benchmark) for benchmark in inputs.config.agent_benchmarks(agent)]
    names = ("attacked", "hijacked", "unmoved")
    return {name: int(sum(np.nansum(measured(part, f"{place}_{name}")) for part in scores if len(part))) for name in names}
