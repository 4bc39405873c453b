"""The same weights on the same tasks, unconstrained and with `constrain`, which allows only readable replies: the gap that remains when no
reply can be malformed is one of choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

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
from dllm_agents.reporting.cells import Rows
from dllm_agents.reporting.comparison import families
from dllm_agents.reporting.failures import FIGURE4_CLASSES, FIGURE4_SETS
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import OURS_BLOCK, Cell, Sheet, Table, plain_heads
from dllm_agents.reporting.rows import Outcomes, outcomes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHOICES = {kind: name for kind, name in FIGURE4_CLASSES.items() if kind not in MALFORMED}


def constraints(inputs: Inputs) -> Table:
    """Every agent beside its constrained twin: success, failures by class, forward evaluations, the share of tokens that the
    constraint replaced, the share of valid free answers outside the language, and the exact paired test."""
    classes = [*CHOICES.values(), "NFE", "Repaired tokens", "Valid outside", "p"]
    sheet = Sheet("Agent", plain_heads("n", "Success", "Malformed", "Choice", *classes))
    for free, constrained in pairs(inputs):
        outside = _outside(free)
        for side, shown in ((free, outside), (constrained, None)):
            own = [*_rows(side), shown]
            test = [] if side is free else _paired(free, constrained)
            cells: list[Cell] = [row or "" for row in (*own, test[-1] if test else None)]
            rows = [row for row in (*own, *test) if row is not None]
            sheet.line(side.agent, [str(len(side)), *cells], rows, display_name(side.benchmark))
            sheet.timing.append(side.mean("seconds_per_episode", side.column("seconds")))
    notes = (
        "In each pair the first agent is unconstrained, the second can only write readable replies. Malformed: a reply could not be read. "
        "Choice: every reply could, and the task failed. Repaired tokens: the share that the constraint replaced. Valid outside: "
        "valid free answers that the constrained agent could not have written. p: exact McNemar test of success. BFCL: the entries of "
        "DiffuAgent's Figure 4."
    )
    nobody = "" if sheet.rows else "no agent beside a constrained one"
    return sheet.table(notes, nobody, OURS_BLOCK, Rows("constrained", "").row("success_rate", n=0))


def draw(inputs: Inputs, figure: Figure) -> None:
    """Against tokens a forward decides, a row of panels a benchmark: malformed replies of free agents, and wrong choices of constrained
    ones. Agents with the same policy are joined."""
    twins = pairs(inputs)
    names = list(dict.fromkeys(free.benchmark for free, _ in twins))
    axes = figure.subplots(max(1, len(names)), 2, squeeze=False)
    looks, drawn = style.looks(inputs.config), []
    for row, name in zip(axes, names or [""], strict=True):
        panels = (("free", "Malformed", _malformed), ("constrained", "Wrong choice", _choice))
        for axis, index, (side, label, rate) in zip(row, (0, 1), panels, strict=True):
            shown = [pair[index] for pair in twins if pair[0].benchmark == name]
            points = [_point(own, rate(own)) for own in shown if own.scores["nfe"].sum() > 0]
            axis.set(xlabel="Tokens per forward (log scale)", ylabel=f"{label} (%)")
            axis.set_title(f"{display_name(name)}, {side}", fontsize=style.FONT)
            drawn.append(drawing.scatter(axis, points, looks))
            _join(axis, inputs, points, looks)
    drawing.finish(figure, drawn)


def pairs(inputs: Inputs) -> list[tuple[Outcomes, Outcomes]]:
    """(free, constrained) agents that differ in `constrain` alone, on the tasks of every benchmark that both have played."""
    twins = []
    for family in families(inputs, "constrain"):
        free, constrained = ([agent for agent in family if inputs.config.agents[agent].constrain == held] for held in (False, True))
        for pair in product(free, constrained):
            for benchmark in inputs.config.agent_benchmarks(pair[0]):
                first, second = (_bound(inputs, agent, benchmark) for agent in pair)
                shared = set(first.scores["task_id"]) & set(second.scores["task_id"])
                if shared and first.n_classified and second.n_classified:
                    twins.append((_on(first, shared), _on(second, shared)))
    return twins


def _bound(inputs: Inputs, agent: str, benchmark: str) -> Outcomes:
    """An agent's outcomes on the tasks where a constraint binds, one for each."""
    own = outcomes(inputs, agent, benchmark).once_a_task()
    return own.select(own.scores["category"].isin(FIGURE4_SETS)) if benchmark == "bfcl" else own


def _on(own: Outcomes, tasks: set[str]) -> Outcomes:
    """The outcomes on some tasks, in their order."""
    return replace(own, scores=own.scores[own.scores["task_id"].isin(tasks)].sort_values("task_id"))


def _malformed(own: Outcomes) -> TableRow:
    """Tasks in which a reply could not be read."""
    return own.rate("malformed", len(own.failing(*MALFORMED)), len(own))


def _choice(own: Outcomes) -> TableRow:
    """Tasks that failed though every reply could be read."""
    malformed = own.scores["task_id"].isin(own.failing(*MALFORMED))
    return own.rate("choice", (~malformed & ~own.scores["success"].astype(bool)).sum(), len(own))


def _rows(own: Outcomes) -> list[TableRow | None]:
    """Outcomes and costs of an agent; the classes of Figure 4 apply to BFCL only."""
    classes = [own.rate(kind, len(own.failing(kind)), len(own)) if own.benchmark == "bfcl" else None for kind in CHOICES]
    tokens, repaired = (np.nan_to_num(own.measure(f"policy.{name}")) for name in ("completion_tokens", "repaired"))
    share = own.ratio("repaired_tokens", 100 * repaired, tokens)
    return [own.success(), _malformed(own), _choice(own), *classes, own.mean("nfe", own.column("nfe")), share]


def _paired(free: Outcomes, constrained: Outcomes) -> list[TableRow]:
    """The difference of success with its interval, the discordant tasks, and the exact test last."""
    ours, theirs = (side.scores["success"].astype(bool).tolist() for side in (constrained, free))
    test = statistics.mcnemar(ours, theirs)
    low, high = statistics.paired_interval(constrained.column("success"), free.column("success"), seed=free.seed)
    base = constrained.row("success_difference", f"against {free.agent}", len(ours), 100.0 * (sum(ours) - sum(theirs)) / len(ours))
    counts = {"only_constrained_solves": test.gained, "only_free_solves": test.lost, "mcnemar_p": test.p}
    return [
        base.model_copy(update={"low": 100 * low, "high": 100 * high}),
        *(base.model_copy(update={"metric": metric, "value": float(value)}) for metric, value in counts.items()),
    ]


def _outside(free: Outcomes) -> TableRow | None:
    """How many valid answers of a free agent are outside the constrained one's language; None for embodied tasks, whose lists of valid
    actions are not stored."""
    workflow = free.inputs.config.workflow(free.agent, free.benchmark)
    if workflow not in ("tool_calling", "search"):
        return None
    inside = [automaton.accepts(text.encode("utf-8", "surrogatepass")) for text, automaton in _valid(free, workflow)]
    return free.rate("valid_outside_language", inside.count(False), len(inside))


def _valid(free: Outcomes, workflow: str) -> Iterator[tuple[str, DFA]]:
    """The valid answers of an agent, each with the language of its constrained twin."""
    played = set(free.scores["task_id"])
    solved = set(free.scores[free.scores["success"].astype(bool)]["task_id"])
    tasks, search = free.inputs.tasks(free.benchmark), None
    for episode in free.inputs.episodes(free.agent, free.benchmark):
        if workflow == "search" and episode.task_id in played:
            search = search or compile_expression(language(HELD_TO))
            texts = [turn.text for turn in episode.turns() if turn.call is not None]
            yield from ((text, search) for text in texts if isinstance(parse_reply(text), Reply))
        elif episode.task_id in solved and episode.task_id in tasks and (constraint := held_to(tasks[episode.task_id])) is not None:
            yield episode.answer or "", compile_expression(language(constraint))


def _point(own: Outcomes, row: TableRow) -> drawing.Point:
    speed = float(own.scores["completion_tokens"].sum() / own.scores["nfe"].sum())
    return drawing.Point(own.agent, max(speed, 0.01), row.value or 0.0, row.low, row.high, False)


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
