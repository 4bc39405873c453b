"""Tables of our own on agent designs: every workflow by paradigm with its costs, and how often attacks in the input succeed."""

from __future__ import annotations

import numpy as np

from dllm_agents.records import TableRow
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.cells import Rows
from dllm_agents.reporting.comparison import compare
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import Block, Layout, Line, Table, Text, count, own_block, plain_heads
from dllm_agents.reporting.rows import Outcomes, calls_of, outcomes, timing_rows
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
            own = outcomes(inputs, agent, benchmark)
            success, gain, costs, noted = own.success(), _gain(own), _costs(own), _counts(own)
            rows += [success, *filter(None, [gain]), *costs, *(row for row in noted if not row.metric.endswith("seconds"))]
            timing += timing_rows(own) + [row for row in noted if row.metric.endswith("seconds")]
            label = f"{_workflow(inputs, agent, benchmark)} ({agent})"
            lines.append(Line(label, [inputs.paradigm(agent), count(success, own.errors), success, gain or "", *costs]))
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


def _gain(own: Outcomes) -> TableRow | None:
    """Points over the same policy in the benchmark's own workflow, paired; None where there is none to compare with."""
    plain = plain_partner(own.inputs, own.agent, own.benchmark)
    if plain is None:
        return None
    return compare(own.inputs, [own.agent], [plain], own.benchmark).get("success_difference", own.row("success_difference", n=0))


def _costs(own: Outcomes) -> list[TableRow]:
    """Calls, tokens and forwards per episode, and per success."""
    tokens = own.column("prompt_tokens") + own.column("completion_tokens")
    forwards, successes = own.column("nfe"), own.column("success")
    return [
        own.mean("calls_per_episode", calls_of(own.scores)),
        own.mean("tokens_per_episode", tokens),
        own.mean("forwards_per_episode", forwards),
        own.ratio("forwards_per_success", forwards, successes),
        own.ratio("tokens_per_success", tokens, successes),
    ]


def _counts(own: Outcomes) -> list[TableRow]:
    """Means per episode of what the workflow counts; an episode that counted nothing of it counts as 0, but for what only some have."""
    workflow = own.inputs.config.workflow(own.agent, own.benchmark)
    if workflow == own.inputs.config.benchmark_options(own.benchmark).workflow:
        return []
    names = sorted({name for noted in own.scores["measures"] for name in noted if "." not in name and name != "acc_r_words"})
    values = {name: own.stated(name) if name in PARTIAL else np.nan_to_num(own.measure(name)) for name in names}
    return [own.mean(name, numbers, workflow) for name, numbers in values.items()]


def security(inputs: Inputs) -> Table:
    """Attacks in the input of agents: success rate by place, and share of replies that an attack does not change. A generated set of this
    project, not the published b3."""
    rows: list[TableRow] = []
    lines = []
    for agent in inputs.attacked:
        played = ", ".join(inputs.config.agent_benchmarks(agent))
        totals = {place: total for place in PLACES if (total := _totals(inputs, agent, place))["attacked"]}
        own = Rows(agent, played)
        obeyed = {place: own.rate("attack_success", total["hijacked"], total["attacked"], place) for place, total in totals.items()}
        attacks, kept = (sum(total[name] for total in totals.values()) for name in ("attacked", "unmoved"))
        unmoved = own.rate("unmoved", kept, attacks, "all")
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
    played = [outcomes(inputs, agent, benchmark) for benchmark in inputs.config.agent_benchmarks(agent)]
    names = ("attacked", "hijacked", "unmoved")
    return {name: int(sum(own.stated(f"{place}_{name}").sum() for own in played)) for name in names}
