"""The tables of DiffuAgent (arXiv 2601.12979): embodied and tool-calling agents, alone and with modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dllm_agents.analysis import statistics
from dllm_agents.analysis.bfcl_averages import PARTS, averages
from dllm_agents.config import BFCL_MULTI_TURN, BFCL_SINGLE_TURN, EMBODIED
from dllm_agents.records import Episode, TableRow, Task
from dllm_agents.reporting import published
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.cells import NOT_RUN, Key, Rows, number, without_value
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import NO_MODULES, OURS_BLOCK, Sheet, Table, Text, arrange, plain_heads
from dllm_agents.reporting.rows import (
    Outcomes,
    agent_blocks,
    error_rows,
    macro_row,
    outcomes,
    published_rows,
    timing_rows,
    values_of,
)

SAME_AS = {"relevance": "live_relevance", "multi_turn_standard": "multi_turn_base"}
"""Columns of Table 2 that are one category under another name."""
OUTCOMES: list[tuple[Key, tuple[str, str]]] = [
    ((name, "", metric), (display_name(name) if name != "average" else "Avg.", label))
    for name in (*EMBODIED, "average")
    for metric, label in (("success_rate", "Success"), ("progress_rate", "Progress"))
]
"""Columns of the embodied tables."""
BFCL_COLUMNS = {
    "non_live": ("Non-Live", "Avg."),
    "live_simple": ("Live", "S."),
    "live_multiple": ("Live", "M."),
    "live_parallel": ("Live", "P."),
    "live_parallel_multiple": ("Live", "PM."),
    "live": ("Live", "Avg."),
    "multi_turn_standard": ("Multi-Turn", "Standard"),
    "multi_turn_challenge": ("Multi-Turn", "Challenge"),
    "multi_turn": ("Multi-Turn", "Avg."),
    "relevance": ("Hallucination", "Rel."),
    "irrelevance": ("Hallucination", "Irrel."),
    "overall": ("", "Overall"),
}
LAYOUT_COLUMNS = {"success_rate": ("Single-turn", "Official"), "any_layout_rate": ("Single-turn", "Any layout")}
MODULE_COLUMNS = {
    "multi_turn_standard": ("BFCL Multi-Turn", "Standard"),
    "multi_turn_challenge": ("BFCL Multi-Turn", "Challenge"),
    "multi_turn": ("BFCL Multi-Turn", "Avg."),
    "non_live": ("Single-Turn", "Non-Live"),
    "live": ("Single-Turn", "Live"),
}


def table1(inputs: Inputs) -> Table:
    """DiffuAgent Table 1: success and progress rate on the embodied benchmarks and their unweighted mean."""
    rows = published_rows("diffuagent_table1")
    agents = inputs.players(*EMBODIED, alone=True)
    for agent in agents:
        rows += embodied_rows(inputs, agent, values_of("diffuagent_table1", published.published_name(inputs.config, agent)))
    timing = [row for agent in agents for name in EMBODIED for row in timing_rows(outcomes(inputs, agent, name))]
    return Table(
        rows,
        arrange(rows, agent_blocks(inputs, "diffuagent_table1", agents), OUTCOMES, "Embodied agent", inputs.errors, with_n=True),
        timing,
    )


def table2(inputs: Inputs) -> Table:
    """DiffuAgent Table 2: BFCL-v3 by category, with the averages of the paper (`analysis.bfcl_averages`)."""
    rows = published_rows("diffuagent_table2")
    agents = inputs.players("bfcl", alone=True)
    timing: list[TableRow] = []
    for agent in agents:
        theirs = values_of("diffuagent_table2", published.published_name(inputs.config, agent))
        own = outcomes(inputs, agent, "bfcl", theirs)
        rows += bfcl_rows(own, list(BFCL_COLUMNS))
        rows += layout_rows(own) + error_rows(own)
        timing += timing_rows(own)
    columns = [(("bfcl", category, "success_rate"), label) for category, label in BFCL_COLUMNS.items()]
    columns += [(("bfcl", "single_turn", metric), label) for metric, label in LAYOUT_COLUMNS.items()]
    notes = (
        "Single-turn: the entries right by the official decoder, the only score, and with their calls read in any layout. A closed thought "
        "is cut before decoding, as BFCL's handlers of reasoning models do. Conversations have no such column: after a reply that was not "
        "read they went on without its results."
    )
    arranged = arrange(rows, agent_blocks(inputs, "diffuagent_table2", agents), columns, "Tool-calling agent", inputs.errors)
    return Table(rows, arranged, timing, notes=notes)


def layout_rows(own: Outcomes) -> list[TableRow]:
    """Shares of an agent's single answers that are right by the official score, and with their calls read in any layout: what lies between
    them is layout and no choice of calls."""
    single = own.within(BFCL_SINGLE_TURN)
    any_layout, official = single.measure("any_layout"), single.column("success")
    # What was never answered is wrong in every layout.
    right = np.where(np.isnan(any_layout), official, any_layout)
    return [single.success("single_turn"), single.rate("any_layout_rate", right.sum(), len(single), "single_turn")]


def table3(inputs: Inputs) -> Table:
    """DiffuAgent Table 3: embodied agents by memory module; "w/o" keeps only recent interactions."""
    keys = [key for key, _ in OUTCOMES]
    sheet = Sheet("Agent + memory", [label for _, label in OUTCOMES])
    _publish(sheet, "diffuagent_table3", keys)
    for agent in inputs.agents:
        backbones = inputs.config.agents[agent].backbones
        if set(backbones) <= {"policy", "memory"} and ("memory" in backbones or inputs.config.agents[agent].history == "recent"):
            memory = backbones.get("memory", "w/o")
            twin = {"memory": published.backbone_name(inputs.config, backbones["memory"]) if "memory" in backbones else "w/o"}
            values = values_of("diffuagent_table3", published.published_name(inputs.config, agent), twin)
            own = {(row.benchmark, row.category, row.metric): row for row in embodied_rows(inputs, agent, values)}
            rows = [row.model_copy(update={"category": f"memory={memory}"}) for row in own.values()]
            sheet.line(f"{agent} ({backbones['policy']} + {memory})", [own[key] for key in keys], rows, OURS_BLOCK)
    return sheet.table("", NO_MODULES, OURS_BLOCK)


def table4(inputs: Inputs) -> Table:
    """DiffuAgent Table 4: the embodied test sets and an example trajectory of each, from a real episode: a solved one of 3 to 10 steps by
    the first agent with a backbone that has one, else the teacher's."""
    rows = published_rows("diffuagent_table4")
    sheet = Sheet("Test set", plain_heads("Tasks", "Published", "Agent", "Example task and trajectory"), rows)
    sizes = {row.benchmark: row.published for row in rows}
    for benchmark in EMBODIED:
        tasks, size = len(inputs.tasks(benchmark)), sizes[benchmark]
        rows.append(TableRow(agent="this run", benchmark=benchmark, metric="tasks", n=tasks, value=tasks or None, published=size))
        counts = [str(tasks) if tasks else NOT_RUN, number(size or 0).removesuffix(".0")]
        episodes = (_example(inputs, agent, benchmark) for agent in (*inputs.agents, *inputs.baselines))
        episode = next((episode for episode in episodes if episode is not None), None)
        if episode is None:
            sheet.line(display_name(benchmark), [*counts, NOT_RUN, NOT_RUN])
            continue
        example = Rows(episode.agent, benchmark).row("example_steps", episode.task_id, 1, len(episode.steps))
        link = {"task": episode.task_id, "agent": episode.agent, "benchmark": benchmark}
        sheet.line(display_name(benchmark), [*counts, Text(episode.agent, link), Text(_trajectory(episode), link)], [example])
    return sheet.table("T, A and O are thought, action and observation; long observations are cut.")


def table5(inputs: Inputs) -> Table:
    """DiffuAgent Table 5: what BFCL-v3's test set is made of, with an example of each category and its call from a real episode: one an
    agent with a backbone solved, else the teacher's."""
    heads = plain_heads("Used", "Published (of)", "Agent", "Example and tool call")
    sheet = Sheet("Category", heads, published_rows("diffuagent_table5"))
    tasks = list(inputs.tasks("bfcl").values())
    examples = _solved_calls(inputs)
    for value in published.values("diffuagent_table5"):
        group, _, category = value.category.rpartition("/")
        used = [task for task in tasks if task.category == category]
        row = Rows("this run", "bfcl").row("entries", category, value.n, len(used) or None)
        # A manuscript's fonts do not reach every script, so a question in Latin letters is shown where there is one.
        task = next(iter(sorted((task for task in used if task.id in examples), key=lambda task: not task.goal.isascii())), None)
        cells: list[Text | str] = [NOT_RUN, NOT_RUN]
        if task is not None:
            link = {"task": task.id, "agent": examples[task.id].agent, "benchmark": "bfcl"}
            cells = [Text(examples[task.id].agent, link), Text(_call(task, examples[task.id]), link)]
        sizes = [str(len(used)) if used else NOT_RUN, f"{number(value.value or 0).removesuffix('.0')} ({value.n})"]
        sheet.line(category, [*sizes, *cells], [row.model_copy(update={"published": value.value})], group)
    notes = "U, T and TC are the user's message, the tools offered and the tool call made; the hallucination sets call for none."
    return sheet.table(notes)


def table6(inputs: Inputs) -> Table:
    """DiffuAgent Table 6: BFCL multi-turn by selector and editor module, and without one. Not the paper's are the single-turn columns, for
    runs without multi-turn entries, and the calls of its backbone that a selector with a tool graph saved per entry."""
    sheet = Sheet("Agent + modules", [*MODULE_COLUMNS.values(), ("Selector", "Calls saved")])
    _publish(sheet, "diffuagent_table6", [("bfcl", name, "success_rate") for name in MODULE_COLUMNS], more=[""])
    roles = {agent: inputs.config.agents[agent].backbones for agent in inputs.players("bfcl")}
    helped = [agent for agent in roles if {"selector", "editor"} & set(roles[agent])]
    policies = {roles[agent]["policy"] for agent in helped}
    for agent in roles:
        if agent not in helped and not (inputs.alone(agent) and roles[agent].get("policy") in policies):
            continue
        modules = [f"{role}={roles[agent][role]}" for role in ("selector", "editor") if role in roles[agent]]
        played = outcomes(inputs, agent, "bfcl", _published_modules(inputs, agent, roles[agent]))
        own = bfcl_rows(played, list(MODULE_COLUMNS))
        if "selector" in roles[agent]:
            own.append(played.mean("selector_saved_calls", played.stated("selector_saved_calls")))
        name = f"{agent} ({', '.join([roles[agent]['policy'], *modules])})" if modules else f"{agent}, w/o"
        rows = [row.model_copy(update={"category": ";".join(filter(None, [*modules, row.category]))}) for row in own + error_rows(played)]
        sheet.line(name, [*own, *[""] * (len(sheet.columns) - len(own))], rows, OURS_BLOCK)
    return sheet.table("", NO_MODULES, OURS_BLOCK)


def _published_modules(inputs: Inputs, agent: str, roles: Mapping[str, str]) -> dict[Key, float]:
    """What Table 6 reports of an agent with these modules, and Table 2 of one without."""
    modules = {role: published.backbone_name(inputs.config, roles[role]) for role in ("selector", "editor") if role in roles}
    return values_of("diffuagent_table6" if modules else "diffuagent_table2", published.published_name(inputs.config, agent), modules)


def embodied_rows(inputs: Inputs, agent: str, theirs: Mapping[Key, float]) -> list[TableRow]:
    """Success and progress on each embodied benchmark, and their unweighted means."""
    played = [outcomes(inputs, agent, name, theirs) for name in EMBODIED]
    rows = []
    for own in played:
        rows += [own.success(), own.mean("progress_rate", own.column("progress"), share=True), *error_rows(own)]
    return [*rows, macro_row(played, "success", "success_rate"), macro_row(played, "progress", "progress_rate")]


def _publish(sheet: Sheet, name: str, columns: Sequence[Key], more: Sequence[str] = ()) -> None:
    """A published table of agents with modules: a block per agent with one line per choice of modules; what is not published stays
    empty."""
    cells: dict[tuple[str, str], dict[Key, TableRow]] = defaultdict(dict)
    for value, row in zip(published.values(name), published_rows(name), strict=True):
        modules = ", ".join(f"{role}={backbone}" for role, backbone in value.modules.items())
        cells[value.agent, modules][value.benchmark, value.part, value.metric] = row
    for (agent, modules), own in cells.items():
        sheet.line(modules, [*(own.get(key, "") for key in columns), *more], own.values(), f"Published: {agent}")


def bfcl_rows(own: Outcomes, shown: Sequence[str]) -> list[TableRow]:
    """An agent's BFCL rates and averages; an average is "not run" unless every category in it was. Wilson intervals for single categories,
    bootstrap ones for averages, where the multi-turn sets share their ids and so are drawn together."""
    by_category = {str(name): part for name, part in own.scores.groupby("category", sort=False)}
    sizes = {name: len(part) for name, part in by_category.items()}
    rates = averages({name: float(part["success"].mean()) for name, part in by_category.items()}, sizes)
    draws = averages(_category_draws(by_category, own.seed), sizes)
    rows = []
    for name in shown:
        parts = PARTS.get(name, (SAME_AS.get(name, name),))
        inside = own.within(parts)
        if len(parts) == 1 and parts[0] in sizes:
            rows.append(inside.success(name))
            continue
        row = without_value(inside.row("success_rate", name, n=0), inside.errors)
        # An average is no better than its worst part.
        spoilt = any(own.within([part]).errors.too_many for part in parts)
        if rates.get(name) is not None and not spoilt:
            n = sum(sizes[part] for part in parts)
            low, high = statistics.share_interval(draws[name], n)
            row = row.model_copy(update={"n": n, "value": 100 * rates[name], "low": 100 * low, "high": 100 * high})
        rows.append(row)
    return rows


def bfcl_mean(own: Outcomes, names: Sequence[str]) -> TableRow | None:
    """The unweighted mean of some of an agent's BFCL averages, None unless all of them were run, without value where errors took one; the
    mean of their ends is an interval that is wide enough, since it takes the parts to err together."""
    rows = bfcl_rows(own, names)
    if any(row.value is None or row.low is None or row.high is None for row in rows):
        return next((row for row in rows if row.missing != NOT_RUN), None)
    value, low, high = (sum(getattr(row, name) for row in rows) / len(rows) for name in ("value", "low", "high"))
    return rows[0].model_copy(
        update={"category": "+".join(names), "n": sum(row.n or 0 for row in rows), "value": value, "low": low, "high": high}
    )


def _category_draws(outcomes: Mapping[str, pd.DataFrame], seed: int) -> dict[str, statistics.Floats]:
    """Bootstrap distribution of every category's rate; the multi-turn sets draw the same ids."""
    draws = {}
    for index, (name, part) in enumerate(sorted(outcomes.items())):
        if name in BFCL_MULTI_TURN:
            ordered = part.sort_values("task_id", key=lambda column: column.str.extract(r"(\d+)$", expand=False).astype(int))
            draws[name] = statistics.bootstrap_means(ordered["success"].to_numpy(dtype=float), ordered["task_id"].tolist(), seed=seed)
        else:
            draws[name] = statistics.bootstrap_means(part["success"].to_numpy(dtype=float), seed=seed + 1 + index)
    return draws


def _example(inputs: Inputs, agent: str, benchmark: str) -> Episode | None:
    """A solved episode that fits a table: the first of 3 to 10 steps, else the first solved one."""
    first = None
    for episode in inputs.episodes(agent, benchmark):
        if episode.success and 3 <= len(episode.steps) <= 10:
            return episode
        first = first or (episode if episode.success else None)
    return first


def _trajectory(episode: Episode, longest: int = 160) -> str:
    """An episode in the form of the paper's table: task, then thought, action and observation of every step."""
    parts = [f"Task: {_one_line(episode.goal, longest)}"]
    for step in episode.steps:
        for letter, text in (("T", step.thought), ("A", step.action), ("O", step.observation)):
            if text:
                parts.append(f"{letter}: {_one_line(text, longest)}")
    return " ".join(parts)


def _solved_calls(inputs: Inputs) -> dict[str, Episode]:
    """BFCL task id -> an episode that solved it: of the first agent with a backbone that did, else the teacher's or another baseline's."""
    solutions: dict[str, Episode] = {}
    for agent in (*inputs.agents, *reversed(inputs.baselines)):
        scores = inputs.rows(agent, "bfcl")
        solved = set(scores[scores["success"].astype(bool)]["task_id"]) - set(solutions)
        if solved:
            solutions |= {episode.task_id: episode for episode in inputs.episodes(agent, "bfcl") if episode.task_id in solved}
    return solutions


def _call(task: Task, episode: Episode, longest: int = 160) -> str:
    """A BFCL entry in the form of the paper's table: the user's message, the tools offered, the call made."""
    tools = [str(function.get("name")) for function in task.data.get("functions", []) if isinstance(function, dict)]
    offered = ", ".join(tools[:3]) + (f" and {len(tools) - 3} more" if len(tools) > 3 else "")
    call = "none" if task.category.endswith("irrelevance") else next((step.action for step in episode.steps if step.action), "none")
    parts = [f"U: {_one_line(task.goal, longest)}", f"T: {offered}" if offered else "", f"TC: {_one_line(call, longest)}"]
    return " ".join(part for part in parts if part)


def _one_line(text: str, longest: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"
