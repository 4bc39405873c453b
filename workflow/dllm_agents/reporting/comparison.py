"""Agents against each other on the tasks that both have: pairs that differ in one thing, paired differences with their tests."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

import pandas as pd

from dllm_agents.analysis import statistics
from dllm_agents.config import BFCL_MULTI_TURN, Backbone, Config
from dllm_agents.records import TableRow
from dllm_agents.reporting.cells import Rows
from dllm_agents.reporting.inputs import Inputs


def clusters(scores: pd.DataFrame) -> list[Hashable]:
    """What moves together under resampling: BabyAI's levels, the ids that BFCL's multi-turn sets share, single tasks elsewhere."""
    names: list[Hashable] = []
    for benchmark, category, task in zip(scores["benchmark"], scores["category"], scores["task_id"], strict=True):
        number_ = re.search(r"(\d+)$", task)
        if benchmark == "babyai":
            names.append(category)
        elif category in BFCL_MULTI_TURN and number_:
            names.append(("multi_turn", number_[1]))
        else:
            names.append(task)
    return names


def pair_up(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The scores of two agents on the tasks both have, columns `_x` and `_y`, in task order. With several seeds the k-th of one meets
    the k-th of the other."""
    sides = []
    for frame in (first, second):
        ordered = frame.sort_values(["task_id", "seed"], kind="stable")
        sides.append(ordered.assign(draw=ordered.groupby("task_id").cumcount()))
    return sides[0].merge(sides[1], on=["task_id", "draw"], how="inner")


def compare(inputs: Inputs, first: Sequence[str], second: Sequence[str], benchmark: str) -> dict[str, TableRow]:
    """Metric -> row of a paired comparison of agents, one of each or as many of each as there are training seeds, paired in order; empty
    when they share no task. Over seeds p is the largest of the seeds' exact McNemar tests, and the interval's clusters are tasks and seeds.
    """
    seed = inputs.config.seed
    pairs = [pair_up(inputs.rows(one, benchmark), inputs.rows(other, benchmark)) for one, other in zip(first, second, strict=True)]
    both = pd.concat([part.assign(trained=index) for index, part in enumerate(pairs)])
    if not len(both):
        return {}
    ours, theirs = both["success_x"].to_numpy(dtype=float), both["success_y"].to_numpy(dtype=float)
    groups = clusters(both.rename(columns={"benchmark_x": "benchmark", "category_x": "category"}))
    trained = both["trained"].tolist() if len(pairs) > 1 else None
    low, high = statistics.paired_interval(ours, theirs, groups, seed=seed, training_seeds=trained)
    same = statistics.equivalence(ours, theirs, inputs.config.report.margin / 100, groups, seed=seed, training_seeds=trained)
    tests = [statistics.mcnemar(part["success_x"].astype(bool).tolist(), part["success_y"].astype(bool).tolist()) for part in pairs]
    agent, category = family_name(first), f"against {family_name(second)}"

    def row(metric: str, value: float, low: float | None = None, high: float | None = None) -> TableRow:
        return TableRow(agent=agent, benchmark=benchmark, category=category, metric=metric, n=len(both), value=value, low=low, high=high)

    return {
        "success_difference": row("success_difference", 100 * float((ours - theirs).mean()), 100 * low, 100 * high),
        "mcnemar_p": row("mcnemar_p", max(test.p for test in tests)),
        "only_first_solves": row("only_first_solves", sum(test.gained for test in tests)),
        "only_second_solves": row("only_second_solves", sum(test.lost for test in tests)),
        "cohens_h": row("cohens_h", statistics.cohens_h(float(ours.mean()), float(theirs.mean()))),
        "success_difference_90": row("success_difference_90", 100 * same.difference, 100 * same.low, 100 * same.high),
        "comparable": row("comparable", float(same.holds)),
    }


ORIGINS = ("trained", "tuned", "ready")
"""Backbones are compared with those of the same origin: trained in this run, ready-made with the package's adapters, as they came."""


def origin(backbone: Backbone | None) -> str:
    """Where a backbone's weights are from."""
    if backbone is None:
        return "ready"
    return "trained" if backbone.training is not None else "tuned" if backbone.adapter is not None else "ready"


def matched_pairs(inputs: Inputs) -> list[tuple[str, str, str]]:
    """(diffusion agent, AR agent, benchmark) of agents that differ in their policy's paradigm alone: no modules, the same way of acting,
    both trained in this run, or ready-made and both tuned by adapters or neither, both on the benchmark."""
    config = inputs.config
    others = variants(inputs)
    plain = [agent for agent in inputs.agents if set(config.agents[agent].backbones) == {"policy"} and agent not in others]
    return [
        (first, second, benchmark)
        for benchmark in config.run.benchmarks
        for first in plain
        for second in plain
        if (inputs.paradigm(first), inputs.paradigm(second)) == ("diffusion", "ar")
        and origin(config.backbones[config.agents[first].policy]) == origin(config.backbones[config.agents[second].policy])
        and _way(config, first, benchmark) == _way(config, second, benchmark)
        and benchmark in config.agent_benchmarks(first)
        and benchmark in config.agent_benchmarks(second)
    ]


def _way(config: Config, agent: str, benchmark: str) -> tuple[object, ...]:
    """How an agent acts on a benchmark, whatever its policy."""
    entry = config.agents[agent]
    plays = config.workflow(agent, benchmark), config.workflow_options(agent, benchmark), config.dialect(agent, benchmark)
    return *plays, entry.acting, entry.constrain, entry.history, entry.budget


def alike(agents: Iterable[str], kind: Callable[[str], str | None]) -> list[list[str]]:
    """Agents of the same kind, two or more of each; those of no kind (None) are left out."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for agent in agents:
        if (own := kind(agent)) is not None:
            kinds[own].append(agent)
    return [members for members in kinds.values() if len(members) > 1]


def families(inputs: Inputs, key: str) -> list[list[str]]:
    """The run's agents that differ in one key of their entries alone, beside what they play and how much at once; two or more of each."""
    others = {key, "benchmarks", "tasks", "concurrency"}
    return alike(inputs.agents, lambda agent: inputs.config.agents[agent].model_dump_json(exclude=others))


def variants(inputs: Inputs) -> set[str]:
    """Agents that are another one of the run, decoded otherwise than its backbone is."""
    entries = inputs.config.agents
    kinds = [family for family in families(inputs, "decoding") if any(not entries[agent].decoding for agent in family)]
    return {agent for family in kinds for agent in family if entries[agent].decoding}


def masking_pairs(inputs: Inputs) -> list[tuple[str, str]]:
    """(aligned agent, naive agent) of every two agents that act alike and whose policies' trainings differ in their context mask alone."""
    trained = {}
    for agent in inputs.agents:
        training = inputs.training(agent)
        if training is not None:
            acts = inputs.config.agents[agent].model_dump_json(exclude={"policy", "benchmarks", "tasks", "concurrency"})
            trained[agent] = (training.context_mask, training.model_dump_json(exclude={"context_mask"}) + acts)
    aligned = {rest: agent for agent, (mask, rest) in trained.items() if mask == "aligned"}
    return [(aligned[rest], agent) for agent, (mask, rest) in trained.items() if mask == "naive" and rest in aligned]


def masking_family(inputs: Inputs) -> list[str]:
    """The agents, side by side, whose policies' trainings differ from another's in the mask or the noise of context alone."""

    def rest(agent: str) -> str | None:
        training = inputs.training(agent)
        if training is None or training.objective != "block_diffusion":
            return None
        return training.model_dump_json(exclude={"context_mask", "context_noise"})

    kinds = [kind for kind in alike(inputs.agents, rest) if len({str(inputs.training(agent)) for agent in kind}) > 1]
    return [agent for kind in kinds for agent in kind]


def seed_families(inputs: Inputs) -> list[list[str]]:
    """The run's agents that differ in nothing but the seed their backbones were trained with, two or more of each kind, by seed."""
    trained = [agent for agent in inputs.agents if inputs.training_seed(agent) is not None]
    kinds = alike(trained, lambda agent: _without_seeds(inputs.config, agent))
    by_seed = [{inputs.training_seed(agent): agent for agent in reversed(kind)} for kind in kinds]
    return [[agent for _, agent in sorted(members.items())] for members in by_seed if len(members) > 1]


def seed_pairs(inputs: Inputs) -> list[tuple[list[str], list[str], str]]:
    """(agents, as many others, benchmark): every kind that was trained at several seeds against random and, for diffusion, against AR kinds
    trained at as many."""
    kinds, random_agent = seed_families(inputs), inputs.random_agent()
    against = [(kind, [random_agent] * len(kind)) for kind in kinds if random_agent is not None]
    matched = {(first, second) for first, second, _ in matched_pairs(inputs)}
    against += [(kind, other) for kind in kinds for other in kinds if len(kind) == len(other) and (kind[0], other[0]) in matched]
    return [(kind, other, name) for kind, other in against for name in inputs.config.agent_benchmarks(kind[0])]


def family_name(agents: Sequence[str]) -> str:
    """One agent's name; for agents that differ by seed what their names begin with, and how many they are."""
    if len(set(agents)) == 1:
        return agents[0]
    shared = os.path.commonprefix(list(agents)).rstrip("0123456789").rstrip("-_ ")
    return f"{shared or agents[0]} ({len(agents)} seeds)"


def _without_seeds(config: Config, agent: str) -> str:
    """What an agent is, its backbones spelt out in place of their names, and their training seeds left out."""

    def spelt(name: str | None) -> object:
        if name not in config.backbones:
            return name
        described = config.backbones[name].model_dump(mode="json")
        if described["training"]:
            described["training"] |= {"seed": None, "base": spelt(described["training"]["base"])}
        return described

    entry = config.agents[agent].model_dump(mode="json")
    for role, name in config.agents[agent].backbones.items():
        entry[role] = {**entry[role], "backbone": spelt(name)} if isinstance(entry[role], dict) else spelt(name)
    return json.dumps(entry, sort_keys=True)


def solved_by_both(inputs: Inputs, first: str, second: str, benchmark: str) -> tuple[TableRow, TableRow]:
    """Rounds of the first agent less those of the second over the tasks that both solve, and (timing) the ratio of their times."""
    both = pair_up(inputs.rows(first, benchmark), inputs.rows(second, benchmark))
    both = both[both["success_x"].astype(bool) & both["success_y"].astype(bool)]
    own, against = Rows(first, benchmark, inputs.config.seed), f"against {second}"
    rounds = own.row("rounds_difference", against, len(both))
    if len(both) < 2:
        return rounds, own.row("time_ratio", against, len(both))
    ours, theirs, seconds, other_seconds = (both[name].to_numpy(dtype=float) for name in ("steps_x", "steps_y", "seconds_x", "seconds_y"))
    low, high = statistics.paired_interval(ours, theirs, unit=float(theirs.mean()), seed=own.seed)
    rounds = rounds.model_copy(update={"value": float((ours - theirs).mean()), "low": low, "high": high})
    return rounds, own.ratio("time_ratio", seconds, other_seconds, against)
