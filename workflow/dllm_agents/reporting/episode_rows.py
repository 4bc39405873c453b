"""Rows that take an episode apart: format failures, plans, replayed early exits, where a search agent's time went, what a trace shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from dllm_agents.analysis import statistics
from dllm_agents.benchmarks.search_reply import FORMAT_FAILURES
from dllm_agents.config import PREFERENCE
from dllm_agents.records import Episode, EpisodeStep, TableRow, Task
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.rows import compare, mean_row, pair_up, rate_row

SEARCH = "multihop_qa"
CASE_STEP = 32
"""The denoising step at which DLLM-Searcher's case study looks (section 5.4)."""
HIDDEN = "▒"


class Saving(NamedTuple):
    """P-ReAct against ReAct with the same weights on a set of questions. `reduction`: percent of ReAct's time; the rest: mean seconds a
    question by which time fell, and of these hidden behind decoding, not spent decoding, not spent in tools."""

    parallel: str
    sequential: str
    category: str
    n: int
    reduction: float
    low: float
    high: float
    saved: float
    overlap: float
    decoding: float
    tool: float


class Region(NamedTuple):
    """A part of a completion in its trace: kind (`think`, `tool_call`, `answer`, `other`), first and last token (inclusive)."""

    kind: str
    first: int
    last: int


def format_failure_rows(inputs: Inputs, agent: str) -> list[TableRow]:
    """DLLM-Searcher Table 3: share of questions whose episode ended in a reply of each class, and in none of them."""
    counts: Counter[str] = Counter()
    for episode in inputs.episodes(agent, SEARCH):
        if episode.ended != "error":
            counts[str(episode.extra.get("format_failure") or "none")] += 1
    n, errors = counts.total(), inputs.errors(agent, SEARCH)
    return [rate_row(agent, SEARCH, kind, "share", counts[kind], n, errors=errors) for kind in (*FORMAT_FAILURES, "none")]


def planning_rows(inputs: Inputs, agent: str) -> list[TableRow]:
    """What a planner's plans were worth: hit rate of the first plan, recall of gold hops, first round that covers them all, sub-questions
    that go back; rounds and tool calls over the questions answered rightly."""
    scores = inputs.rows(agent, SEARCH)
    errors = inputs.errors(agent, SEARCH)
    planned = np.isfinite(measured(scores, "planner_hit"))
    scores = scores[planned]
    known = scores[np.isfinite(measured(scores, "hop_recall"))]
    right = scores[scores["success"].astype(bool)]
    seed = inputs.config.seed

    def mean(metric: str, part: pd.DataFrame, name: str, category: str = "", share: bool = False) -> TableRow:
        values = measured(part, name)
        return mean_row(agent, SEARCH, category, metric, values[np.isfinite(values)], seed, share=share, errors=errors)

    covered = int(np.isfinite(measured(known, "first_full_round")).sum())
    hits = int(measured(known, "planner_hit").sum())
    return [
        rate_row(agent, SEARCH, "", "acc_r", int(scores["success"].sum()), len(scores), errors=errors),
        rate_row(agent, SEARCH, "first plan", "planner_hit_rate", hits, len(known), errors=errors),
        mean("hop_recall", known, "hop_recall", share=True),
        rate_row(agent, SEARCH, "", "full_coverage", covered, len(known), errors=errors),
        mean("first_full_coverage_round", known, "first_full_round"),
        mean("backtracks_per_question", scores, "backtracks"),
        mean("rounds", right, "rounds", "answered rightly"),
        mean("tool_calls", right, "tool_calls", "answered rightly"),
    ]


def measured(scores: pd.DataFrame, name: str) -> statistics.Floats:
    """One of the numbers that a workflow noted of its episodes; not a number where it did not."""
    return np.array([noted.get(name, np.nan) for noted in scores["measures"]], dtype=np.float64)


def exit_rows(inputs: Inputs) -> list[TableRow]:
    """DiffuAgent Figure 6: early-exit verifiers replayed on stored episodes, per agent, benchmark, verifier and prompt: episodes left
    early, mean redundant steps saved, mean progress lost (points), success lost (points)."""
    rows = []
    for benchmark in inputs.config.run.benchmarks:
        found = inputs.exits(benchmark)
        for key, part in found.groupby(["agent", "verifier", "prompt"], sort=False):
            agent, verifier, prompt = map(str, key)
            category = f"verifier={verifier};prompt={prompt}"
            seed, n = inputs.config.seed, len(part)
            lost = part["success"].to_numpy(dtype=np.float64) - part["success_at_exit"].to_numpy(dtype=np.float64)
            rows += [
                rate_row(agent, benchmark, category, "early_exits", int(part["exit_step"].notna().sum()), n),
                mean_row(agent, benchmark, category, "redundant_steps", part["redundant_steps"].to_numpy(dtype=float), seed),
                mean_row(agent, benchmark, category, "redundant_steps_saved", part["redundant_steps_saved"].to_numpy(dtype=float), seed),
                mean_row(agent, benchmark, category, "progress_lost", part["progress_lost"].to_numpy(dtype=float), seed, share=True),
                mean_row(agent, benchmark, category, "success_lost", lost, seed, share=True),
            ]
    return rows


def call_first_pairs(inputs: Inputs, acting: str) -> list[tuple[str, str]]:
    """(agent that calls first in this way, the one with the same weights that thinks first) of the run's search agents."""
    config = inputs.config

    def weights(agent: str) -> tuple[object, ...]:
        backbone = config.backbones[config.agents[agent].policy]
        return (backbone.model, backbone.url, backbone.training)

    players = [agent for agent in inputs.agents if SEARCH in config.agent_benchmarks(agent) and config.agents[agent].workflow is None]
    plain = [agent for agent in players if config.agents[agent].acting == "react"]
    pairs = []
    for agent in players:
        if config.agents[agent].acting == acting:
            same_name = [other for other in plain if config.agents[other].policy == config.agents[agent].policy]
            same_weights = [other for other in plain if weights(other) == weights(agent)]
            pairs += [(agent, other) for other in (same_name or same_weights)[:1]]
    return pairs


def savings(inputs: Inputs) -> list[Saving]:
    """DLLM-Searcher Figure 3: time of P-ReAct against ReAct on the same questions, per question set, and where the difference comes from
    (`agents.search.latency_split` says how it is split)."""
    found = []
    for parallel, sequential in call_first_pairs(inputs, "p_react"):
        both = pair_up(inputs.rows(sequential, SEARCH), inputs.rows(parallel, SEARCH))
        for category, part in both.groupby("category_x", sort=False):
            sides = [pd.DataFrame({"measures": part[f"measures_{side}"]}) for side in "xy"]
            before, after = (
                {name: measured(side, f"{name}_seconds") for name in ("turns", "overlap", "decoding", "tool")} for side in sides
            )
            if len(part) < 2 or not np.isfinite(before["turns"] + after["turns"]).all() or before["turns"].sum() <= 0:
                continue
            low, high = statistics.ratio_interval(after["turns"], before["turns"], seed=inputs.config.seed)
            reduction = 100 * (1 - float(after["turns"].sum() / before["turns"].sum()))
            parts = [float((before[name] - after[name]).mean()) for name in ("turns", "overlap", "decoding", "tool")]
            saved, overlap, decoding, tool = parts
            found.append(
                Saving(
                    parallel,
                    sequential,
                    str(category),
                    len(part),
                    reduction,
                    100 * (1 - high),
                    100 * (1 - low),
                    saved,
                    -overlap,
                    decoding,
                    tool,
                )
            )
    return found


def regions(step: EpisodeStep) -> list[Region]:
    """The parts of a traced completion, by its tags; tags belong to what they enclose. Empty without the texts of its tokens."""
    if not step.trace or not step.trace_tokens or len(step.trace) != len(step.trace_tokens):
        return []
    text, starts = "", []
    for token in step.trace_tokens:
        starts.append(len(text))
        text += token
    kinds = ["other"] * len(starts)
    for kind in ("think", "tool_call", "answer"):
        opened = text.find(f"<{kind}>")
        closing = f"</{kind}>"
        closed = text.find(closing, opened)
        if opened >= 0:
            end = closed + len(closing) if closed >= 0 else len(text)
            for index, start in enumerate(starts):
                if opened < start + max(1, len(step.trace_tokens[index])) and start < end:
                    kinds[index] = kind
    found: list[Region] = []
    for index, kind in enumerate(kinds):
        if found and found[-1].kind == kind:
            found[-1] = found[-1]._replace(last=index)
        else:
            found.append(Region(kind, index, index))
    return found


def canvas_at(step: EpisodeStep, region: Region, forward: int) -> str:
    """A region as it stands after `forward` forwards: settled tokens as text, the others as one mask sign each."""
    assert step.trace is not None and step.trace_tokens is not None
    return "".join(
        token if settled < forward else HIDDEN
        for settled, token in zip(
            step.trace[region.first : region.last + 1], step.trace_tokens[region.first : region.last + 1], strict=True
        )
    )


def calling_steps(inputs: Inputs, agent: str) -> Iterator[tuple[Episode, EpisodeStep, dict[str, Region]]]:
    """The first turns of an agent's search episodes that make a call, with their thought and call regions, where they are traced."""
    for episode in inputs.episodes(agent, SEARCH, traced=True):
        if episode.steps:
            parts = {region.kind: region for region in regions(episode.steps[0])}
            if "tool_call" in parts:
                yield episode, episode.steps[0], parts


def settled_rows(inputs: Inputs, agent: str) -> list[TableRow]:
    """Over an agent's first calling turns: share of thought and call tokens that stand at step 32, and of thought tokens that stand when
    the call is complete (0 for an agent that calls first, 100 for one that thinks first)."""
    at_step: dict[str, list[float]] = {"think": [], "tool_call": []}
    when_called: list[float] = []
    for _, step, parts in calling_steps(inputs, agent):
        trace = step.trace or []
        for kind, shares in at_step.items():
            if kind in parts:
                part = trace[parts[kind].first : parts[kind].last + 1]
                shares.append(float(np.mean([settled < CASE_STEP for settled in part])))
        if "think" in parts:
            called = max(trace[parts["tool_call"].first : parts["tool_call"].last + 1])
            part = trace[parts["think"].first : parts["think"].last + 1]
            when_called.append(float(np.mean([settled <= called for settled in part])))
    seed = inputs.config.seed
    return [
        *(mean_row(agent, SEARCH, kind, f"settled_at_step_{CASE_STEP}", shares, seed, share=True) for kind, shares in at_step.items()),
        mean_row(agent, SEARCH, "think", "settled_when_call_is_complete", when_called, seed, share=True),
    ]


def accuracy(inputs: Inputs, agent: str) -> TableRow:
    """ACC_R of a search agent over all its questions."""
    scores = inputs.rows(agent, SEARCH)
    return rate_row(agent, SEARCH, "all", "acc_r", int(scores["success"].sum()), len(scores), errors=inputs.errors(agent, SEARCH))


def shown_episode(inputs: Inputs, agent: str, benchmark: str) -> Episode | None:
    """A solved episode that fits a table: the first of 3 to 10 steps, else the first solved one."""
    first = None
    for episode in inputs.episodes(agent, benchmark):
        if episode.success and 3 <= len(episode.steps) <= 10:
            return episode
        first = first or (episode if episode.success else None)
    return first


def trajectory_text(episode: Episode, longest: int = 160) -> str:
    """An episode in the form of the paper's table: task, then thought, action and observation of every step."""
    parts = [f"Task: {_one_line(episode.goal, longest)}"]
    for step in episode.steps:
        for letter, text in (("T", step.thought), ("A", step.action), ("O", step.observation)):
            if text:
                parts.append(f"{letter}: {_one_line(text, longest)}")
    return " ".join(parts)


def solved_calls(inputs: Inputs) -> dict[str, Episode]:
    """BFCL task id -> an episode that solved it: of the first agent with a backbone that did, else the teacher's or another baseline's."""
    found: dict[str, Episode] = {}
    for agent in (*inputs.agents, *reversed(inputs.baselines)):
        scores = inputs.rows(agent, "bfcl")
        solved = set(scores[scores["success"].astype(bool)]["task_id"]) - set(found)
        if solved:
            found |= {episode.task_id: episode for episode in inputs.episodes(agent, "bfcl") if episode.task_id in solved}
    return found


def call_text(task: Task, episode: Episode, longest: int = 160) -> str:
    """A BFCL entry in the form of the paper's table: the user's message, the tools offered, the call made."""
    tools = [str(function.get("name")) for function in task.data.get("functions", []) if isinstance(function, dict)]
    offered = ", ".join(tools[:3]) + (f" and {len(tools) - 3} more" if len(tools) > 3 else "")
    made = "none" if task.category.endswith("irrelevance") else next((step.action for step in episode.steps if step.action), "none")
    parts = [f"U: {_one_line(task.goal, longest)}", f"T: {offered}" if offered else "", f"TC: {_one_line(made, longest)}"]
    return " ".join(part for part in parts if part)


def training_stages(inputs: Inputs) -> tuple[list[tuple[str, str, str, tuple[str, ...]]], list[tuple[str, str, str]]]:
    """The diffusion agents of Searcher Table 2. First (label, agent, agent of its SFT model, benchmarks both play) of backbones with a
    preference stage, each behind its SFT model; then (vanilla, agent, "") of search agents whose backbone comes ready."""
    config = inputs.config
    alone = {config.agents[agent].policy: agent for agent in inputs.agents if inputs.alone(agent) and inputs.paradigm(agent) == "diffusion"}
    trained: list[tuple[str, str, str, tuple[str, ...]]] = []
    for backbone, agent in alone.items():
        training = config.backbones[backbone].training
        if training is None or training.objective not in PREFERENCE or (base := alone.get(training.base or "")) is None:
            continue
        shared = tuple(name for name in config.agent_benchmarks(agent) if name in config.agent_benchmarks(base))
        second = "SFT + JustGRPO" if training.objective == "just_grpo" else "SFT + VRPO"
        trained += [("SFT", base, "", shared), (second, agent, base, shared)]
    ready = [("vanilla", agent, "") for backbone, agent in alone.items() if config.backbones[backbone].training is None]
    return trained, [entry for entry in ready if SEARCH in config.agent_benchmarks(entry[1])]


def stage_row(inputs: Inputs, agent: str, base: str, benchmark: str) -> TableRow:
    """An agent's success rate on a benchmark, or its gain over the agent of its SFT model on the same tasks (points, paired)."""
    scores = inputs.rows(agent, benchmark)
    if not base:
        errors = inputs.errors(agent, benchmark)
        return rate_row(agent, benchmark, "", "success_rate", int(scores["success"].sum()), len(scores), errors=errors)
    missing = inputs.missing([agent, base], [benchmark])
    return compare(inputs, [agent], [base], benchmark).get("success_difference") or TableRow(
        agent=agent, benchmark=benchmark, metric="success_difference", n=0, missing=missing
    )


def _one_line(text: str, longest: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


ATTENTION_SPANS = {"question": "Question", "plan": "Plan", "results": "Results", "format": "Rest of prompt", "own": "Reply"}
"""What a reply can look at: column of the attention records -> its name to a reader."""


def attention_rows(inputs: Inputs) -> list[TableRow]:
    """Where replies looked, per planning agent and workflow stage: mean share of attention per span, and entropy."""
    found = []
    for agent in inputs.agents:
        frame = inputs.attention(agent, "multihop_qa")
        for stage in ("plan", "search", "write"):
            part = frame[frame["stage"] == stage]
            if inputs.config.agents[agent].workflow == "planner":
                for metric in (*ATTENTION_SPANS, "entropy"):
                    values = [float(value) for value in part[metric]]
                    found.append(mean_row(agent, "multihop_qa", stage, metric, values, inputs.config.seed, share=True))
    return found
