"""The same weights on the same tasks, unconstrained and with `constrain`, which allows only readable replies: the gap that remains when no
reply can be malformed is one of choice."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from dllm_agents.agents.search import HELD_TO
from dllm_agents.agents.tool_calling import held_to
from dllm_agents.analysis import statistics
from dllm_agents.analysis.failures import MALFORMED
from dllm_agents.benchmarks.search_reply import Reply, parse_reply
from dllm_agents.decoding.constraints import language
from dllm_agents.decoding.constraints.automata import DFA, compile_expression
from dllm_agents.records import TableRow
from dllm_agents.reporting import drawing, style
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.cells import mean_row, rate_row, ratio_row
from dllm_agents.reporting.comparison import families
from dllm_agents.reporting.failures import FIGURE4_CLASSES, FIGURE4_SETS
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import Block, Cell, Layout, Line, Table, own_block, plain_heads
from dllm_agents.reporting.rows import measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHOICES = {kind: name for kind, name in FIGURE4_CLASSES.items() if kind not in MALFORMED}


class Side(NamedTuple):
    """An agent of a pair on the tasks that both have. `malformed`, `choice` [tasks]: whether a reply could not be read, and whether all
    could and the task failed all the same."""

    agent: str
    benchmark: str
    scores: pd.DataFrame
    kinds: pd.Series
    malformed: pd.Series
    choice: pd.Series

    def rate(self, metric: str, flags: pd.Series) -> TableRow:
        return rate_row(self.agent, self.benchmark, "", metric, int(flags.sum()), len(flags))


def constraints(inputs: Inputs) -> Table:
    """Every agent beside its constrained twin: success, failures by class, forward evaluations, the share of tokens that the
    constraint replaced, the share of valid free answers outside the language, and the exact paired test."""
    rows: list[TableRow] = []
    timing: list[TableRow] = []
    blocks: dict[str, list[Line]] = {}
    for free, constrained in pairs(inputs):
        outside = _outside(inputs, free)
        for side, shown in ((free, outside), (constrained, None)):
            own = [*_rows(side, inputs.config.seed), shown]
            test = [] if side is free else _paired(free, constrained, inputs.config.seed)
            seconds = side.scores["seconds"].to_numpy(dtype=float)
            cells: list[Cell] = [row or "" for row in (*own, test[-1] if test else None)]
            blocks.setdefault(side.benchmark, []).append(Line(side.agent, [str(len(side.scores)), *cells]))
            rows += [row for row in (*own, *test) if row is not None]
            timing.append(mean_row(side.agent, side.benchmark, "", "seconds_per_episode", seconds, inputs.config.seed))
    classes = [*CHOICES.values(), "NFE", "Repaired tokens", "Valid outside", "p"]
    heads = plain_heads("n", "Success", "Malformed", "Choice", *classes)
    shown_blocks = [Block(display_name(name), lines) for name, lines in blocks.items()]
    if not shown_blocks:
        rows.append(TableRow(agent="constrained", benchmark="", metric="success_rate", n=0))
        shown_blocks.append(own_block([], len(heads), "no agent beside a constrained one"))
    notes = (
        "In each pair the first agent is unconstrained, the second can only write readable replies. Malformed: a reply could not be read. "
        "Choice: every reply could, and the task failed. Repaired tokens: the share that the constraint replaced. Valid outside: "
        "valid free answers that the constrained agent could not have written. p: exact McNemar test of success. BFCL: the entries of "
        "DiffuAgent's Figure 4."
    )
    return Table(rows, Layout("Agent", heads, shown_blocks), timing, notes)


def draw(inputs: Inputs, figure: Figure) -> None:
    """Against tokens a forward decides, a row of panels a benchmark: malformed replies of free agents, and wrong choices of constrained
    ones. Agents with the same policy are joined."""
    twins = pairs(inputs)
    names = list(dict.fromkeys(free.benchmark for free, _ in twins))
    axes = figure.subplots(max(1, len(names)), 2, squeeze=False)
    looks, drawn = style.looks(inputs.config), []
    for row, name in zip(axes, names or [""], strict=True):
        for axis, index, metric in zip(row, (0, 1), ("malformed", "choice"), strict=True):
            sides = [pair[index] for pair in twins if pair[0].benchmark == name]
            points = [_point(side, side.rate(metric, getattr(side, metric))) for side in sides if side.scores["nfe"].sum() > 0]
            axis.set(xlabel="Tokens per forward (log scale)", ylabel=f"{'Malformed' if metric == 'malformed' else 'Wrong choice'} (%)")
            axis.set_title(f"{display_name(name)}, {'constrained' if index else 'free'}", fontsize=style.FONT)
            if not points:
                drawing.say_not_run(axis)
                continue
            drawing.scatter(axis, points, looks)
            _join(axis, inputs, points, looks)
            drawn.append((axis, points))
    drawing.finish(figure, drawn)


def pairs(inputs: Inputs) -> list[tuple[Side, Side]]:
    """(free, constrained) agents that differ in `constrain` alone, on every benchmark that both have played."""
    twins = []
    for family in families(inputs, "constrain"):
        free, constrained = ([agent for agent in family if inputs.config.agents[agent].constrain == held] for held in (False, True))
        for pair in product(free, constrained):
            for benchmark in inputs.config.agent_benchmarks(pair[0]):
                frames = [_bound(inputs, agent, benchmark) for agent in pair]
                shared = set(frames[0]["task_id"]) & set(frames[1]["task_id"])
                if shared and all(inputs.classified(agent, benchmark) for agent in pair):
                    frames = [frame[frame["task_id"].isin(shared)].sort_values("task_id") for frame in frames]
                    first, second = (_side(inputs, agent, benchmark, frame) for agent, frame in zip(pair, frames, strict=True))
                    twins.append((first, second))
    return twins


def _bound(inputs: Inputs, agent: str, benchmark: str) -> pd.DataFrame:
    """An agent's scores on the tasks where a constraint binds, one for each."""
    scores = inputs.rows(agent, benchmark).drop_duplicates("task_id")
    return scores[scores["category"].isin(FIGURE4_SETS)] if benchmark == "bfcl" else scores


def _side(inputs: Inputs, agent: str, benchmark: str, scores: pd.DataFrame) -> Side:
    failures = inputs.failures(benchmark)
    by_task = failures[failures["agent"] == agent].groupby("task_id")["kind"].agg(set)
    kinds = pd.Series([by_task.get(task, set()) for task in scores["task_id"]], dtype=object)
    malformed = kinds.map(lambda own: bool(own & MALFORMED)).astype(bool)
    choice = ~malformed & ~scores["success"].astype(bool).reset_index(drop=True)
    return Side(agent, benchmark, scores, kinds, malformed, choice)


def _rows(side: Side, seed: int) -> list[TableRow | None]:
    """Outcomes and costs of an agent; the classes of Figure 4 apply to BFCL only."""
    scores = side.scores
    success = side.rate("success_rate", scores["success"].astype(bool))
    named = [side.rate(kind, side.kinds.map(lambda own, kind=kind: kind in own)) if side.benchmark == "bfcl" else None for kind in CHOICES]
    tokens, repaired = measured(scores, "policy.completion_tokens"), np.nan_to_num(measured(scores, "policy.repaired"))
    share = ratio_row(side.agent, side.benchmark, "repaired_tokens", 100 * repaired, np.nan_to_num(tokens), seed)
    nfe = mean_row(side.agent, side.benchmark, "", "nfe", scores["nfe"].to_numpy(dtype=float), seed)
    return [success, side.rate("malformed", side.malformed), side.rate("choice", side.choice), *named, nfe, share]


def _paired(free: Side, constrained: Side, seed: int) -> list[TableRow]:
    """The difference of success with its interval, the discordant tasks, and the exact test last."""
    ours, theirs = (side.scores["success"].astype(bool).tolist() for side in (constrained, free))
    test = statistics.mcnemar(ours, theirs)
    low, high = statistics.paired_interval(np.array(ours, dtype=float), np.array(theirs, dtype=float), seed=seed)
    base = TableRow(agent=constrained.agent, benchmark=free.benchmark, category=f"against {free.agent}", metric="", n=len(ours))
    difference = {"value": 100.0 * (sum(ours) - sum(theirs)) / len(ours), "low": 100 * low, "high": 100 * high}
    counts = {"only_constrained_solves": test.gained, "only_free_solves": test.lost, "mcnemar_p": test.p}
    return [
        base.model_copy(update={"metric": "success_difference", **difference}),
        *(base.model_copy(update={"metric": metric, "value": float(value)}) for metric, value in counts.items()),
    ]


def _outside(inputs: Inputs, free: Side) -> TableRow | None:
    """How many valid answers of a free agent are outside the constrained one's language; None for embodied tasks, whose lists of valid
    actions are not stored."""
    workflow = inputs.config.workflow(free.agent, free.benchmark)
    if workflow not in ("tool_calling", "search"):
        return None
    inside = [automaton.accepts(text.encode("utf-8", "surrogatepass")) for text, automaton in _valid(inputs, free, workflow)]
    return rate_row(free.agent, free.benchmark, "", "valid_outside_language", inside.count(False), len(inside))


def _valid(inputs: Inputs, free: Side, workflow: str) -> Iterator[tuple[str, DFA]]:
    """The valid answers of an agent, each with the language of its constrained twin."""
    solved = set(free.scores[free.scores["success"].astype(bool)]["task_id"])
    tasks, search = inputs.tasks(free.benchmark), None
    for episode in inputs.episodes(free.agent, free.benchmark):
        if workflow == "search" and episode.task_id in set(free.scores["task_id"]):
            search = search or compile_expression(language(HELD_TO))
            texts = [turn.text for turn in episode.turns() if turn.call is not None]
            yield from ((text, search) for text in texts if isinstance(parse_reply(text), Reply))
        elif episode.task_id in solved and episode.task_id in tasks and (constraint := held_to(tasks[episode.task_id])) is not None:
            yield episode.answer or "", compile_expression(language(constraint))


def _point(side: Side, row: TableRow) -> drawing.Point:
    speed = float(side.scores["completion_tokens"].sum() / side.scores["nfe"].sum())
    return drawing.Point(side.agent, max(speed, 0.01), row.value or 0.0, row.low, row.high, False)


def _join(axis: drawing.Axes, inputs: Inputs, points: list[drawing.Point], looks: dict[str, style.Look]) -> None:
    policies: dict[str, list[drawing.Point]] = {}
    for point in sorted(points, key=lambda point: point.speed):
        policies.setdefault(inputs.config.agents[point.label].policy, []).append(point)
    for joined in policies.values():
        axis.plot(
            [point.speed for point in joined],
            [point.value for point in joined],
            color=looks[joined[0].label].colour,
            linewidth=0.6,
            zorder=0,
        )
