"""The tables, one function each, named as in `config.report.tables`. Every function takes the run's inputs and gives tidy rows (rates as
percentages) and the layout of the paper's table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlencode

import pandas as pd

from dllm_agents.analysis import statistics
from dllm_agents.analysis.failures import TAXONOMY
from dllm_agents.analysis.metrics import Errors
from dllm_agents.benchmarks.search_reply import FORMAT_FAILURES
from dllm_agents.catalogue import NEEDS
from dllm_agents.config import BFCL_SINGLE_TURN, EMBODIED, Config
from dllm_agents.errors import StageError
from dllm_agents.records import TableRow, write_aside
from dllm_agents.reporting import published
from dllm_agents.reporting.captions import caption, display_name
from dllm_agents.reporting.claims import evaluate, load_claims
from dllm_agents.reporting.episode_rows import (
    ATTENTION_SPANS,
    CASE_STEP,
    HIDDEN,
    attention_rows,
    call_text,
    calling_steps,
    canvas_at,
    format_failure_rows,
    measured,
    planning_rows,
    settled_rows,
    shown_episode,
    solved_calls,
    stage_row,
    training_stages,
    trajectory_text,
)
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import NOT_RUN, Block, Layout, Table, cell, number, to_csv, to_html, to_latex, to_markdown
from dllm_agents.reporting.rows import (
    NO_ERRORS,
    OURS_BLOCK,
    PUBLISHED_BLOCK,
    agreement_rows,
    arrange,
    bfcl_rows,
    clock_rows,
    compare,
    cost_rows,
    counted,
    embodied_average,
    error_rows,
    failure_rows,
    family_name,
    figure4_rows,
    loop_rows,
    matched_pairs,
    mean_row,
    outcome_rows,
    own_block,
    published_failures,
    published_modules,
    published_rows,
    published_values,
    rate_row,
    seed_pairs,
    solved_by_both,
    timing_rows,
)
from dllm_agents.reporting.training import dllm_agent_masking

AGREEMENT = {"bfcl": "class", **dict.fromkeys(EMBODIED, "refused steps")}
"""Benchmark -> the measure of agreement with its checker that the table of failures shows; the others are in its CSV."""


def diffuagent_table1(inputs: Inputs) -> Table:
    """DiffuAgent Table 1: success and progress rate on the embodied benchmarks and their unweighted mean."""
    columns = [(name, "", metric) for name in (*EMBODIED, "average") for metric in ("success_rate", "progress_rate")]
    rows = published_rows("diffuagent_table1")
    agents = inputs.players(*EMBODIED, alone=True)
    for agent in agents:
        twin = published_values(inputs.config, agent, "diffuagent_table1")
        rows += [row for name in EMBODIED for row in outcome_rows(inputs, agent, name, twin)]
        rows += embodied_average(inputs, agent, twin)
    timing = [row for agent in agents for name in EMBODIED for row in timing_rows(inputs, agent, name)]
    labels = [
        (display_name(name) if name != "average" else "Avg.", label) for name in (*EMBODIED, "average") for label in ("Success", "Progress")
    ]
    return Table(rows, arrange(inputs, rows, columns, labels, "Embodied agent", agents, with_n=True), timing)


def diffuagent_table2(inputs: Inputs) -> Table:
    """DiffuAgent Table 2: BFCL-v3 by category, with the averages of the paper (`analysis.bfcl_averages`)."""
    shown = {
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
    rows = published_rows("diffuagent_table2")
    agents = inputs.players("bfcl", alone=True)
    for agent in agents:
        twin = published_values(inputs.config, agent, "diffuagent_table2")
        rows += bfcl_rows(inputs, agent, list(shown), twin)
    timing = [row for agent in agents for row in timing_rows(inputs, agent, "bfcl")]
    columns = [("bfcl", category, "success_rate") for category in shown]
    return Table(rows, arrange(inputs, rows, columns, list(shown.values()), "Tool-calling agent", agents), timing)


def comparisons(inputs: Inputs) -> Table:
    """Every agent against the random one, and every diffusion agent against every AR one of its kind (both trained in this run, or both
    ready-made), on the tasks both have: difference in success with a paired bootstrap interval over tasks and clusters, exact McNemar p,
    Holm's correction over the table, Cohen's h, and whether the two are equivalent within `report.margin` points. Where agents differ by
    training seed alone, all seeds of a kind stand against all of another, and whole seeds are drawn too."""
    random_agent = inputs.random_agent()
    pairs = [
        ([agent], [random_agent], name) for name in inputs.config.run.benchmarks for agent in inputs.agents if random_agent is not None
    ]
    pairs += [([agent], [other], name) for agent, other, name in matched_pairs(inputs)] + seed_pairs(inputs)
    pairs = [pair for pair in pairs if all(pair[2] in inputs.config.agent_benchmarks(agent) for agents in pair[:2] for agent in agents)]
    found = [(first, second, name, compare(inputs, first, second, name)) for first, second, name in pairs]
    corrected = iter(
        statistics.holm([1.0 if result["mcnemar_p"].value is None else result["mcnemar_p"].value for *_, result in found if result])
    )
    rows: list[TableRow] = []
    lines = []
    for first, second, benchmark, result in found:
        agent, other = family_name(first), family_name(second)
        if not result:
            missing = inputs.missing([*first, *second], [benchmark])
            row = TableRow(agent=agent, benchmark=benchmark, category=f"against {other}", metric="success_difference", n=0, missing=missing)
            rows.append(row)
            lines.append((f"{agent} against {other}", [display_name(benchmark), "0", missing, *[NOT_RUN] * 4]))
            continue
        result["holm_p"] = result["mcnemar_p"].model_copy(update={"metric": "holm_p", "value": next(corrected)})
        rows += result.values()
        p = [f"{result[name].value:.2g}" for name in ("mcnemar_p", "holm_p")]
        comparable = "yes" if result["comparable"].value else "no"
        difference = result["success_difference"]
        lines.append(
            (
                f"{agent} against {other}",
                [display_name(benchmark), str(difference.n), cell(difference), *p, f"{result['cohens_h'].value:.2f}", comparable],
            )
        )
    names = ["Benchmark", "n", "Difference (points)", "p", "p (Holm)", "Cohen's h", f"Within ±{number(inputs.config.report.margin)}"]
    notes = (
        "Intervals of differences: paired bootstrap over clusters (BabyAI levels, shared multi-turn ids, training seeds). "
        f"'Within' is an equivalence test at a margin of {number(inputs.config.report.margin)} points, alpha 0.05."
    )
    return Table(rows, Layout("Pair", [("", name) for name in names], [Block("", lines)]), notes=notes)


def failures(inputs: Inputs) -> Table:
    """Share of episodes with each failure class, per agent and benchmark; retry loops at both thresholds, loops per episode, loops with
    unchanged observation, first-loop hazard per step; the three Figure 4 classes over 440 and 340 single-turn entries; agreement with the
    benchmarks' own checkers."""
    rows = published_failures()
    for agent in inputs.players(*inputs.config.run.benchmarks):
        twins = {
            (value.benchmark, value.category, value.metric): value
            for name in ("diffuagent_figure3", "diffuagent_figure4")
            for value in published.values(name)
            if value.agent == published.published_name(inputs.config, agent)
        }
        for benchmark in [name for name in inputs.config.run.benchmarks if agent in inputs.players(name)]:
            rows += failure_rows(inputs, agent, benchmark) + agreement_rows(inputs, agent, benchmark)
            if benchmark in EMBODIED:
                rows += loop_rows(inputs, agent, benchmark, twins)
            if benchmark == "bfcl":
                rows += figure4_rows(inputs, agent, twins)
    kinds = list(TAXONOMY)
    blocks = []
    for benchmark in inputs.config.run.benchmarks:
        lines = []
        for agent in inputs.players(benchmark):
            by_kind = {
                row.category: row for row in rows if (row.agent, row.benchmark, row.metric) == (agent, benchmark, "episodes_with_failure")
            }
            n = counted(next(iter(by_kind.values())).n, inputs.errors(agent, benchmark))
            shown = [by_kind[kind] for kind in kinds]
            shown += [row for row in rows if (row.agent, row.benchmark, row.category) == (agent, benchmark, AGREEMENT.get(benchmark))]
            cells = [row.missing if row.value is None else number(row.value) for row in shown]
            lines.append((agent, [n, *cells, *[""] * (len(kinds) + 1 - len(cells))]))
        blocks.append(Block(display_name(benchmark), lines))
    columns = [("", "n"), *(("", kind.replace("_", " ")) for kind in kinds), ("", "agreement")]
    classes = "; ".join(f"{kind.replace('_', ' ')}: {meaning}" for kind, meaning in TAXONOMY.items())
    notes = (
        f"Classes: {classes}. Agreement: share of episodes in which the rules alone and the benchmark's own checker name the "
        "same class (BFCL's single Python answers, no failure among the classes), or both or neither see a refused step (embodied)."
    )
    return Table(rows, Layout("Agent", columns, blocks), notes=notes)


def trajectory_filter(inputs: Inputs) -> Table:
    """Teacher trajectories per benchmark: collected, accepted, rejected by reason."""
    rows: list[TableRow] = []
    lines: list[tuple[str, list[str]]] = []
    for benchmark in inputs.config.run.benchmarks:
        counts = inputs.filtered(benchmark)
        if counts is None:
            rows.append(TableRow(agent="teacher", benchmark=benchmark, metric="accepted_share", n=0))
            lines.append((display_name(benchmark), ["0", NOT_RUN, NOT_RUN, ""]))
            continue
        n = counts.accepted + counts.rejected.total()
        share = rate_row("teacher", benchmark, "", "accepted_share", counts.accepted, n)
        rows += [share, TableRow(agent="teacher", benchmark=benchmark, metric="accepted", n=n, value=counts.accepted)]
        rows += [
            TableRow(agent="teacher", benchmark=benchmark, category=reason, metric="rejected", n=n, value=count)
            for reason, count in sorted(counts.rejected.items())
        ]
        reasons = "; ".join(f"{reason}: {count}" for reason, count in counts.rejected.most_common())
        lines.append((display_name(benchmark), [str(n), str(counts.accepted), cell(share), reasons or "none"]))
    columns = [("", name) for name in ("Collected", "Accepted", "Share (%)", "Rejected because")]
    return Table(rows, Layout("Benchmark", columns, [Block("", lines)]))


def serving(inputs: Inputs) -> Table:
    """The serving probe of every backbone: health, canary against the reference, speed at each concurrency."""
    rows: list[TableRow] = [
        TableRow(agent=value.agent, benchmark="serving", category="published", metric=value.metric, published=value.value)
        for value in published.values("diffuagent_figure1")
    ]
    lines: list[tuple[str, list[str]]] = [
        (value.agent, ["", "", "", "1", number(value.value or 0.0), "", "", ""]) for value in published.values("diffuagent_figure1")
    ]
    ours: list[tuple[str, list[str]]] = []
    for backbone in inputs.config.used_backbones():
        probe = inputs.probes.get(backbone)
        if probe is None:
            rows.append(TableRow(agent=backbone, benchmark="serving", metric="tokens_per_second", n=0))
            ours.append((backbone, [*[NOT_RUN] * 3, "", *[NOT_RUN] * 4]))
            continue
        canary = {"equal": 1.0, "different": 0.0}.get(probe.canary)
        rows.append(TableRow(agent=backbone, benchmark="serving", metric="healthy", n=1, value=float(probe.healthy)))
        rows.append(TableRow(agent=backbone, benchmark="serving", metric="canary_equal", n=int(canary is not None), value=canary))
        rows.append(TableRow(agent=backbone, benchmark="serving", metric="peak_memory_mb", n=1, value=probe.peak_memory_mb))
        for level in probe.concurrency:
            category = f"concurrency={level['concurrency']:.0f}"
            metrics = ("tokens_per_second", "p50_s", "p95_s", "nfe_per_token")
            rows += [
                TableRow(agent=backbone, benchmark="serving", category=category, metric=name, n=int(level["requests"]), value=level[name])
                for name in metrics
                if name in level
            ]
            speed = [number(level[name]) if name in level else NOT_RUN for name in metrics]
            ours.append((backbone, [probe.engine, "yes" if probe.healthy else "no", probe.canary, f"{level['concurrency']:.0f}", *speed]))
        if not probe.concurrency:
            ours.append((backbone, [probe.engine, "yes" if probe.healthy else "no", probe.canary, "", *[NOT_RUN] * 4]))
    names = ("Engine", "Healthy", "Canary", "Concurrency", "Tokens/s", "p50 (s)", "p95 (s)", "NFE per token")
    hardware = sorted({probe.hardware for probe in inputs.probes.values() if probe.hardware})
    blocks = [Block("Published (one A800, read off Figure 1)", lines), Block(OURS_BLOCK, ours)]
    return Table(rows, Layout("Backbone", [("", name) for name in names], blocks), notes=f"Hardware: {'; '.join(hardware) or NOT_RUN}.")


def claims(inputs: Inputs) -> Table:
    """The papers' claims tested on this run: one verdict each, and the numbers behind it. What reads the clock stands with the timing."""
    rows: list[TableRow] = []
    timing: list[TableRow] = []
    lines = []
    for name, claim in load_claims().items():
        verdict, findings = evaluate(claim, inputs, name)
        target = timing if any(finding.test.timed for finding in findings) else rows
        smallest = min(finding.n for finding in findings)
        target.append(TableRow(agent=name, benchmark="", category=claim.source, metric=verdict.replace(" ", "_"), n=smallest, value=1.0))
        cells = []
        for finding in findings:
            test = finding.test
            where = test.benchmarks if isinstance(test.benchmarks, str) else "+".join(test.benchmarks)
            row = TableRow(agent=name, benchmark=where, category=test.expect, metric=test.metric, n=finding.n, published=test.published)
            row = row.model_copy(update={"value": finding.value, "low": finding.low, "high": finding.high})
            target.append(row)
            cells.append(f"{test.metric} {test.expect.replace('_', ' ')}: {finding.why or cell(row)}")
        lines.append((claim.statement, [claim.source, verdict, str(smallest), "; ".join(cells)]))
    columns = [("", name) for name in ("Source", "On this run", "n", "Numbers (differences and levels in points, times as ratios)")]
    notes = (
        f"'Same' and 'not less' use a margin of {number(inputs.config.report.margin)} points. Agents trained in this run are compared "
        "with each other, not with ready-made ones."
    )
    return Table(rows, Layout("Claim", columns, [Block("", lines)]), timing, notes)


def diffuagent_table3(inputs: Inputs) -> Table:
    """DiffuAgent Table 3: embodied agents by memory module; "w/o" keeps only recent interactions."""
    columns = [(name, metric) for name in (*EMBODIED, "average") for metric in ("success_rate", "progress_rate")]
    table, lines = published_modules("diffuagent_table3", columns)
    ours = []
    for agent in inputs.agents:
        backbones = inputs.config.agents[agent].backbones
        if set(backbones) <= {"policy", "memory"} and ("memory" in backbones or inputs.config.agents[agent].history == "recent"):
            category = f"memory={backbones.get('memory', 'w/o')}"
            found = [row for name in EMBODIED for row in outcome_rows(inputs, agent, name, {})] + embodied_average(inputs, agent, {})
            found = [row.model_copy(update={"category": category}) for row in found]
            table += found
            cells = {(row.benchmark, row.metric): cell(row) for row in found}
            ours.append((f"{agent} ({backbones['policy']} + {backbones.get('memory', 'w/o')})", [cells[key] for key in columns]))
    heads = [
        (display_name(name) if name != "average" else "Avg.", label) for name in (*EMBODIED, "average") for label in ("Success", "Progress")
    ]
    return Table(table, Layout("Agent + memory", heads, [*lines, own_block(ours, len(heads))]))


def diffuagent_table6(inputs: Inputs) -> Table:
    """DiffuAgent Table 6: BFCL multi-turn by selector and editor module, and without one. Not the paper's are the single-turn columns, for
    runs without multi-turn entries, and the calls of its backbone that a selector with a tool graph saved per entry."""
    columns = {
        "multi_turn_standard": ("BFCL Multi-Turn", "Standard"),
        "multi_turn_challenge": ("BFCL Multi-Turn", "Challenge"),
        "multi_turn": ("BFCL Multi-Turn", "Avg."),
        "non_live": ("Single-Turn", "Non-Live"),
        "live": ("Single-Turn", "Live"),
    }
    table, lines = published_modules("diffuagent_table6", [("bfcl", name) for name in columns])
    roles = {agent: inputs.config.agents[agent].backbones for agent in inputs.players("bfcl")}
    helped = [agent for agent in roles if {"selector", "editor"} & set(roles[agent])]
    policies = {roles[agent]["policy"] for agent in helped}
    ours = []
    for agent in roles:
        if agent not in helped and not (inputs.alone(agent) and roles[agent].get("policy") in policies):
            continue
        modules = [f"{role}={roles[agent][role]}" for role in ("selector", "editor") if role in roles[agent]]
        found = bfcl_rows(inputs, agent, list(columns), {})
        if "selector" in roles[agent]:
            saved = pd.Series(measured(inputs.rows(agent, "bfcl"), "selector_saved_calls")).dropna().tolist()
            found.append(mean_row(agent, "bfcl", "", "selector_saved_calls", saved, inputs.config.seed))
        name = f"{agent} ({', '.join([roles[agent]['policy'], *modules])})" if modules else f"{agent}, w/o"
        cells = [cell(row) for row in found]
        ours.append((name, cells + [""] * (len(columns) + 1 - len(cells))))
        table += [row.model_copy(update={"category": ";".join(filter(None, [*modules, row.category]))}) for row in found]
    lines = [Block(block.title, [(name, [*cells, ""]) for name, cells in block.rows]) for block in lines]
    heads = [*columns.values(), ("Selector", "Calls saved")]
    return Table(table, Layout("Agent + modules", heads, [*lines, own_block(ours, len(heads))]))


def searcher_table1(inputs: Inputs) -> Table:
    """DLLM-Searcher Table 1: multi-hop questions by set; ACC_R by the containment rule, ACC_L by the LLM judge over the verdicts that
    could be parsed. Unparsable verdicts and the agreement with a second judge are rows of the CSV."""
    sets = ("hotpotqa", "2wiki", "bamboogle", "musique", "average")
    table = published_rows("searcher_table1")
    agents = inputs.players("multihop_qa")
    for agent in agents:
        scores = inputs.rows(agent, "multihop_qa")
        for name in sets:
            part = scores.iloc[:0] if name == "average" else scores[scores["category"] == name]
            table += _accuracies(agent, name, part, inputs.errors(agent, "multihop_qa", [name]))
        other = scores[~scores["category"].isin(sets)]
        names = set(inputs.scores("multihop_qa")["category"]) - set(sets)
        table += _accuracies(agent, "other sets", other, inputs.errors(agent, "multihop_qa", names))
        table += _judges(agent, scores) + error_rows(inputs, agent, "multihop_qa")
    columns = [("multihop_qa", name, metric) for name in (*sets, "other sets") for metric in ("acc_r", "acc_l")]
    titles = {"hotpotqa": "HotpotQA", "2wiki": "2Wiki", "bamboogle": "Bamboogle", "musique": "MuSiQue", "average": "Avg."}
    labels = [(titles.get(name, "Other sets"), label) for name in (*sets, "other sets") for label in ("ACC_R", "ACC_L")]
    return Table(table, arrange(inputs, table, columns, labels, "Model", agents))


def _accuracies(agent: str, name: str, part: pd.DataFrame, errors: Errors) -> list[TableRow]:
    parsed = part[part["judge"].isin(["correct", "incorrect"])]
    judged = errors if len(parsed) or not len(part) else NO_ERRORS  # without a judge it is not for errors that there is no verdict
    return [
        rate_row(agent, "multihop_qa", name, "acc_r", int(part["success"].sum()), len(part), errors=errors),
        rate_row(agent, "multihop_qa", name, "acc_l", int((parsed["judge"] == "correct").sum()), len(parsed), errors=judged),
    ]


def _judges(agent: str, scores: pd.DataFrame) -> list[TableRow]:
    """How many verdicts could not be parsed, and how far two judges agree (raw, percent, and Cohen's kappa)."""
    judged = scores[scores["judge"].notna()]
    if judged.empty:
        return []
    rows = [rate_row(agent, "multihop_qa", "all", "judge_unparsable", int((judged["judge"] == "unparsable").sum()), len(judged))]
    both = judged[judged["second_judge"].notna()]
    if both.empty:
        return rows
    from dllm_agents.client.judge import judge_agreement  # brings an HTTP client, which no other table needs

    found = judge_agreement(both["judge"].tolist(), both["second_judge"].tolist())
    values = {"judge_agreement": found.agreement and 100 * found.agreement, "judge_kappa": found.kappa}
    return rows + [
        TableRow(agent=agent, benchmark="multihop_qa", category="all", metric=metric, n=found.n, value=value)
        for metric, value in values.items()
    ]


def diffuagent_table4(inputs: Inputs) -> Table:
    """DiffuAgent Table 4: the embodied test sets and an example trajectory of each, from a real episode: a solved one of 3 to 10 steps by
    the first agent with a backbone that has one, else the teacher's."""
    rows, lines, examples = published_rows("diffuagent_table4"), [], {}
    sizes = {row.benchmark: row.published for row in rows}
    for benchmark in EMBODIED:
        tasks = len(inputs.tasks(benchmark))
        known = sizes[benchmark]
        rows.append(TableRow(agent="this run", benchmark=benchmark, metric="tasks", n=tasks, value=tasks or None, published=known))
        chosen = next(
            (episode for agent in (*inputs.agents, *inputs.baselines) if (episode := shown_episode(inputs, agent, benchmark)) is not None),
            None,
        )
        counts = [str(tasks) if tasks else NOT_RUN, number(known or 0).removesuffix(".0")]
        if chosen is None:
            lines.append((display_name(benchmark), [*counts, NOT_RUN, NOT_RUN]))
            continue
        rows.append(
            TableRow(
                agent=chosen.agent,
                benchmark=benchmark,
                category=chosen.task_id,
                metric="example_steps",
                n=1,
                value=float(len(chosen.steps)),
            )
        )
        lines.append((display_name(benchmark), [*counts, chosen.agent, trajectory_text(chosen)]))
        examples[display_name(benchmark)] = {"task": chosen.task_id, "agent": chosen.agent, "benchmark": benchmark}
    heads = [("", name) for name in ("Tasks", "Published", "Agent", "Example task and trajectory")]
    notes = "T, A and O are thought, action and observation; long observations are cut."
    return Table(rows, Layout("Test set", heads, [Block("", lines)]), notes=notes, episodes=examples)


def diffuagent_table5(inputs: Inputs) -> Table:
    """DiffuAgent Table 5: what BFCL-v3's test set is made of, with an example of each category and its call from a real episode: one an
    agent with a backbone solved, else the teacher's."""
    rows = published_rows("diffuagent_table5")
    tasks = list(inputs.tasks("bfcl").values())
    examples = solved_calls(inputs)
    links = {}
    groups: dict[str, list[tuple[str, list[str]]]] = {}
    for known in list(rows):
        group, _, category = known.category.rpartition("/")
        used = [task for task in tasks if task.category == category]
        row = known.model_copy(update={"agent": "this run", "category": category, "value": float(len(used)) if used else None})
        rows.append(row)
        counts = f"{number(known.published or 0).removesuffix('.0')} ({known.n})"
        # A manuscript's fonts do not reach every script, so a question in Latin letters is shown where there is one.
        solved = sorted((task for task in used if task.id in examples), key=lambda task: not task.goal.isascii())
        task = next(iter(solved), None)
        agent, text = ("", NOT_RUN) if task is None else (examples[task.id].agent, call_text(task, examples[task.id]))
        if task is not None:
            links[category] = {"task": task.id, "agent": agent, "benchmark": "bfcl"}
        groups.setdefault(group, []).append((category, [str(len(used)) if used else NOT_RUN, counts, agent or NOT_RUN, text]))
    heads = [("", name) for name in ("Used", "Published (of)", "Agent", "Example and tool call")]
    notes = "U, T and TC are the user's message, the tools offered and the tool call made; the hallucination sets call for none."
    return Table(rows, Layout("Category", heads, [Block(group, lines) for group, lines in groups.items()]), notes=notes, episodes=links)


def searcher_table2(inputs: Inputs) -> Table:
    """DLLM-Searcher Table 2: the same diffusion backbone vanilla, after SFT, and after SFT + VRPO, on the published sets and on every
    benchmark where this run has both; gains are paired over tasks."""
    sets = ("hotpotqa", "2wiki", "bamboogle", "musique")
    keys = [(name, metric) for name in sets for metric in ("acc_r", "acc_l")]
    table = published_rows("searcher_table2")
    known = {(row.agent, row.category, row.metric): row.published for row in table}
    trained, ready = training_stages(inputs)
    measured = [name for name in inputs.config.run.benchmarks if any(name in pair for *_, pair in trained)] or ["multihop_qa"]
    published_lines = []
    for agent in dict.fromkeys(row.agent for row in table):
        cells = []
        for name, metric in keys:
            value, gain = known.get((agent, name, metric)), known.get((agent, name, f"{metric}_gain"))
            cells.append(NOT_RUN if value is None else number(value) + (f" (+{number(gain)})" if gain is not None else ""))
        published_lines.append((agent, [*cells, *[""] * len(measured)]))
    lines: list[tuple[str, list[str]]] = []
    for label, agent, base in [*ready, *((label, agent, base) for label, agent, base, _ in trained)]:
        scores = inputs.rows(agent, "multihop_qa")
        found = [
            row
            for name in sets
            for row in _accuracies(agent, name, scores[scores["category"] == name], inputs.errors(agent, "multihop_qa", [name]))
        ]
        outcomes = [stage_row(inputs, agent, base, name) for name in measured]
        table += [row.model_copy(update={"category": f"{label};{row.category}"}) for row in found]
        table += [row.model_copy(update={"category": label}) for row in outcomes]
        lines.append((f"{agent} ({label})", [*map(cell, found), *map(cell, outcomes)]))
    titles = {"hotpotqa": "HotpotQA", "2wiki": "2Wiki", "bamboogle": "Bamboogle", "musique": "MuSiQue"}
    heads = [(titles[name], metric.upper()) for name, metric in keys] + [(display_name(name), "Success or gain") for name in measured]
    blocks = [Block(PUBLISHED_BLOCK, published_lines), own_block(lines, len(heads))]
    notes = "In the last columns a row of VRPO is its gain in success (points) over the row of its SFT model, on the same tasks."
    return Table(table, Layout("Model", heads, blocks), notes=notes)


def searcher_table3(inputs: Inputs) -> Table:
    """DLLM-Searcher Table 3: how replies of search agents fail to be read, in the published classes and the rest (% of questions)."""
    kinds = [*FORMAT_FAILURES, "none"]
    rows = [row for row in published_rows("searcher_table3") if row.metric == "share"]
    shown: dict[str, dict[str, TableRow]] = {}
    for row in rows:
        shown.setdefault(row.agent, {})[row.category] = row
    known = [
        (agent, [str(next(iter(by_kind.values())).n), *("" if kind not in by_kind else cell(by_kind[kind]) for kind in kinds)])
        for agent, by_kind in shown.items()
    ]
    ours = []
    for agent in inputs.agents:
        if "multihop_qa" in inputs.config.agent_benchmarks(agent) and inputs.config.agents[agent].workflow is None:
            found = format_failure_rows(inputs, agent)
            rows += found
            ours.append((agent, [str(found[0].n or 0), *map(cell, found)]))
    heads = [("", name) for name in ("n", *kinds)]
    return Table(rows, Layout("Model", heads, [Block(PUBLISHED_BLOCK, known), own_block(ours, len(heads))]))


def searcher_case_study(inputs: Inputs) -> Table:
    """DLLM-Searcher section 5.4: which tokens of a first turn stand at step 32, from real traces: one turn in full per diffusion agent, and
    the shares over all of its first turns that make a call."""
    rows: list[TableRow] = []
    lines = []
    for agent in inputs.agents:
        if inputs.paradigm(agent) != "diffusion" or "multihop_qa" not in inputs.config.agent_benchmarks(agent):
            continue
        if inputs.config.agents[agent].workflow is not None:
            continue
        rows += settled_rows(inputs, agent)
        case = next(calling_steps(inputs, agent), None)
        if case is None:
            lines.append((agent, [NOT_RUN] * 4))
            continue
        episode, step, parts = case
        last = max(step.trace or [0]) + 1
        lines.append((f"{agent}: {episode.goal}", [""] * 4))
        for forward in dict.fromkeys((min(CASE_STEP, last), last)):
            cells = [canvas_at(step, parts[kind], forward) if kind in parts else "" for kind in ("think", "tool_call")]
            lines.append(("", [f"{forward} of {last}", *cells, str(sum(settled < forward for settled in step.trace or []))]))
    if not lines:
        rows.append(TableRow(agent="this run", benchmark="multihop_qa", metric=f"settled_at_step_{CASE_STEP}", n=0))
        lines.append(("no diffusion agent searches", [NOT_RUN] * 4))
    shares = [
        (row.agent, ["", f"{row.category}: {row.metric}".replace("_", " "), cell(row), str(row.n)]) for row in rows if row.value is not None
    ]
    heads = [("", name) for name in ("Forward", "Thought", "Call", "Tokens settled")]
    blocks = [
        Block("One turn of each agent", lines),
        *([Block("Share of tokens (%) over all first turns with a call", shares)] if shares else []),
    ]
    notes = (
        f"{HIDDEN} is a token that is still masked. The paper looks at step {CASE_STEP} of a block of 128; turns that end before it "
        "are shown at their end."
    )
    return Table(rows, Layout("Agent", heads, blocks), notes=notes)


def dllm_agent_planning(inputs: Inputs) -> Table:
    """DLLM Agent: what a planner's plans were worth, on questions whose gold hops are known. The definitions are this project's own, since
    of the paper only the abstract is public."""
    rows: list[TableRow] = []
    lines = []
    for agent in inputs.agents:
        if inputs.config.agents[agent].workflow == "planner" and "multihop_qa" in inputs.config.agent_benchmarks(agent):
            found = planning_rows(inputs, agent)
            rows += found
            lines.append((agent, [inputs.paradigm(agent), str(found[0].n or 0), *map(cell, found)]))
    heads = [
        ("", name)
        for name in (
            *("Paradigm", "n", "ACC_R", "Planner hit rate", "Hop recall", "Full coverage", "First full round", "Backtracks"),
            *("Rounds (solved)", "Searches (solved)"),
        )
    ]
    if not lines:
        rows.append(TableRow(agent="this run", benchmark="multihop_qa", category="first plan", metric="planner_hit_rate", n=0))
        lines.append(("no planner agent", [NOT_RUN] * len(heads)))
    notes = (
        "A first plan hits when it covers every gold hop with one step each; backtracks are later sub-questions that ask again what was "
        "asked or found. The abstract claims higher hit rates, earlier convergence and less backtracking of diffusion agents, but gives "
        "no numbers."
    )
    return Table(rows, Layout("Agent", heads, [Block("", lines)]), notes=notes)


def dllm_agent_attention(inputs: Inputs) -> Table:
    """DLLM Agent: where a planning agent's replies look while they are decoded, by workflow stage."""
    rows = attention_rows(inputs)
    columns = [*ATTENTION_SPANS, "entropy"]
    lines = []
    for agent, stage in dict.fromkeys((row.agent, row.category) for row in rows):
        cells = {row.metric: row for row in rows if (row.agent, row.category) == (agent, stage)}
        looks = [inputs.paradigm(agent), stage, str(cells["entropy"].n or 0)]
        lines.append((agent, [*looks, *(cell(cells[name]) for name in columns)]))
    heads = [("", name) for name in ("Paradigm", "Stage", "Replies", *ATTENTION_SPANS.values(), "Entropy")]
    if not lines:
        rows = [TableRow(agent="this run", benchmark="multihop_qa", category="plan", metric="entropy", n=0)]
        lines = [("no planner agent", [NOT_RUN] * len(heads))]
    return Table(rows, Layout("Agent", heads, [Block("", lines)]))


def dllm_agent_efficiency(inputs: Inputs) -> Table:
    """What episodes cost: forward evaluations per kept token, tokens and steps per episode, forwards per solved task; of matched diffusion
    and AR agents also rounds over the tasks that both solve. Seconds, their p50 and p95, and time ratios stand with the timing."""
    table: list[TableRow] = []
    timing: list[TableRow] = []
    lines = []
    metrics = (
        "nfe_per_token",
        "tokens_per_step",
        "steps_per_episode",
        "forwards_per_success",
        "seconds_per_step",
        "p50_s",
        "p95_s",
        "tokens_per_second",
    )
    for benchmark in inputs.config.run.benchmarks:
        for agent in (name for name in inputs.players(benchmark) if name not in inputs.baselines):
            costs = cost_rows(inputs, agent, benchmark)
            clock = clock_rows(inputs, agent, benchmark)
            table += costs
            timing += clock
            cells = {row.metric: row for row in (*costs, *clock)}
            why = costs[0].missing
            shown = [why if name not in cells or cells[name].value is None else number(cells[name].value or 0.0) for name in metrics]
            lines.append((f"{agent}, {display_name(benchmark)}", [counted(costs[0].n, inputs.errors(agent, benchmark)), *shown]))
    for first, second, benchmark in matched_pairs(inputs):
        pair, clock = solved_by_both(inputs, first, second, benchmark)
        table += pair
        timing += clock
    heads = ("n", "NFE per token", "Tokens per step", "Steps", "Forwards per success", "s per step", "p50 (s)", "p95 (s)", "Tokens/s")
    ratios = {(row.agent, row.benchmark, row.category): row for row in timing if row.metric == "time_ratio"}
    pairs = [
        (
            f"{row.agent} {row.category}, {display_name(row.benchmark)}",
            [str(row.n), "", "", f"{cell(row)}", "", f"× {cell(ratios.get((row.agent, row.benchmark, row.category)))}", "", "", ""],
        )
        for row in table
        if row.metric == "rounds_difference"
    ]
    blocks = [
        Block("Per agent", lines),
        *([Block("On the tasks that both solve: difference in steps, ratio of seconds", pairs)] if pairs else []),
    ]
    return Table(table, Layout("Agent", [("", name) for name in heads], blocks), timing, notes="Published: over 30 % less time on average.")


def dllm_agent_tool_errors(inputs: Inputs) -> Table:
    """Tool calls by what is wrong with them: share of BFCL's single-turn entries that call for a tool (no hallucination sets) which are
    well formed, name the right functions, and are right."""
    calling = [category for category in BFCL_SINGLE_TURN if "relevance" not in category]
    table: list[TableRow] = []
    lines = []
    for agent in inputs.players("bfcl"):
        scores, found = inputs.rows(agent, "bfcl"), inputs.failures("bfcl")
        scores = scores[scores["category"].isin(calling)]
        found = found[(found["agent"] == agent) & found["task_id"].isin(scores["task_id"])]
        n = len(scores) if inputs.classified(agent, "bfcl") else 0
        errors = inputs.errors(agent, "bfcl", calling)
        malformed = set(found[found["kind"].isin(["schema", "format", "empty", "prompt_too_long"])]["task_id"])
        misnamed = malformed | set(found[found["kind"] == "wrong_function"]["task_id"])
        correct = int(scores["success"].sum()) if n else 0
        made = [
            rate_row(agent, "bfcl", "", "well_formed", n - len(malformed) if n else 0, n, errors=errors),
            rate_row(agent, "bfcl", "", "right_function", n - len(misnamed) if n else 0, n, errors=errors),
            rate_row(agent, "bfcl", "", "correct", correct, n, errors=errors),
        ]
        table += made
        lines.append((agent, [counted(n, errors), *map(cell, made)]))
    heads = [("", name) for name in ("n", "Well formed", "and right function", "Correct")]
    return Table(table, Layout("Agent", heads, [Block("", lines)]))


TABLES: dict[str, Callable[[Inputs], Table]] = {
    "diffuagent_table1": diffuagent_table1,
    "diffuagent_table2": diffuagent_table2,
    "comparisons": comparisons,
    "failures": failures,
    "trajectory_filter": trajectory_filter,
    "serving": serving,
    "claims": claims,
    "diffuagent_table3": diffuagent_table3,
    "diffuagent_table6": diffuagent_table6,
    "searcher_table1": searcher_table1,
    "dllm_agent_efficiency": dllm_agent_efficiency,
    "dllm_agent_attention": dllm_agent_attention,
    "dllm_agent_tool_errors": dllm_agent_tool_errors,
    "diffuagent_table4": diffuagent_table4,
    "diffuagent_table5": diffuagent_table5,
    "searcher_table2": searcher_table2,
    "searcher_table3": searcher_table3,
    "searcher_case_study": searcher_case_study,
    "dllm_agent_planning": dllm_agent_planning,
    "dllm_agent_masking": dllm_agent_masking,
}


def episode_link(config: Config, name: str, examples: Mapping[str, dict[str, str]]) -> Callable[[str, str, tuple[str, str]], str | None]:
    """Where the episodes behind a table's cells are: the browser page, filtered by agent, benchmark and, in `failures`, the class; where a
    row shows an example, that very episode."""
    benchmarks = {display_name(benchmark): benchmark for benchmark in config.run.benchmarks}
    read = {group for _, group in NEEDS[name]} & set(config.run.benchmarks)
    alone = next(iter(read)) if len(read) == 1 else None

    def link(title: str, label: str, column: tuple[str, str]) -> str | None:
        if label in examples and column[1].startswith(("Agent", "Example")):
            return f"../episodes.html#{urlencode(examples[label])}"
        agent = next((part for part in re.split(r"[ ,(]", label) if part in config.agents), None)
        if agent is None or title == PUBLISHED_BLOCK:
            return None
        wanted = {"agent": agent}
        shown = " ".join((title, label, *column))
        benchmark = next((key for text, key in benchmarks.items() if text in shown), alone)
        if benchmark is not None:
            wanted["benchmark"] = benchmark
        if name == "failures" and column[1].replace(" ", "_") in TAXONOMY:
            wanted["failure"] = column[1].replace(" ", "_")
        return f"../episodes.html#{urlencode(wanted)}"

    return link


def tabulate(name: str, config: Config, results_dir: str | Path, output_base: str | Path) -> list[Path]:
    """Write a table from a run's results as `<output_base>.csv`, `.md`, `.tex` and `.html`, and `<output_base>_timing.csv` where it has
    wall-clock metrics; returns the paths. Missing scores make exactly the cells "not run". Raises StageError for an unknown table."""
    if name not in TABLES:
        raise StageError(f"{name}: unknown table; allowed: {', '.join(sorted(TABLES))}")
    table = TABLES[name](Inputs(config, Path(results_dir)))
    text = f"{caption(name, config)} {table.notes}".strip()
    base = Path(output_base)
    texts = {
        f"{base}.csv": to_csv(table.rows),
        f"{base}.md": to_markdown(table.layout, text),
        f"{base}.tex": to_latex(table.layout, text, name),
        f"{base}.html": to_html(table.layout, text, name, episode_link(config, name, table.episodes)),
    }
    if table.timing:
        texts[f"{base}_timing.csv"] = to_csv(table.timing)
    for path, content in texts.items():
        with write_aside(path) as handle:
            handle.write(content)
    return [Path(path) for path in texts]
