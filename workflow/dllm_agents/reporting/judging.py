"""Whether a claim holds on a run: benchmark by benchmark, on the tasks that the compared agents share, and only where the run can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from dllm_agents.analysis import statistics
from dllm_agents.config import EMBODIED
from dllm_agents.errors import StageError
from dllm_agents.reporting.cells import NOT_RUN
from dllm_agents.reporting.claims import COLUMNS, KINDS, LEVELS, MEASURES, METRICS, REPLAYED, Claim, Test
from dllm_agents.reporting.comparison import ORIGINS, clusters, origin
from dllm_agents.reporting.groups import Sides, groups, label, sides_of
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.rows import measure_of, outcomes

Verdict = Literal["holds", "does not hold", "cannot tell", "not comparable", "not applicable"]
VERDICTS: tuple[Verdict, ...] = ("holds", "does not hold", "cannot tell", "not comparable", "not applicable")
CEILING, FLOOR = 97.5, 2.5
"""Percent beyond which two groups that are equally good tell nothing: the tasks are too easy, or too hard."""
LEAST = {"steps": 1.0, "first_full_round": 1.0, "seekers": 1.0, "seeker_turns": 1.0}
"""The least that an amount can be, where that is not 0."""
NOBODY = "the run has no such agents"
MUTE = 0.5
"""Share of empty replies above which agents are taken not to have been at work."""


@dataclass(frozen=True)
class Finding:
    """What a test found on a benchmark: the number it looks at with its 95 % interval (90 % for equivalence) over n tasks, the values of
    both groups, whether tasks differ in it at all, and why it does not tell where it does not."""

    test: Test
    verdict: Verdict
    benchmark: str = ""
    n: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    sides: tuple[tuple[str, float], ...] = ()
    margin: float = 0.0
    varied: bool = True
    why: str = ""

    @property
    def tasks_to_tell(self) -> int | None:
        """About how many tasks would tell, were the value right, where the width of the interval is why it does not; to two digits."""
        if self.verdict != "cannot tell" or self.why or self.value is None or self.low is None or self.high is None:
            return None
        apart = {
            "more": max(self.value, self.margin - self.value),
            "less": max(-self.value, self.margin + self.value),
            "not_less": abs(self.value + self.margin),
            "same": abs(self.margin - abs(self.value)),
        }.get(self.test.expect, abs(self.value - (self.test.bound or 0.0)))
        if not apart:
            return None
        needed = self.n * ((self.high - self.low) / 2 / apart) ** 2
        return math.ceil(float(f"{max(needed, self.n + 1):.2g}"))


def evaluate(claim: Claim, inputs: Inputs, name: str = "claim") -> tuple[Verdict, list[Finding]]:
    """Whether a claim holds on the run's results. Raises StageError for a claim that names an agent the configuration does not have."""
    for test in claim.every():
        for agent in (agent for group in (test.of, test.against) if group for agent in group.agents or []):
            if agent not in inputs.config.agents:
                raise StageError(f"claims.{name}: no agent {agent!r}; allowed: {', '.join(sorted(inputs.config.agents))}")
    presumed = [_examine(test, inputs) for test in claim.premise]
    findings = [_examine(test, inputs) for test in claim.tests]
    premise = _all([_together(examined) for examined in presumed])
    verdict = _all([_together(examined) for examined in findings])
    if premise != "holds":
        verdict = "not applicable" if premise == "does not hold" else premise
    return verdict, [finding for examined in (*presumed, *findings) for finding in examined]


def _together(findings: Sequence[Finding]) -> Verdict:
    """One test over its benchmarks: those that tell decide, where they agree."""
    verdicts = {finding.verdict for finding in findings}
    if verdicts & {"holds", "does not hold"}:
        return "cannot tell" if {"holds", "does not hold"} <= verdicts else "holds" if "holds" in verdicts else "does not hold"
    return "not comparable" if "not comparable" in verdicts else "cannot tell"


def _all(verdicts: Sequence[Verdict]) -> Verdict:
    """Tests that must all hold."""
    for verdict in ("does not hold", "not comparable", "cannot tell"):
        if verdict in verdicts:
            return verdict
    return "holds"


def _examine(test: Test, inputs: Inputs) -> list[Finding]:
    """One test, benchmark by benchmark."""
    group = EMBODIED if test.benchmarks == "embodied" else inputs.config.run.benchmarks if test.benchmarks == "all" else test.benchmarks
    names = [name for name in inputs.config.run.benchmarks if name in group]
    examine = _replayed if test.metric in REPLAYED else _played
    findings = [finding for name in names if (finding := examine(test, inputs, name)) is not None]
    return findings or [Finding(test, "cannot tell", why=NOBODY)]


def _played(test: Test, inputs: Inputs, benchmark: str) -> Finding | None:
    """A test on a benchmark; None where no agents play it."""
    sides = sides_of(test, inputs, benchmark)
    if sides is None:
        return None
    missing = inputs.missing(sides.agents, [benchmark], test.categories)
    if missing != NOT_RUN:
        return Finding(test, "cannot tell", benchmark, why=missing)
    first = [_per_task(test, test.metric, agents, inputs, benchmark) for agents in sides.of]
    if test.expect == "mostly_at_most":
        finding = _mostly(test, inputs, benchmark, [agent for agents in sides.of for agent in agents])
    elif test.against is None:
        finding = _level(test, pd.concat(first), inputs.config.seed)
    else:
        second = [_per_task(test, test.against.metric or test.metric, agents, inputs, benchmark) for agents in sides.against]
        both = pd.concat(
            one.join(other[["value", "solved", "called"]], rsuffix="_other", how="inner").assign(trained=index)
            for index, (one, other) in enumerate(zip(first, second, strict=True))
        )
        if test.of.role == test.against.role != "policy":
            # Where neither module was called, the policy alone is compared with itself.
            both = both[both["called"] | both["called_other"]]
        if test.tasks == "both_solve":
            both = both[both["solved"] & both["solved_other"]]
        finding = _compared(test, both, inputs)
    return _checked(finding, sides, inputs, benchmark)


def _compared(test: Test, both: pd.DataFrame, inputs: Inputs) -> Finding:
    if len(both) < 2:
        return Finding(test, "cannot tell", n=len(both), why=_too_few(test))
    return _ratio(test, both, inputs.config.seed) if test.expect == "ratio_at_most" else _difference(test, both, inputs)


def _too_few(test: Test) -> str:
    if test.of.role != "policy" and test.against is not None and test.against.role == test.of.role:
        return f"no two tasks in which the {test.of.role} was called"
    return "no two tasks that both have" + " solved" * (test.tasks == "both_solve")


def _checked(finding: Finding, sides: Sides, inputs: Inputs, benchmark: str) -> Finding:
    """A finding on a benchmark with the names of its groups; one that the run cannot support does not tell, and says why."""
    test = finding.test
    labels = [label(group, [agent for agents in side for agent in agents]) for group, side in groups(test, sides)]
    named = tuple((name, value) for name, (_, value) in zip(labels, finding.sides, strict=False))
    verdict, why = finding.verdict, finding.why
    if finding.value is not None:
        load = unequal_load(sides.agents, inputs, benchmark) if test.timed else ""
        if load:
            verdict, why = "not comparable", load
        elif verdict != "cannot tell" and (reason := _no_room(finding, sides, inputs, benchmark)):
            verdict, why = "cannot tell", reason
    return replace(finding, verdict=verdict, benchmark=benchmark, sides=named, why=why)


# What is compared


def _per_task(test: Test, metric: str, agents: Sequence[str], inputs: Inputs, benchmark: str) -> pd.DataFrame:
    """The metric per task, averaged over the agents that all have it: columns value, solved (by all), called (the group's module,
    of any), cluster; index task_id."""
    parts = []
    for agent in agents:
        frame = _with_metric(inputs, agent, benchmark, metric)
        if test.categories is not None:
            frame = frame[frame["category"].isin(test.categories)]
        parts.append(frame.drop_duplicates("task_id").set_index("task_id"))
    shared = set.intersection(*(set(part.index) for part in parts))
    index = [task for task in parts[0].index if task in shared]
    base = parts[0].loc[index].reset_index()
    value = np.mean([part.loc[index, "value"].to_numpy(dtype=float) for part in parts], axis=0) if index else []
    solved = np.all([part.loc[index, "success"].to_numpy(dtype=bool) for part in parts], axis=0) if index else []
    called = np.any([measure_of(part.loc[index], f"{test.of.role}.calls") > 0 for part in parts], axis=0) if index else []
    return pd.DataFrame({"value": value, "solved": solved, "called": called, "cluster": clusters(base)}, index=index)


def _with_metric(inputs: Inputs, agent: str, benchmark: str, metric: str) -> pd.DataFrame:
    """An agent's scores with a column `value`, without the tasks that have none."""
    scores = inputs.rows(agent, benchmark)
    if metric.startswith("failure."):
        own = outcomes(inputs, agent, benchmark)
        failing = own.failing(*KINDS[metric.removeprefix("failure.")])
        return scores.assign(value=100.0 * scores["task_id"].isin(failing))[: own.n_classified]
    values = METRICS[metric][1] * _values(scores, metric)
    return scores.assign(value=values)[np.isfinite(values)]


def _values(scores: pd.DataFrame, metric: str) -> statistics.Floats:
    if metric in COLUMNS:
        return np.asarray(scores[metric], dtype=np.float64)
    if metric == "early_exit":
        return np.asarray(scores["ended"] == "early_exit", dtype=np.float64)
    if metric == "acc_l":
        return np.asarray(scores["judge"].map({"correct": 1.0, "incorrect": 0.0}), dtype=np.float64)
    if metric in MEASURES:
        return measure_of(scores, metric)
    if metric == "calls_first":
        top, bottom = (measure_of(scores, name) for name in ("calls_before_thought", "tool_calls"))
    elif metric.endswith("_tokens_per_forward"):
        role = metric.partition("_")[0]
        top, bottom = (measure_of(scores, f"{role}.{name}") for name in ("completion_tokens", "nfe"))
    else:
        top, bottom = (scores[name].to_numpy(dtype=float) for name in ("completion_tokens", "model_seconds"))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 0, top / bottom, np.nan).astype(np.float64)


# What the numbers say


def _mostly(test: Test, inputs: Inputs, benchmark: str, agents: Sequence[str]) -> Finding:
    """Whether most agents keep below a bound, each by its own interval."""
    levels = [_level(test, _per_task(test, test.metric, [agent], inputs, benchmark), inputs.config.seed) for agent in agents]
    below, above = (sum(level.verdict == verdict for level in levels) for verdict in ("holds", "does not hold"))
    n = min(level.n for level in levels)
    share = 100 * float(np.mean([level.value is not None and level.value <= (test.bound or 0.0) for level in levels]))
    return Finding(test, _verdict(below > len(levels) / 2, above >= len(levels) / 2), n=n, value=share, sides=(("", share),))


def _level(test: Test, values: pd.DataFrame, seed: int) -> Finding:
    n = len(values)
    if n == 0:
        return Finding(test, "cannot tell", why="no task")
    shares = values["value"].to_numpy(dtype=float) / 100
    ends = statistics.bootstrap_interval(shares, values["cluster"].tolist(), seed=seed), statistics.wilson_interval(float(shares.sum()), n)
    low, high = 100 * min(end.low for end in ends), 100 * max(end.high for end in ends)
    bound, mean = float(test.bound or 0.0), 100 * float(shares.mean())
    inside, outside = (low >= bound, high < bound) if test.expect == "at_least" else (high <= bound, low > bound)
    return Finding(test, _verdict(inside, outside), n=n, value=mean, low=low, high=high, sides=(("", mean),))


def _difference(test: Test, both: pd.DataFrame, inputs: Inputs) -> Finding:
    """`more` and `less` hold where the interval is beyond 0; they do not where it excludes a difference of the margin the claimed way, as
    it does when it is beyond 0 the other way. So no difference is "more" in one run of forty, and one of the margin is none in as many."""
    first, second = both["value"].to_numpy(dtype=float), both["value_other"].to_numpy(dtype=float)
    groups, trained = both["cluster"].tolist(), both["trained"].tolist() if both["trained"].nunique() > 1 else None
    # Outcomes can differ by everything, amounts by about as much as there is; the smallest difference that counts is a share of the second.
    share = METRICS[test.metric][2] in ("%", "points")
    unit = 100.0 if share else max(float(np.abs(side).mean()) for side in (first, second))
    confidence, seed = 0.90 if test.expect == "same" else statistics.CONFIDENCE, inputs.config.seed
    low, high = statistics.paired_interval(first, second, groups, unit=unit, seed=seed, training_seeds=trained, confidence=confidence)
    margin = inputs.config.report.margin / 100 * (100.0 if share else float(np.abs(second).mean()))
    inside, outside = {
        "more": (low > 0, high < margin),
        "less": (high < 0, low > -margin),
        "not_less": (low > -margin, high < -margin),
        "same": (-margin < low and high < margin, low > margin or high < -margin),
    }[test.expect]
    sides = (("", float(first.mean())), ("", float(second.mean())))
    value, verdict = float((first - second).mean()), _verdict(inside, outside)
    varied = bool(np.ptp([first, second]) > 0)
    return Finding(test, verdict, n=len(both), value=value, low=low, high=high, sides=sides, margin=margin, varied=varied)


def _ratio(test: Test, both: pd.DataFrame, seed: int) -> Finding:
    first, second = both["value"].to_numpy(dtype=float), both["value_other"].to_numpy(dtype=float)
    if second.sum() <= 0:
        return Finding(test, "cannot tell", n=len(both), why="nothing was measured")
    low, high = statistics.ratio_interval(first, second, seed=seed)
    bound, ratio = float(test.bound or 0.0), float(first.sum() / second.sum())
    sides = (("", float(first.mean())), ("", float(second.mean())))
    return Finding(test, _verdict(high <= bound, low > bound), n=len(both), value=ratio, low=low, high=high, sides=sides)


def _verdict(inside: bool, outside: bool) -> Verdict:
    return "holds" if inside else "does not hold" if outside else "cannot tell"


def _replayed(test: Test, inputs: Inputs, benchmark: str) -> Finding | None:
    """A test on what replayed verifiers would have done, on the same stored episodes under the same prompts. As elsewhere, those trained
    in the run are compared first, and never with ready-made ones."""
    exits = inputs.exits(benchmark)
    left = exits["exit_step"].fillna(exits["steps"])
    column = left if test.metric == "exit.steps" else exits[test.metric.removeprefix("exit.")]
    # An episode that ended before a verifier looked at it says nothing.
    exits = exits.assign(value=METRICS[test.metric][1] * column.astype(float))[exits["calls"] > 0]
    backbones = exits["verifier"].map(inputs.config.backbones.get)
    for kind in ORIGINS:
        sides = []
        for group in (test.of, test.against):
            fits = [origin(one) == kind and group is not None and group.paradigm in (None, one.paradigm) for one in backbones]
            sides.append(exits[np.array(fits, dtype=bool)])
        if all(map(len, sides)):
            break
    else:
        return None
    means = [side.groupby(["agent", "prompt", "task_id"], sort=True)["value"].mean() for side in sides]
    both = pd.concat(means, axis=1, join="inner", keys=["value", "value_other"])
    if len(both) < 2:
        return Finding(test, "cannot tell", benchmark, len(both), why="no two stored episodes that both saw")
    finding = _difference(test, both.assign(cluster=both.index.get_level_values("task_id"), trained=0), inputs)
    names = [
        f"{'dLLM' if group.paradigm == 'diffusion' else 'AR'} verifiers ({', '.join(dict.fromkeys(side['verifier']))})"
        for group, side in zip((test.of, test.against), sides, strict=True)
        if group is not None
    ]
    named = tuple((name, value) for name, (_, value) in zip(names, finding.sides, strict=True))
    left_any = any(side["exit_step"].notna().any() for side in sides)
    why = _no_way(finding) if left_any else "no verifier left an episode"
    return replace(finding, verdict="cannot tell" if why else finding.verdict, benchmark=benchmark, sides=named, why=why)


# What the run can support


def _no_room(finding: Finding, sides: Sides, inputs: Inputs, benchmark: str) -> str:
    """Why a finding says nothing all the same; empty where it does."""
    test = finding.test
    both = [[agent for agents in side for agent in agents] for side in (sides.of, sides.against)]
    lame = [reason for agents in both if (reason := _like_a_baseline(test, agents, inputs, benchmark))]
    outcome = test.metric in ("success", "progress")
    if test.expect in LEVELS and outcome:
        if (share := _mute(both[0], inputs, benchmark)) > MUTE:
            return f"they wrote nothing in {100 * share:.0f} % of episodes"
        others = [agent for agent in inputs.agents if len(inputs.rows(agent, benchmark))]
        telling = any(not _like_a_baseline(test, [agent], inputs, benchmark) for agent in others)
        return "" if telling else "no agent of this run beats chance here"
    # To differ in success one side must be better than chance; to be as good, or to be compared otherwise, both must.
    if lame and (len(lame) == 2 or not outcome or (test.expect in ("same", "not_less") and finding.verdict == "holds")):
        return lame[0]
    return _at_an_end(finding) if test.expect in ("same", "not_less") else _no_way(finding)


def _at_an_end(finding: Finding) -> str:
    """Whether the tasks are too easy or too hard to tell two groups apart that are equally good."""
    values = [value for _, value in finding.sides]
    if METRICS[finding.test.metric][2] == "%" and (min(values) >= CEILING or max(values) <= FLOOR):
        return "both are at the ceiling" if min(values) >= CEILING else "both are at the floor"
    return "" if finding.varied else "every task takes both the same"


def _no_way(finding: Finding) -> str:
    """Whether what the second group has leaves no room for a difference that counts the claimed way, so that there being none is no
    evidence."""
    test, second = finding.test, finding.sides[-1][1]
    if test.expect not in ("more", "less") or finding.verdict != "does not hold" or finding.low is None or finding.high is None:
        return ""
    if finding.high < 0 if test.expect == "more" else finding.low > 0:
        return ""
    most = 100.0 if METRICS[test.metric][2] == "%" else math.inf
    room = most - second if test.expect == "more" else second - LEAST.get(test.metric, 0.0)
    return f"there is no room for {test.expect}" if room <= finding.margin else _at_an_end(finding)


def _like_a_baseline(test: Test, agents: list[str], inputs: Inputs, benchmark: str) -> str:
    """Which scripted baseline these agents together cannot be distinguished from: neither by success nor, for failures, by what is
    compared; empty where they differ from all."""
    metrics = ["success", *(metric for metric in test.metrics if metric.startswith("failure."))]
    for baseline in inputs.baselines:
        if inputs.config.agents[baseline].policy == "teacher" or not len(inputs.rows(baseline, benchmark)):
            continue
        for metric in metrics:
            ours, theirs = (_per_task(test, metric, side, inputs, benchmark) for side in (agents, [baseline]))
            both = ours.join(theirs[["value"]], rsuffix="_other", how="inner")
            if len(both) < 2:
                break
            first, second = (both[name].to_numpy(dtype=float) for name in ("value", "value_other"))
            low, high = statistics.paired_interval(first, second, both["cluster"].tolist(), unit=100.0, seed=inputs.config.seed)
            if low > 0 or (metric != "success" and high < 0):
                break
        else:
            return f"{', '.join(agents)} cannot be distinguished from the {baseline} agent"
    return ""


def _mute(agents: Sequence[str], inputs: Inputs, benchmark: str) -> float:
    """Share of these agents' episodes in which they wrote nothing."""
    failures = inputs.failures(benchmark)
    empty = failures[(failures["kind"] == "empty") & failures["agent"].isin(agents)]
    return len(empty.drop_duplicates(["agent", "task_id"])) / max(1, sum(len(inputs.rows(agent, benchmark)) for agent in agents))


def unequal_load(agents: Sequence[str], inputs: Inputs, benchmark: str) -> str:
    """Why times of these agents on a benchmark do not compare; empty where they ran alone, or side by side at the same time."""
    windows = {agent: inputs.window(agent, benchmark) for agent in agents}
    if unknown := [agent for agent, window in windows.items() if window is None]:
        return f"when {unknown[0]} ran is not recorded"
    if len({inputs.config.agents[agent].concurrency for agent in agents}) > 1:
        return "they ran at different concurrencies"
    spans = [window for window in windows.values() if window is not None]
    common = min(end for _, end in spans) - max(start for start, _ in spans)
    if common >= 0.5 * min(end - start for start, end in spans):
        return ""
    for agent, window in windows.items():
        other = inputs.beside(agent, benchmark)
        if window is not None and other:
            return f"{agent} ran beside {other}, and the groups not at the same time"
    return ""
