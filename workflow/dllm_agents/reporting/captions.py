"""Captions: what a table or figure shows, on which tasks, and where these differ from the paper's. From the configuration alone, since
the workflow reads them on every start; sample sizes stand in the tables themselves."""

from __future__ import annotations

from dllm_agents import dependencies
from dllm_agents.catalogue import Entry
from dllm_agents.config import (
    BFCL_MULTI_TURN,
    BFCL_SINGLE_TURN,
    EMBODIED,
    ALFWorldOptions,
    BabyAIOptions,
    BFCLOptions,
    BrowseCompOptions,
    Config,
    ScienceWorldOptions,
)
from dllm_agents.layout import PROMPTS
from dllm_agents.prompts import KEPT_STEPS, SLOTS, slot
from dllm_agents.reporting.deviations import deviations

_NAMES = {
    "alfworld": "ALFWorld",
    "babyai": "BabyAI",
    "bfcl": "BFCL-v3",
    "browsecomp_zh": "BrowseComp-ZH",
    "multihop_qa": "multi-hop QA",
    "scienceworld": "ScienceWorld",
}
_INTERVALS = "Brackets: 95 % intervals (Wilson for rates and for means of outcomes that are all alike, else percentile bootstrap)."
_PUBLISHED = "Published rows are the paper's numbers, not runs of ours."


def display_name(benchmark: str) -> str:
    """A benchmark's name as readers know it."""
    return _NAMES.get(benchmark, benchmark)


def caption(entry: Entry, config: Config) -> str:
    """The caption of a table or figure: title, tasks and step cap of every benchmark it reads, deviations from the papers, seed."""
    return " ".join(filter(None, (own_caption(entry), setting(entry, config))))


def own_caption(entry: Entry) -> str:
    """What a result shows: the part of its caption that no other has."""
    return " ".join([entry.title, *([_PUBLISHED] if entry.paper in ("DiffuAgent", "DLLM-Searcher") else [])])


def setting(entry: Entry, config: Config) -> str:
    """On which tasks, with which intervals and seed: the part of a caption that results of the same benchmarks share."""
    groups = set(entry.needs.values())
    shown = {name for group in groups for name in dependencies.benchmarks_of(config, group)}
    read = [name for name in config.run.benchmarks if name in shown]
    parts = []
    if not set(entry.needs) <= {"serving", "models"}:
        parts += [benchmark_note(name, config, levels=entry.name == "diffuagent_table1") for name in read]
        parts.append(f"{_INTERVALS} Seed {config.seed}, scale {config.scale}.")
    if entry.paper == "DiffuAgent" and (embodied := [name for name in read if name in EMBODIED]):
        parts.append(prompt_note(embodied, config))
    if entry.paper and (changed := list(deviations(entry.paper, config, read))):
        parts.append(f"Settings that are not the published ones: {' '.join(changed)}")
    if groups & {"embodied", "all", "bfcl"} and config.report.allow_mixed_versions:
        parts.append("MIXED VERSIONS: rows of several package or benchmark versions are allowed in this run.")
    return " ".join(parts)


def prompt_note(benchmarks: list[str], config: Config) -> str:
    """What embodied agents of the run are shown: the slots of their prompts that are filled, and how far back they see."""
    agents = [config.agents[name] for name in config.run.agents if set(benchmarks) & set(config.agent_benchmarks(name))]
    styles = dict.fromkeys(config.backbones[agent.policy].prompt for agent in agents if agent.policy in config.backbones)
    parts = []
    for style in styles:
        filled = [display_name(name) for name in benchmarks if all(slot(style, folder, name) for folder in SLOTS)]
        ours = " of our own" if (PROMPTS / style).is_dir() else ""
        shots = f"with an instruction and an example{ours} for {', '.join(filled)}" if filled else "without instruction and example"
        parts.append(f"prompt {style} {shots}")
    seen = {agent.history for agent in agents}
    windows = {"full": "agents see all earlier steps", "recent": f"those without memory (w/o) the last {KEPT_STEPS['recent']}"}
    parts += [text for history, text in windows.items() if history in seen]
    return f"Embodied agents: {'; '.join(parts)}."


def benchmark_note(name: str, config: Config, *, levels: bool = True) -> str:
    """A benchmark's tasks and limits in this run, and how they differ from the published ones; BabyAI's levels by name with `levels`."""
    options = config.benchmark_options(name)
    playing = [config.agents[agent] for agent in config.run.agents if name in config.agent_benchmarks(agent)]
    own = {agent.max_steps or options.max_steps for agent in playing} if options.workflow == "react" else set()
    longest = sorted(own or {options.max_steps})
    cap = f"at most {' or '.join(map(str, longest))} steps"
    sample = f", {options.tasks} tasks drawn" if options.tasks else ""
    if isinstance(options, BabyAIOptions):
        named = f" ({', '.join(options.levels)})" if options.levels and levels else ""
        played = f"{len(options.levels)} levels{named}" if options.levels else "the 28 levels of AgentBoard"
        published = options.levels is None and options.tasks is None and (len(options.seeds), longest) == (4, [30])
        note = "" if published else "; not the published 112 tasks at 30 steps"
        return f"BabyAI: {played}, {len(options.seeds)} seeds each{sample}, {cap}{note}."
    if isinstance(options, ALFWorldOptions):
        origin = "" if options.data else "; generated games, whose scores are not comparable with published ones"
        return f"ALFWorld: {options.tasks or 'all'} tasks, {cap}{origin}."
    if isinstance(options, ScienceWorldOptions):
        types = f"{len(options.task_types)} task types" if options.task_types else "30 task types"
        origin = "" if options.task_list and not options.tasks else "; not the published 90 tasks"
        return f"ScienceWorld: {types}{sample}, {cap}{origin}."
    if isinstance(options, BFCLOptions):
        absent = [item for item in BFCL_SINGLE_TURN + BFCL_MULTI_TURN if item not in options.categories]
        origin = f"BFCL-v4 in {options.data}" if options.data else "BFCL-v3"
        parts = f"{origin}: {len(options.categories)} of 17 categories, at most {options.per_category} entries each{sample}"
        published = options.per_category == 50 and not (absent or options.data or options.tasks)
        return f"{parts}{', the' if published else '; not the'} published 758 entries."
    if isinstance(options, BrowseCompOptions):
        answers, judge = "revised" if options.revised else "published", options.judge_model or "a rule, not by a judge"
        return f"{display_name(name)}: {options.tasks or 'all'} questions, drawn by seed, {answers} answers, scored by {judge}, {cap}."
    sets = getattr(options, "sets", {})
    origin = "; generated questions, not the published sets" if "generated" in sets else ""
    return f"{display_name(name)}: {', '.join(sets) or 'all'}{sample}, {cap}{origin}."
