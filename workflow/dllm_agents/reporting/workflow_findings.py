"""What the papers of some workflows say of them, asked of this run's episodes: a sentence each, which also says what is not shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from dllm_agents.reporting.cells import Rows, cell, number
from dllm_agents.reporting.comparison import compare, pair_up, solved_by_both
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.judging import unequal_load
from dllm_agents.reporting.rows import calls_of, outcomes

WORTH_SAVING = 20
"""Percent of the calls that AutoTool has to save."""


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


def _players(inputs: Inputs, workflow: str, benchmark: str) -> list[str]:
    config = inputs.config
    played = [
        agent for agent in inputs.agents if benchmark in config.agent_benchmarks(agent) and config.workflow(agent, benchmark) == workflow
    ]
    return [agent for agent in played if len(inputs.rows(agent, benchmark))]


def _votes(inputs: Inputs, benchmark: str) -> Iterator[str]:
    """MAKER: whether success rises with the lead that a vote needs, and with it the samples, for every policy with two leads or more."""
    curves: dict[str, dict[int, str]] = defaultdict(dict)
    for agent in _players(inputs, "maker", benchmark):
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
    for agent in _players(inputs, "autotool", benchmark):
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
    for agent in [*_players(inputs, "llm_compiler", benchmark), *acting] if any(delays) else []:
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
