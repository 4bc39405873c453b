"""The tables of DLLM-Searcher: accuracy of search agents, training stages, replies that cannot be read, the case study of a trace."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import accumulate, groupby
from typing import NamedTuple

import numpy as np
import pandas as pd

from dllm_agents.analysis import statistics
from dllm_agents.benchmarks.search_reply import FORMAT_FAILURES
from dllm_agents.config import PREFERENCE
from dllm_agents.records import Episode, TableRow, TracedCall
from dllm_agents.reporting import published
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.cells import NO_ERRORS, NOT_RUN, Rows, bare, cell, number
from dllm_agents.reporting.comparison import compare
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import NO_MODULES, OURS_BLOCK, PUBLISHED_BLOCK, Cell, Line, Sheet, Table, Text, arrange, plain_heads
from dllm_agents.reporting.rows import Outcomes, agent_blocks, error_rows, outcomes, published_rows, values_of

SEARCH = "multihop_qa"
SETS = {"hotpotqa": "HotpotQA", "2wiki": "2Wiki", "bamboogle": "Bamboogle", "musique": "MuSiQue"}
"""The published question sets, in the paper's order."""
CASE_STEP = 32
"""The denoising step at which DLLM-Searcher's case study looks (section 5.4)."""
HIDDEN = "▒"


class Stage(NamedTuple):
    """An agent of Table 2: `base` is the agent of its SFT model, empty for one that is not trained further; both play `benchmarks`."""

    label: str
    agent: str
    base: str
    benchmarks: tuple[str, ...] = ()


def table1(inputs: Inputs) -> Table:
    """DLLM-Searcher Table 1: multi-hop questions by set; ACC_R by the containment rule, ACC_L by the LLM judge over the verdicts that
    could be parsed. Unparsable verdicts and the agreement with a second judge are rows of the CSV."""
    titles = {**SETS, "average": "Avg.", "other sets": "Other sets"}
    rows = published_rows("searcher_table1")
    agents, every = inputs.players(SEARCH), set(inputs.scores(SEARCH)["category"])
    for agent in agents:
        repeated = published.searcher_name(inputs.config, agent) or published.system_name(inputs.config, agent)
        own = outcomes(inputs, agent, SEARCH, values_of("searcher_table1", repeated))
        for name in SETS:
            rows += _accuracies(own, name, [name])
        rows += [_average(own, metric) for metric in ("acc_r", "acc_l")]
        rows += _accuracies(own, "other sets", every - set(SETS))
        if published.system_name(inputs.config, agent) is not None:
            rows += _accuracies(own, "all", every)
        rows += _judges(own) + error_rows(own)
    columns = [((SEARCH, name, metric), (title, metric.upper())) for name, title in titles.items() for metric in ("acc_r", "acc_l")]
    blocks = agent_blocks(inputs, "searcher_table1", agents)
    notes = (
        "Rows that repeat a published one have its numbers beside theirs; the CSV has ACC_R by order-free word cover too (acc_r_words). "
        "The last groups hold the published systems as this run plays them, over all of its questions, with an AR backbone and with a dLLM."
    )
    if inputs.config.benchmarks.multihop_qa.stand_in and any(published.system_name(inputs.config, agent) for agent in agents):
        notes += (
            " No generated question is answered by one search with its own words, which is all that SuRe and Selective-Context make, and "
            "the tags of Search-R1, WebSailor and R1Searcher are those of their own checkpoints: other backbones do not write them."
        )
    return _with_paradigms(inputs, Table(rows, arrange(rows, blocks, columns, "Model", inputs.errors), notes=notes))


def _with_paradigms(inputs: Inputs, table: Table) -> Table:
    """A table with two groups of columns more: each published system as the run plays it, by paradigm of the backbone."""
    groups = {"ar": "AR here", "diffusion": "dLLM here"}
    every = set(inputs.scores(SEARCH)["category"])
    unobtainable = published.absent("searcher_table1")
    cells: dict[tuple[str, str], list[Cell]] = {}
    for agent in inputs.players(SEARCH):
        if (system := published.system_name(inputs.config, agent)) is not None:
            own = {row.metric: row for row in _accuracies(outcomes(inputs, agent, SEARCH), "all", every)}
            cells.setdefault((system, inputs.paradigm(agent)), [own["acc_r"], own["acc_l"]])

    def widened(line: Line, is_published: bool) -> Line:
        name = line.label
        absent = "not run: critics not public" if name in unobtainable else NOT_RUN
        empty: list[Cell] = [absent if is_published and name in (*published.SYSTEMS.values(), *unobtainable) else ""] * 2
        more = [cell for group in groups for cell in (cells.get((name, group), empty) if is_published else empty)]
        return Line(name, [*line.cells, *more])

    heads = [*table.layout.columns, *((title, metric) for title in groups.values() for metric in ("ACC_R", "ACC_L"))]
    blocks = [
        block._replace(lines=[widened(line, block.title == PUBLISHED_BLOCK) for line in block.lines]) for block in table.layout.blocks
    ]
    return replace(table, layout=replace(table.layout, columns=heads, blocks=blocks))


def _accuracies(own: Outcomes, name: str, sets: Collection[str]) -> list[TableRow]:
    """ACC_R and ACC_L of an agent on some question sets, ACC_R by word cover where it was noted."""
    part = own.within(sets)
    parsed, words = _judged(part.scores), part.stated("acc_r_words")
    unread = int((part.scores["judge"] == "unparsable").sum())
    # Without a judge it is not for errors that there is no verdict.
    errors = part.errors._replace(unjudged=unread) if len(parsed) or unread or not len(part) else NO_ERRORS
    judged = replace(part, errors=errors)
    rows = [part.success(name, "acc_r"), judged.rate("acc_l", parsed.sum(), len(parsed), name)]
    return rows + ([part.rate("acc_r_words", words.sum(), len(words), name)] if len(words) else [])


def _judged(part: pd.DataFrame) -> statistics.Floats:
    """1 or 0 for every verdict of the judge that could be parsed."""
    parsed = part[part["judge"].isin(["correct", "incorrect"])]
    return np.asarray(parsed["judge"] == "correct", dtype=np.float64)


def _average(own: Outcomes, metric: str) -> TableRow:
    """The unweighted mean over the published sets; "not run" unless all were."""
    sets = [own.within([name]) for name in SETS]
    parts = [_judged(part.scores) if metric == "acc_l" else part.column("success") for part in sets]
    return own.within(SETS).macro(metric, parts, "average")


def _judges(own: Outcomes) -> list[TableRow]:
    """How many verdicts could not be parsed, and how far two judges agree (raw, percent, and Cohen's kappa)."""
    judged = own.select(own.scores["judge"].notna())
    if not len(judged):
        return []
    rows = [judged.rate("judge_unparsable", (judged.scores["judge"] == "unparsable").sum(), len(judged), "all")]
    both = judged.scores[judged.scores["second_judge"].notna()]
    if both.empty:
        return rows
    from dllm_agents.client.judge import judge_agreement  # brings an HTTP client, which no other table needs

    result = judge_agreement(both["judge"].tolist(), both["second_judge"].tolist())
    values = {"judge_agreement": result.agreement and 100 * result.agreement, "judge_kappa": result.kappa}
    return rows + [own.row(metric, "all", result.n, value) for metric, value in values.items()]


def table2(inputs: Inputs) -> Table:
    """DLLM-Searcher Table 2: the same diffusion backbone vanilla, after SFT, and after SFT + VRPO, on the published sets and on every
    benchmark where this run has both; gains are paired over tasks."""
    keys = [(name, metric) for name in SETS for metric in ("acc_r", "acc_l")]
    rows = published_rows("searcher_table2")
    values = {(row.agent, row.category, row.metric): row.published for row in rows}
    trained, ready = training_stages(inputs)
    played = [name for name in inputs.config.run.benchmarks if any(name in stage.benchmarks for stage in trained)] or [SEARCH]
    heads = [(SETS[name], metric.upper()) for name, metric in keys] + [(display_name(name), "Success (gain)") for name in played]
    sheet = Sheet("Model", heads, rows)
    for agent in dict.fromkeys(row.agent for row in rows):
        cells = []
        for name, metric in keys:
            value, gain = values.get((agent, name, metric)), values.get((agent, name, f"{metric}_gain"))
            cells.append(NOT_RUN if value is None else number(value) + (f" (+{number(gain)})" if gain is not None else ""))
        sheet.line(agent, [*cells, *[""] * len(played)], block=PUBLISHED_BLOCK)
    for stage in [*ready, *trained]:
        repeated = published.searcher_name(inputs.config, stage.agent)
        theirs = values_of("searcher_table2", "VRPO" if repeated == "DLLM-Searcher" else repeated)
        searches = outcomes(inputs, stage.agent, SEARCH, theirs)
        own = [row for name in SETS for row in _accuracies(searches, name, [name])]
        rates = {name: _stage_rows(inputs, stage, name) for name in played}
        tidy = [row.model_copy(update={"category": f"{stage.label};{row.category}"}) for row in own]
        tidy += [row.model_copy(update={"category": stage.label}) for pair in rates.values() for row in pair]
        shown = [row for row in own if row.metric in ("acc_r", "acc_l")]
        sheet.line(f"{stage.agent} ({stage.label})", [*shown, *(_with_gain(*pair) for pair in rates.values())], tidy, OURS_BLOCK)
    notes = "In the last columns a gain is in points over the row of the SFT model, paired on the same tasks."
    return sheet.table(notes, NO_MODULES, OURS_BLOCK)


def _with_gain(success: TableRow, gain: TableRow | None = None) -> Cell:
    """A success rate, and in brackets what it gains over the model it was trained from."""
    if gain is None or gain.value is None or success.value is None:
        return success
    sign = "+" if gain.value >= 0 else ""
    return Text(f"{bare(success)} ({sign}{cell(gain)})", success)


def training_stages(inputs: Inputs) -> tuple[list[Stage], list[Stage]]:
    """The diffusion agents of Table 2: those of backbones with a preference stage, each behind its SFT model; and vanilla ones, search
    agents whose backbone comes ready."""
    config = inputs.config
    alone: dict[str, str] = {}
    # One agent a backbone, in a run of several papers the one that searches.
    for agent in sorted(inputs.agents, key=lambda name: SEARCH not in config.agent_benchmarks(name)):
        if inputs.paradigm(agent) != "diffusion":
            continue
        # The paper decodes these by P-ReAct; an agent that acts so stands before one that does not.
        parallel = published.searcher_name(config, agent) is not None and config.agents[agent].acting == "p_react"
        if inputs.alone(agent) or parallel:
            alone[config.agents[agent].policy] = agent if parallel else alone.get(config.agents[agent].policy, agent)
    trained: list[Stage] = []
    for backbone, agent in alone.items():
        training = config.backbones[backbone].training
        if training is None or training.objective not in PREFERENCE or (base := alone.get(training.base or "")) is None:
            continue
        shared = tuple(name for name in config.agent_benchmarks(agent) if name in config.agent_benchmarks(base))
        second = "SFT + JustGRPO" if training.objective == "just_grpo" else "SFT + VRPO"
        trained += [Stage("SFT", base, "", shared), Stage(second, agent, base, shared)]
    ready = [Stage("vanilla", agent, "") for backbone, agent in alone.items() if config.backbones[backbone].training is None]
    return trained, [stage for stage in ready if SEARCH in config.agent_benchmarks(stage.agent)]


def _stage_rows(inputs: Inputs, stage: Stage, benchmark: str) -> list[TableRow]:
    """An agent's success rate on a benchmark, and its gain over the agent of its SFT model on the same tasks (points, paired)."""
    success = outcomes(inputs, stage.agent, benchmark).success()
    if not stage.base:
        return [success]
    missing = inputs.missing([stage.agent, stage.base], [benchmark])
    nothing = TableRow(agent=stage.agent, benchmark=benchmark, metric="success_difference", n=0, missing=missing)
    return [success, compare(inputs, [stage.agent], [stage.base], benchmark).get("success_difference", nothing)]


def table3(inputs: Inputs) -> Table:
    """DLLM-Searcher Table 3: how replies of search agents fail to be read, in the published classes and the rest (% of questions)."""
    kinds = [*FORMAT_FAILURES, "none"]
    rows = [row for row in published_rows("searcher_table3") if row.metric == "share"]
    sheet = Sheet("Model", plain_heads("n", *kinds))
    for agent in dict.fromkeys(row.agent for row in rows):
        theirs = {row.category: row for row in rows if row.agent == agent}
        sheet.line(agent, [str(rows[0].n), *(theirs.get(kind, "") for kind in kinds)], theirs.values(), PUBLISHED_BLOCK)
    for agent in inputs.agents:
        if SEARCH in inputs.config.agent_benchmarks(agent) and inputs.config.agents[agent].workflow is None:
            own = _format_failures(inputs, agent)
            sheet.line(agent, [Text(str(own[0].n or 0), own[0]), *own], block=OURS_BLOCK)
    return sheet.table("", NO_MODULES, OURS_BLOCK)


def _format_failures(inputs: Inputs, agent: str) -> list[TableRow]:
    """DLLM-Searcher Table 3: share of questions whose episode ended in a reply of each class, and in none of them."""
    played = (episode for episode in inputs.episodes(agent, SEARCH) if episode.ended != "error")
    counts = Counter((episode.search and episode.search.format_failure) or "none" for episode in played)
    theirs = values_of("searcher_table3", published.searcher_name(inputs.config, agent))
    own = Rows(agent, SEARCH, errors=inputs.errors(agent, SEARCH), theirs=theirs)
    return [own.rate("share", counts[kind], counts.total(), kind) for kind in (*FORMAT_FAILURES, "none")]


def case_study(inputs: Inputs) -> Table:
    """DLLM-Searcher section 5.4: which tokens of a first turn stand at step 32, from real traces: one turn in full per diffusion agent, and
    the shares over all of its first turns that make a call."""
    turns, shares = "One turn of each agent", "Share of tokens (%) over all first turns with a call"
    sheet = Sheet("Agent", plain_heads("Forward", "Thought", "Call", "Tokens unmasked"))
    for agent in inputs.agents:
        searches = SEARCH in inputs.config.agent_benchmarks(agent) and inputs.config.agents[agent].workflow is None
        if searches and inputs.paradigm(agent) == "diffusion":
            sheet.rows += _unmasked_rows(inputs, agent)
            sheet.blocks.setdefault(turns, []).extend(_case_lines(inputs, agent))
    for row in [row for row in sheet.rows if row.value is not None]:
        cells: list[Cell] = ["", Text(f"{row.category}: {row.metric}".replace("_", " "), row), row, Text(str(row.n), row)]
        sheet.line(row.agent, cells, [], shares)
    notes = (
        f"{HIDDEN} is a token that is still masked. The paper looks at step {CASE_STEP} of a block of 128; turns that end before it "
        "are shown at their end."
    )
    nothing = Rows("this run", SEARCH).row(f"settled_at_step_{CASE_STEP}", n=0)
    return sheet.table(notes, "no diffusion agent searches", turns, nothing)


def _case_lines(inputs: Inputs, agent: str) -> list[Line]:
    """An agent's first turn with a call as it stands at the paper's step, and at its end."""
    case = next(_calling_turns(inputs, agent), None)
    if case is None:
        return [Line(agent, [NOT_RUN] * 4)]
    episode, call, parts = case
    link = {"task": episode.task_id, "agent": agent, "benchmark": SEARCH}
    last = max(call.reveal_step or [0]) + 1
    lines = [Line(f"{agent}: {episode.goal}", [""] * 4)]
    for forward in dict.fromkeys((min(CASE_STEP, last), last)):
        texts = [canvas_at(call, parts[kind], forward) if kind in parts else "" for kind in ("think", "tool_call")]
        unmasked = str(sum(moment < forward for moment in call.reveal_step or []))
        lines.append(Line("", [Text(text, link) for text in (f"{forward} of {last}", *texts, unmasked)]))
    return lines


class Region(NamedTuple):
    """A part of a completion in its trace: kind (`think`, `tool_call`, `answer`, `other`), first and last token (inclusive)."""

    kind: str
    first: int
    last: int

    @property
    def tokens(self) -> slice:
        return slice(self.first, self.last + 1)


def regions(call: TracedCall) -> list[Region]:
    """The parts of a traced completion, by its tags; tags belong to what they enclose. Empty without the texts of its tokens."""
    if not call.reveal_step or not call.tokens or len(call.reveal_step) != len(call.tokens):
        return []
    text, starts = "".join(call.tokens), [0, *accumulate(map(len, call.tokens))]
    kinds = ["other"] * len(call.tokens)
    for kind in ("think", "tool_call", "answer"):
        if match := re.search(rf"<{kind}>.*?(</{kind}>|\Z)", text, re.DOTALL):
            for index, token in enumerate(call.tokens):
                if match.start() < starts[index] + max(1, len(token)) and starts[index] < match.end():
                    kinds[index] = kind
    runs = [(kind, list(places)) for kind, places in groupby(range(len(kinds)), key=kinds.__getitem__)]
    return [Region(kind, places[0], places[-1]) for kind, places in runs]


def canvas_at(call: TracedCall, region: Region, forward: int) -> str:
    """A region as it stands after `forward` forwards: unmasked tokens as text, the others as one mask sign each."""
    assert call.reveal_step is not None and call.tokens is not None
    steps, tokens = call.reveal_step[region.tokens], call.tokens[region.tokens]
    return "".join(token if step < forward else HIDDEN for step, token in zip(steps, tokens, strict=True))


def _calling_turns(inputs: Inputs, agent: str) -> Iterator[tuple[Episode, TracedCall, dict[str, Region]]]:
    """The first replies of an agent's search episodes that make a call, with their thought and call regions, where they are traced."""
    for episode in inputs.traced_episodes(agent, SEARCH):
        call = next((turn.call for turn in episode.turns()), None)
        if isinstance(call, TracedCall):
            parts = {region.kind: region for region in regions(call)}
            if "tool_call" in parts:
                yield episode, call, parts


def _unmasked_rows(inputs: Inputs, agent: str) -> list[TableRow]:
    """Over an agent's first calling turns: share of thought and call tokens that stand at step 32, and of thought tokens that stand when
    the call is complete (0 for an agent that calls first, 100 for one that thinks first)."""
    at_step: dict[str, list[float]] = {"think": [], "tool_call": []}
    when_called: list[float] = []
    for _, call, parts in _calling_turns(inputs, agent):
        trace = call.reveal_step or []
        for kind, shares in at_step.items():
            if kind in parts:
                shares.append(float(np.mean([settled < CASE_STEP for settled in trace[parts[kind].tokens]])))
        if "think" in parts:
            last = max(trace[parts["tool_call"].tokens])
            when_called.append(float(np.mean([settled <= last for settled in trace[parts["think"].tokens]])))
    own = Rows(agent, SEARCH, inputs.config.seed)
    return [
        *(own.mean(f"settled_at_step_{CASE_STEP}", shares, kind, share=True) for kind, shares in at_step.items()),
        own.mean("settled_when_call_is_complete", when_called, "think", share=True),
    ]
