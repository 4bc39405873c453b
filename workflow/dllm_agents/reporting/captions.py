"""Captions: what a table or figure shows, on which tasks, and where these differ from the paper's. From the configuration alone, since
the workflow reads them on every start; sample sizes stand in the tables themselves."""

from __future__ import annotations

from dllm_agents import dependencies
from dllm_agents.catalogue import Entry
from dllm_agents.config import EMBODIED, TITLES, Config
from dllm_agents.layout import PROMPTS
from dllm_agents.prompts import KEPT_STEPS, SLOTS, slot
from dllm_agents.reporting.deviations import deviations

_INTERVALS = "Brackets: 95 % intervals (Wilson for rates and for means of outcomes that are all alike, else percentile bootstrap)."
_PUBLISHED = "Published rows are the paper's numbers, not runs of ours."


def display_name(benchmark: str) -> str:
    """A benchmark's name as readers know it."""
    return TITLES.get(benchmark, benchmark)


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
    return options.note(longest, levels)
