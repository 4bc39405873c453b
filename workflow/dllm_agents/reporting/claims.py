"""The papers' claims (data/claims.yaml), each tested on the run at hand: holds, does not hold, cannot tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from dllm_agents.analysis import statistics
from dllm_agents.analysis.failures import TAXONOMY
from dllm_agents.config import EMBODIED, Section
from dllm_agents.errors import StageError
from dllm_agents.layout import CLAIMS
from dllm_agents.records import Exit
from dllm_agents.reporting.cells import NOT_RUN
from dllm_agents.reporting.comparison import clusters
from dllm_agents.reporting.inputs import Inputs

Verdict = Literal["holds", "does not hold", "cannot tell"]
COLUMNS = {"success": 100.0, "progress": 100.0, "steps": 1.0, "seconds": 1.0, "completion_tokens": 1.0, "forwards": 1.0}
"""Metrics that are columns of the scores, with the factor to the unit they are reported in."""
REPLAYED = ("exit.steps", "exit.progress_lost")
"""Metrics of verifiers that are replayed on stored episodes: the step they leave at, and the progress (points) that costs."""
BOUNDED = ("at_most", "at_least", "ratio_at_most")


class Group(Section):
    """Some of the run's agents."""

    role: Literal["policy", "memory", "verifier", "selector", "editor"] = "policy"
    paradigm: Literal["ar", "diffusion"] | None = None
    acting: str | None = None
    agents: list[str] | None = None
    metric: str | None = Field(default=None, description="for `against`: the same agents under another metric")


class Test(Section):
    """One comparison; see data/claims.yaml for its keys."""

    model_config = ConfigDict(extra="forbid")
    metric: str
    benchmarks: Literal["embodied", "all"] | list[str]
    categories: list[str] | None = None
    of: Group
    against: Group | None = None
    tasks: Literal["all", "both_solve"] = "all"
    expect: Literal["more", "less", "not_less", "same", "at_most", "at_least", "ratio_at_most"]
    bound: float | None = None
    published: float | None = None

    @model_validator(mode="after")
    def _complete(self) -> Test:
        if (self.bound is None) == (self.expect in BOUNDED):
            raise ValueError(f"expect {self.expect}: {'needs a' if self.bound is None else 'takes no'} bound")
        if (self.against is None) != (self.expect in ("at_most", "at_least")):
            raise ValueError(f"expect {self.expect}: {'needs a' if self.against is None else 'takes no'} group to compare against")
        for metric in filter(None, (self.metric, self.against.metric if self.against else None)):
            known = metric in (*COLUMNS, *REPLAYED, "early_exit") or metric.removeprefix("failure.") in TAXONOMY
            if not known:
                raise ValueError(f"unknown metric {metric!r}; allowed: {', '.join((*COLUMNS, *REPLAYED))}, early_exit, failure.<class>")
        replayed = {metric in REPLAYED for metric in filter(None, (self.metric, self.against and self.against.metric))}
        sides = [side for side in (self.of, self.against) if side is not None]
        plain = all(side == Group(role="verifier", paradigm=side.paradigm) for side in sides)
        if True in replayed and not (plain and len(sides) == 2 and self.expect in ("more", "less", "not_less") and self.categories is None):
            raise ValueError("metrics exit.*: take two groups of role verifier, by paradigm; expect more, less, not_less; no categories")
        return self

    @property
    def timed(self) -> bool:
        """Whether the test reads the clock."""
        return "seconds" in (self.metric, self.against.metric if self.against else None)


class Claim(Section):
    """A statement of a paper, and the tests that together decide it."""

    source: str
    statement: str
    tests: list[Test] = Field(min_length=1)


@dataclass(frozen=True)
class Finding:
    """What a test found: the number it looks at with its 95 % interval (90 % for equivalence), over n tasks."""

    test: Test
    verdict: Verdict
    n: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


def load_claims(path: str | Path = CLAIMS) -> dict[str, Claim]:
    """The claims by name. Raises StageError naming file, claim and key of the first mistake."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["claims"]
        entries = dict(data)
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; claims come with the checkout: restore the file") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, ValueError):
        raise StageError(f"{path}: not a YAML mapping with a mapping `claims`") from None
    claims = {}
    for name, entry in entries.items():
        try:
            claims[str(name)] = Claim.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            raise StageError(f"{path}: claims.{name}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return claims


def evaluate(claim: Claim, inputs: Inputs, name: str = "claim") -> tuple[Verdict, list[Finding]]:
    """Whether a claim holds on the run's results. Raises StageError for a claim that names an agent the configuration does not have."""
    for test in claim.tests:
        for agent in (agent for group in (test.of, test.against) if group for agent in group.agents or []):
            if agent not in inputs.config.agents:
                raise StageError(f"claims.{name}: no agent {agent!r}; allowed: {', '.join(sorted(inputs.config.agents))}")
    findings = [_examine(test, inputs) for test in claim.tests]
    verdicts = {finding.verdict for finding in findings}
    overall: Verdict = "does not hold" if "does not hold" in verdicts else "cannot tell" if "cannot tell" in verdicts else "holds"
    return overall, findings


def _examine(test: Test, inputs: Inputs) -> Finding:
    """One test. Groups of trained and of ready-made backbones are not mixed: those trained on the same data are compared first. Where both
    groups were trained at the same seeds, they are compared seed by seed, and the interval draws whole seeds too."""
    if test.metric in REPLAYED:
        return _replayed(test, inputs)
    chosen = _choose(test, inputs)
    if chosen is None:
        return Finding(test, "cannot tell", why="the run has no such agents")
    missing = inputs.missing(dict.fromkeys([*chosen[0], *chosen[1]]), _benchmarks(test, inputs), test.categories)
    if missing != NOT_RUN:
        return Finding(test, "cannot tell", why=missing)
    of, against = _by_seed(*chosen, inputs)
    first = [_per_task(test, test.metric, agents, inputs) for agents in of]
    if test.against is None:
        return _level(test, pd.concat(first), inputs.config.seed)
    second = [_per_task(test, test.against.metric or test.metric, agents, inputs) for agents in against]
    both = pd.concat(
        one.join(other[["value", "solved"]], rsuffix="_other", how="inner").assign(trained=index)
        for index, (one, other) in enumerate(zip(first, second, strict=True))
    )
    if test.tasks == "both_solve":
        both = both[both["solved"] & both["solved_other"]]
    if len(both) < 2:
        return Finding(test, "cannot tell", len(both), why="no two tasks that both have")
    return _ratio(test, both, inputs.config.seed) if test.expect == "ratio_at_most" else _difference(test, both, inputs)


def _replayed(test: Test, inputs: Inputs) -> Finding:
    """A test on what replayed verifiers would have done, on the same stored episodes under the same prompts. As elsewhere, those trained
    in the run are compared first, and never with ready-made ones."""
    exits = pd.concat([inputs.exits(name) for name in _benchmarks(test, inputs)] or [pd.DataFrame(columns=list(Exit.model_fields))])
    left = exits["exit_step"].fillna(exits["steps"]).astype(float)
    exits = exits.assign(value=left if test.metric == "exit.steps" else 100 * exits["progress_lost"].astype(float))
    backbones = exits["verifier"].map(inputs.config.backbones.get)
    for trained in (True, False):
        sides = []
        for group in (test.of, test.against):
            chosen = [
                bool(entry.training) == trained and group is not None and group.paradigm in (None, entry.paradigm) for entry in backbones
            ]
            sides.append(exits[np.array(chosen, dtype=bool)].groupby(["agent", "prompt", "task_id"], sort=True)["value"].mean())
        if all(map(len, sides)):
            break
    else:
        return Finding(test, "cannot tell", why="the run replays no such verifiers")
    both = pd.concat(sides, axis=1, join="inner", keys=["value", "value_other"])
    if len(both) < 2:
        return Finding(test, "cannot tell", len(both), why="no two stored episodes that both saw")
    return _difference(test, both.assign(cluster=both.index.get_level_values("task_id"), trained=0), inputs)


def _choose(test: Test, inputs: Inputs) -> tuple[list[str], list[str]] | None:
    for trained in (True, False):
        of = [agent for agent in _members(test.of, inputs) if inputs.trained(agent) == trained]
        if test.against is None or test.against.metric is not None:
            against = of
        else:
            against = [agent for agent in _members(test.against, inputs) if inputs.trained(agent) == trained]
        played = [agent for agent in {*of, *against} if any(inputs.errors(agent, name).episodes for name in _benchmarks(test, inputs))]
        of, against = [a for a in of if a in played], [a for a in against if a in played]
        if of and against:
            return of, against
    return None


def _by_seed(of: list[str], against: list[str], inputs: Inputs) -> tuple[list[list[str]], list[list[str]]]:
    """Both groups apart by training seed, where they hold the same two or more; else each as it is."""
    apart = []
    for agents in (of, against):
        seeds: dict[int | None, list[str]] = {}
        for agent in agents:
            seeds.setdefault(inputs.training_seed(agent), []).append(agent)
        apart.append(seeds)
    shared = sorted(seed for seed in apart[0] if seed is not None)
    if len(shared) < 2 or set(apart[0]) != set(apart[1]) or None in apart[0]:
        return [of], [against]
    return [apart[0][seed] for seed in shared], [apart[1][seed] for seed in shared]


def _members(group: Group, inputs: Inputs) -> list[str]:
    """The agents of a group: those whose only module is the role asked for, or that have none for `policy`."""
    config = inputs.config
    members = []
    for agent in group.agents or inputs.agents:
        backbones = config.agents[agent].backbones
        modules = [role for role in backbones if role != "policy"]
        if group.agents is None and modules != ([] if group.role == "policy" else [group.role]):
            continue
        backbone = config.backbones.get(backbones.get(group.role, ""))
        if group.paradigm is not None and (backbone is None or backbone.paradigm != group.paradigm):
            continue
        if config.agents[agent].acting != (group.acting or "react") and group.agents is None:
            continue
        # A team's members act, the team does not: it is no match for a single agent that acts in a named way.
        if group.acting is not None and config.agents[agent].workflow is not None:
            continue
        members.append(agent)
    return members


def _benchmarks(test: Test, inputs: Inputs) -> list[str]:
    wanted = EMBODIED if test.benchmarks == "embodied" else inputs.config.run.benchmarks if test.benchmarks == "all" else test.benchmarks
    return [name for name in inputs.config.run.benchmarks if name in wanted]


def _per_task(test: Test, metric: str, agents: list[str], inputs: Inputs) -> pd.DataFrame:
    """The metric per task, averaged over the agents that all have it: columns value, solved (by all), cluster; index task_id."""
    parts = []
    for agent in agents:
        frames = [_with_metric(inputs, agent, name, metric) for name in _benchmarks(test, inputs)]
        frame = pd.concat([part for part in frames if len(part)] or frames[:1])
        if test.categories is not None:
            frame = frame[frame["category"].isin(test.categories)]
        parts.append(frame.drop_duplicates("task_id").set_index("task_id"))
    shared = set.intersection(*(set(part.index) for part in parts))
    index = [task for task in parts[0].index if task in shared]
    base = parts[0].loc[index].reset_index()
    value = np.mean([part.loc[index, "value"].to_numpy(dtype=float) for part in parts], axis=0) if index else []
    solved = np.all([part.loc[index, "success"].to_numpy(dtype=bool) for part in parts], axis=0) if index else []
    return pd.DataFrame({"value": value, "solved": solved, "cluster": clusters(base)}, index=index)


def _with_metric(inputs: Inputs, agent: str, benchmark: str, metric: str) -> pd.DataFrame:
    scores = inputs.rows(agent, benchmark)
    if metric in COLUMNS:
        return scores.assign(value=COLUMNS[metric] * scores[metric].astype(float))
    if metric == "early_exit":
        return scores.assign(value=100.0 * (scores["ended"] == "early_exit"))
    if not inputs.classified(agent, benchmark):
        return scores.iloc[:0].assign(value=0.0)
    found = inputs.failures(benchmark)
    kind = metric.removeprefix("failure.")
    failed = set(found[(found["agent"] == agent) & (found["kind"] == kind)]["task_id"])
    return scores.assign(value=100.0 * scores["task_id"].isin(failed))


def _level(test: Test, values: pd.DataFrame, seed: int) -> Finding:
    n = len(values)
    if n == 0:
        return Finding(test, "cannot tell", why="no task")
    shares = values["value"].to_numpy(dtype=float) / 100
    low, high = (100 * end for end in statistics.share_interval(statistics.bootstrap_means(shares, seed=seed), n))
    bound = float(test.bound or 0.0)
    inside, outside = (high <= bound, low > bound) if test.expect == "at_most" else (low >= bound, high < bound)
    return Finding(test, _verdict(inside, outside), n, 100 * float(shares.mean()), low, high)


def _difference(test: Test, both: pd.DataFrame, inputs: Inputs) -> Finding:
    first, second = both["value"].to_numpy(dtype=float), both["value_other"].to_numpy(dtype=float)
    margin = inputs.config.report.margin
    groups, seed, n = both["cluster"].tolist(), inputs.config.seed, len(both)
    trained = both["trained"].tolist() if both["trained"].nunique() > 1 else None
    if test.expect == "same":
        result = statistics.equivalence(first / 100, second / 100, margin / 100, groups, seed=seed, training_seeds=trained)
        low, high = 100 * result.low, 100 * result.high
        return Finding(test, _verdict(result.holds, low > margin or high < -margin), n, 100 * result.difference, low, high)
    low, high = statistics.paired_bootstrap(first, second, groups, seed=seed, training_seeds=trained)
    inside, outside = {
        "more": (low > 0, high < 0),
        "less": (high < 0, low > 0),
        "not_less": (low > -margin, high < -margin),
    }[test.expect]
    return Finding(test, _verdict(inside, outside), n, float((first - second).mean()), low, high)


def _ratio(test: Test, both: pd.DataFrame, seed: int) -> Finding:
    first, second = both["value"].to_numpy(dtype=float), both["value_other"].to_numpy(dtype=float)
    if second.sum() <= 0:
        return Finding(test, "cannot tell", len(both), why="nothing was measured")
    low, high = statistics.ratio_interval(first, second, seed=seed)
    bound = float(test.bound or 0.0)
    return Finding(test, _verdict(high <= bound, low > bound), len(both), float(first.sum() / second.sum()), low, high)


def _verdict(inside: bool, outside: bool) -> Verdict:
    return "holds" if inside else "does not hold" if outside else "cannot tell"
