"""Tables of our own on agent designs: every workflow by paradigm with its costs, with what the papers of some say of them asked of this
run's episodes, and how often attacks in the input succeed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from dllm_agents.records import TableRow
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.cells import Rows, cell, number
from dllm_agents.reporting.comparison import compare, pair_up, solved_by_both
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.judging import unequal_load
from dllm_agents.reporting.layout import Cell, Sheet, Table, Text, count, plain_heads
from dllm_agents.reporting.rows import Outcomes, calls_of, outcomes, timing_rows

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
WORTH_SAVING = 20
"""Percent of the calls that AutoTool has to save."""
ACTING = {"react": "thought first", "p_react": "P-ReAct", "tool_first": "call first"}


def workflows(inputs: Inputs) -> Table:
    """Every workflow by benchmark and paradigm: success, its difference from the same policy in the benchmark's own workflow on the same
    tasks, calls, tokens and forwards per episode, cost of a success, and the workflow's own counts (in the CSV)."""
    heads = plain_heads(
        *("Paradigm", "n", "Success", "Difference from own workflow", "Calls", "Tokens", "Forwards"),
        *("Forwards per success", "Tokens per success"),
    )
    sheet = Sheet("Workflow", heads)
    for benchmark in inputs.config.run.benchmarks:
        for agent in sorted(_players(inputs, benchmark), key=lambda name: (_workflow(inputs, name, benchmark), inputs.paradigm(name))):
            own = outcomes(inputs, agent, benchmark)
            success, gain, costs, noted = own.success(), _gain(own), _costs(own), _counts(own)
            label = f"{_workflow(inputs, agent, benchmark)} ({agent})"
            cells: list[Cell] = [inputs.paradigm(agent), count(success, own.errors), success, gain or "", *costs]
            sheet.line(label, cells, block=display_name(benchmark))
            sheet.rows += [row for row in noted if not row.metric.endswith("seconds")]
            sheet.timing += timing_rows(own) + [row for row in noted if row.metric.endswith("seconds")]
    notes = ["Differences in points from the same policy in the benchmark's own workflow, paired on the same tasks."]
    nobody = "" if sheet.rows else "no agent"
    return sheet.table(" ".join(notes + findings(inputs)), nobody, row=Rows("this run", "").row("success_rate", n=0))


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


def findings(inputs: Inputs) -> list[str]:
    """The sentences of all benchmarks; none of agents without episodes."""
    kinds = (_votes, _calls_saved, _time_saved)
    return [sentence for benchmark in inputs.config.run.benchmarks for kind in kinds for sentence in kind(inputs, benchmark)]


def plain_partner(inputs: Inputs, agent: str, benchmark: str) -> str | None:
    """The agent with the same policy alone in the benchmark's own workflow, decoded alike where there is such a one; None for that agent
    itself, and where the run has none."""
    entries, own = inputs.config.agents, inputs.config.agents[agent]
    alone = [name for name in inputs.agents if inputs.alone(name) and entries[name].policy == own.policy]
    played = [name for name in alone if benchmark in inputs.config.agent_benchmarks(name)]
    return None if inputs.alone(agent) else min(played, key=lambda name: entries[name].decoding != own.decoding, default=None)


def _playing(inputs: Inputs, workflow: str, benchmark: str) -> list[str]:
    config = inputs.config
    played = [
        agent for agent in inputs.agents if benchmark in config.agent_benchmarks(agent) and config.workflow(agent, benchmark) == workflow
    ]
    return [agent for agent in played if len(inputs.rows(agent, benchmark))]


def _votes(inputs: Inputs, benchmark: str) -> Iterator[str]:
    """MAKER: whether success rises with the lead that a vote needs, and with it the samples, for every policy with two leads or more."""
    curves: dict[str, dict[int, str]] = defaultdict(dict)
    for agent in _playing(inputs, "maker", benchmark):
        policy = inputs.config.agents[agent].policy
        curves[policy][inputs.config.workflow_options(agent, benchmark)["ahead"]] = agent
    for policy, by_lead in curves.items():
        agents = [by_lead[lead] for lead in sorted(by_lead)]
        gain = compare(inputs, agents[-1:], agents[:1], benchmark).get("success_difference")
        if len(agents) < 2 or gain is None or gain.low is None:
            continue
        played = [outcomes(inputs, agent, benchmark) for agent in agents]
        rates = [own.success().value or 0.0 for own in played]
        samples = [float(own.stated("samples").mean()) for own in played]
        verdict = "success rises with samples" if gain.low > 0 else "that success rises with samples is not shown"
        yield (
            f"MAKER with {policy}, votes ahead by {_listed(sorted(by_lead))}: {_listed(rates)} % with {_listed(samples)} samples, "
            f"from first to last {cell(gain)} points: {verdict}."
        )


def _calls_saved(inputs: Inputs, benchmark: str) -> Iterator[str]:
    """AutoTool: the calls that it saves, and its success, against the policy that takes every step itself."""
    for agent in _playing(inputs, "autotool", benchmark):
        plain = plain_partner(inputs, agent, benchmark)
        if plain is None or (gain := compare(inputs, [agent], [plain], benchmark).get("success_difference")) is None:
            continue
        both = pair_up(inputs.rows(agent, benchmark), inputs.rows(plain, benchmark))
        ours, theirs = (calls_of(both.rename(columns={f"measures_{side}": "measures"})) for side in "xy")
        left = Rows(agent, benchmark, inputs.config.seed).ratio("calls", ours, theirs)
        if left.value is None or left.low is None or left.high is None or gain.low is None:
            continue
        saved, margin = 100 * (1 - left.value), inputs.config.report.margin
        threshold = float(outcomes(inputs, agent, benchmark).stated("threshold").mean())
        enough, no_loss = saved >= WORTH_SAVING, gain.low > -margin
        yield (
            f"AutoTool ({agent}), at a threshold of {threshold:g} that held-out training tasks chose, saves {number(saved)} % "
            f"[{number(100 * (1 - left.high))}, {number(100 * (1 - left.low))}] of calls, success {cell(gain)} points: "
            f"{'' if enough else 'not '}at least {WORTH_SAVING} %, {'no' if no_loss else 'not shown to be without a'} loss beyond "
            f"{number(margin)} points."
        )


def _time_saved(inputs: Inputs, benchmark: str) -> Iterator[str]:
    """LLMCompiler and P-ReAct: the time of a question that they and the same policy by ReAct both answer, where searches take time."""
    delays = inputs.config.benchmarks.multihop_qa.tool_delays if benchmark == "multihop_qa" else [0.0]
    acting = [name for name in inputs.players(benchmark) if inputs.config.agents[name].acting == "p_react"]
    for agent in [*_playing(inputs, "llm_compiler", benchmark), *acting] if any(delays) else []:
        plain = plain_partner(inputs, agent, benchmark)
        if plain is None or (ratio := solved_by_both(inputs, agent, plain, benchmark)[1]).value is None or ratio.high is None:
            continue
        load = unequal_load([agent, plain], inputs, benchmark)
        verdict = f"not comparable, since {load}" if load else "time is saved" if ratio.high < 1 else "that time is saved is not shown"
        yield (
            f"{agent} takes x {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] of {plain}'s time over the {ratio.n} questions both "
            f"answer, searches of {_listed(delays, ' or ')} s: {verdict}{_side_by_side(inputs, agent, benchmark)}."
        )


def _side_by_side(inputs: Inputs, agent: str, benchmark: str) -> str:
    """What an agent's searches took together, and would have taken in turn, where it makes them together."""
    own = outcomes(inputs, agent, benchmark)
    took, in_turn = (float(own.stated(name).sum()) / len(own) for name in ("tool_seconds", "in_turn_tool_seconds"))
    return f"; its searches took {took:.2f} s, in turn {in_turn:.2f} s" if in_turn else ""


def _listed(values: Sequence[float], between: str = ", ") -> str:
    return between.join(number(value) if isinstance(value, float) else str(value) for value in values)


def security(inputs: Inputs) -> Table:
    """Attacks in the input of agents: success rate by place, and share of replies that an attack does not change. A generated set of this
    project, not the published b3."""
    sheet = Sheet("Agent", plain_heads("Paradigm", "Acting", "Attacks", *PLACES.values(), "Unmoved"))
    for agent in inputs.attacked:
        played = ", ".join(inputs.config.agent_benchmarks(agent))
        totals = {place: total for place in PLACES if (total := _totals(inputs, agent, place))["attacked"]}
        own = Rows(agent, played)
        obeyed = {place: own.rate("attack_success", total["hijacked"], total["attacked"], place) for place, total in totals.items()}
        attacks, kept = (sum(total[name] for total in totals.values()) for name in ("attacked", "unmoved"))
        unmoved = own.rate("unmoved", kept, attacks, "all")
        cells = [obeyed.get(place, "") for place in PLACES]
        acting = ACTING[inputs.config.agents[agent].acting]
        sheet.line(agent, [inputs.paradigm(agent), acting, Text(str(attacks), unmoved), *cells, unmoved])
    notes = (
        "The attacks are generated by this project and weak: they compare backbones and do not measure safety. Empty: the agent plays no "
        "benchmark with such a place, or its prompts do not show it."
    )
    return sheet.table(notes, "no agent with workflow: threats", row=Rows("this run", "").row("attack_success", n=0))


def _totals(inputs: Inputs, agent: str, place: str) -> dict[str, int]:
    """The number of attacks at a place, of those that succeeded, and of replies that did not change."""
    played = [outcomes(inputs, agent, benchmark) for benchmark in inputs.config.agent_benchmarks(agent)]
    names = ("attacked", "hijacked", "unmoved")
    return {name: int(sum(own.stated(f"{place}_{name}").sum() for own in played)) for name in names}
