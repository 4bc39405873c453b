"""What each result depends on, said once: rules list it as `params`, journals and training states are fingerprinted with it.

An option counts for everything that reads its section, unless its field says what alone it `reruns` (`config.section`). The files a
result is made from are not named here: Snakemake compares their times, `fingerprint` their content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dllm_agents import catalogue, prompts
from dllm_agents.config import EMBODIED, QUESTIONS, Config, Section
from dllm_agents.config.roles import MODULES, WORKFLOWS
from dllm_agents.decoding.settings import Decoding
from dllm_agents.provenance import sha256

Settings = dict[str, Any]
# Times of episodes on these benchmarks are results (Figure 3 of DLLM-Searcher), so that what runs beside an episode counts.
TIMED = QUESTIONS
# Keys of a backbone and of an agent that are taken for one benchmark at a time, or that only say which jobs there are, or are a label.
OF_ONE_BENCHMARK = {
    "benchmarks", "tasks", "decoding", "benchmark_decoding", "context", "benchmark_context", "prompt", "training", "paradigm",
}  # fmt: skip


def of_tasks(config: Config, benchmark: str, split: str) -> Settings:
    """Frozen tasks of a split: `test`, `train` or `pairs`."""
    return {"seed": config.seed} | config.benchmark_options(benchmark).settings("evaluation" if split == "test" else "training")


def of_trajectories(config: Config, benchmark: str) -> Settings:
    """A teacher's trajectories, beside their tasks."""
    settings = of_tasks(config, benchmark, "train")
    teacher = config.benchmark_options(benchmark).teacher
    if teacher is None:
        return settings
    decoding = _dump(config.role_decoding(teacher, "policy", benchmark))
    return settings | {
        "teacher": _backbone(config, teacher, benchmark) | {"decoding": decoding},
        "prompt": _prompt(config, teacher, benchmark),
    }


def of_filter(config: Config, benchmark: str) -> Settings:
    """Which trajectories are accepted, beside these."""
    return _judges(config, benchmark)


def of_pairs(config: Config, backbone: str, benchmarks: Iterable[str]) -> Settings:
    """Pairs of rollouts of a backbone's base on the training tasks of benchmarks, beside tasks and checkpoints."""
    training, base = config.backbones[backbone].training, config.trained_base(backbone)
    assert training is not None and training.preference is not None and base is not None
    preference = training.preference.model_dump(mode="json", include={"queries", "seeds", "temperature", "acting"})
    order = {"order": "sequential"} if training.objective == "just_grpo" else {}
    played = {
        name: {
            "decoding": _dump(config.role_decoding(base, "policy", name)),
            "prompt": _prompt(config, base, name),
            "context": config.backbones[base].context_on(name),
        }
        for name in benchmarks
    }
    return preference | order | {"seed": config.seed, "base": _backbone(config, base), "benchmarks": played}


def of_checkpoint(config: Config, backbone: str, benchmark: str) -> Settings:
    """Trained weights, beside trajectories or pairs and a base trained here."""
    entry = config.backbones[backbone]
    assert entry.training is not None
    settings = entry.training.settings() | {"run_seed": config.seed, "dtype": entry.dtype}
    if entry.training.launch is not None:  # a step takes as many batches as there are processes
        settings["processes"] = entry.training.nodes * max(1, entry.training_gpus)
    if entry.training.mixture:
        return settings | {"taught": {name: _taught(config, backbone, name) for name in entry.training.mixture}}
    return settings | _taught(config, backbone, benchmark)


def _taught(config: Config, backbone: str, benchmark: str) -> Settings:
    """What a benchmark's part of a training depends on."""
    options, teams = config.benchmark_options(benchmark), config.team_workflows(benchmark)
    settings = {
        "budget": options.training.settings(),
        "max_steps": options.max_steps,
        "prompt": _prompt(config, backbone, benchmark, teams),
    }
    if not config.acts_alone(backbone, benchmark):
        settings["acts_alone"] = False
    orders = config.call_orders(backbone, benchmark)
    return settings | ({"teams": teams} if teams else {}) | ({"call_orders": orders} if orders != [False] else {})


def of_probe(config: Config, backbone: str) -> Settings:
    """What a probe measures, beside the checkpoint."""
    entry, run = config.backbones[backbone], config.run
    return {
        "backbone": _of_any_benchmark(entry) | {"context": entry.context, "decoding": _dump(entry.decoding)},
        "concurrency": run.probe_concurrency,
        "requests": run.probe_requests,
    }


def of_episodes(config: Config, agent: str, benchmark: str) -> Settings:
    """An agent's episodes on a benchmark, beside tasks, checkpoints and the trajectories of a tool graph."""
    entry, roles, workflow = config.agents[agent], config.agent_backbones(agent, benchmark), config.workflow(agent, benchmark)
    # Modules and keys of workflows that are not played here say nothing.
    elsewhere = {key for other in WORKFLOWS.values() for key in (*other.roles, *other.keys)} - {*roles, *WORKFLOWS[workflow].keys, "policy"}
    elsewhere |= {"options"} | ({"workflow"} if workflow != entry.workflow else set())
    policy, chosen = config.backbones.get(entry.policy), config.workflow_options(agent, benchmark)
    settings: Settings = {
        "agent": {key: value for key, value in _of_any_benchmark(entry).items() if key not in elsewhere},
        "tasks": entry.tasks.get(benchmark) or (policy.tasks.get(benchmark) if policy else None),
        "backbones": {
            role: _backbone(config, name, benchmark) | {"decoding": _dump(config.decoding(agent, role, benchmark))}
            for role, name in roles.items()
        },
        "prompts": {role: prompts.readers_sha256(prompts.MODULE_STYLE, (role,), benchmark) for role in roles if role in MODULES},
        # Named here too, since Snakemake takes a small input that was remade with the same bytes as unchanged.
        "options": of_tasks(config, benchmark, "test"),
    }
    settings |= {"workflow": chosen} if chosen else {}
    if policy is not None:
        dialect = [prompts.DIALECTS] if config.dialect(agent, benchmark) else []
        settings["prompts"]["policy"] = _prompt(config, entry.policy, benchmark, [workflow, *dialect])
        settings |= {"concurrency": entry.concurrency} if benchmark in TIMED else {}
    return settings


def of_exits(config: Config, benchmark: str) -> Settings:
    """What replayed verifiers say of stored episodes, beside these and checkpoints."""
    settings = config.run.verification
    return settings.settings() | {
        "seed": config.seed,
        "backbones": {
            name: _backbone(config, name, benchmark) | {"decoding": _dump(config.role_decoding(name, "verifier", benchmark))}
            for name in settings.backbones
        },
        "prompt": prompts.readers_sha256(prompts.MODULE_STYLE, ("verifier",), benchmark),
    }


def of_scores(config: Config, benchmark: str) -> Settings:
    """Scores, beside episodes and tasks."""
    return _judges(config, benchmark)


def of_failures(config: Config) -> Settings:
    """Classified failures, beside episodes, scores and tasks."""
    return {"loop_length": config.report.loop_length}


def of_result(config: Config, name: str) -> Settings:
    """A table or figure, beside the files it is made from: its style, the agents it has rows of, the benchmarks it shows."""
    shown = shown_benchmarks(config, name)
    agents = [agent for agent in config.run.agents if set(shown) & set(config.agent_benchmarks(agent))]
    report = config.report.settings()
    for key in ("tables", "figures", "style"):
        report.pop(key, None)
    return report | {
        "style": config.report.style.get(name, {}),
        "agents": {agent: _digest(_row(config, agent)) for agent in agents},
        "benchmarks": {benchmark: config.benchmark_options(benchmark).settings("evaluation", "judging") for benchmark in shown},
    }


def shown_benchmarks(config: Config, name: str) -> list[str]:
    """The benchmarks of the run that a table or figure shows."""
    shown = {benchmark for entry in catalogue.named(name) for group in entry.needs.values() for benchmark in benchmarks_of(config, group)}
    return [benchmark for benchmark in config.run.benchmarks if benchmark in shown]


def benchmarks_of(config: Config, group: str) -> list[str]:
    """The benchmarks of the run in a group of the catalogue: `all`, `embodied`, `questions`, or one benchmark."""
    chosen = {"embodied": EMBODIED, "questions": QUESTIONS, "all": tuple(config.run.benchmarks)}.get(group, (group,))
    return [benchmark for benchmark in config.run.benchmarks if benchmark in chosen]


def fingerprint(settings: Mapping[str, Any], files: Mapping[str, Path | None]) -> str:
    """SHA-256 of settings and of the content of the files, or folders, that a result is made from."""
    parts = {"settings": settings, "files": {name: sha256(path) for name, path in files.items() if path is not None}}
    return _digest(parts)


def _of_any_benchmark(section: Section) -> Settings:
    return {key: value for key, value in section.settings().items() if key not in OF_ONE_BENCHMARK}


def _backbone(config: Config, name: str, benchmark: str | None = None) -> Settings:
    """What a backbone is, wherever it is served."""
    entry = config.backbones[name]
    return {"name": name, "context": entry.context_on(benchmark)} | _of_any_benchmark(entry)


def _prompt(config: Config, backbone: str, benchmark: str, workflows: Sequence[str] = ()) -> str:
    """Hash of the prompts that a backbone reads on a benchmark, in the benchmark's own workflow and in others."""
    readers = dict.fromkeys([config.benchmark_options(benchmark).workflow, *workflows])
    return prompts.readers_sha256(config.backbones[backbone].prompt, tuple(readers), benchmark)


def _dump(decoding: Decoding) -> Settings:
    return decoding.model_dump(mode="json", exclude_defaults=True)


def _row(config: Config, agent: str) -> Settings:
    """What a table may say of an agent without reading its episodes: its workflow, modules and backbones, and how these were trained."""
    backbones = {role: config.backbones[name].settings() for role, name in config.agents[agent].backbones.items()}
    return {"agent": config.agents[agent].settings(), "backbones": backbones}


def _judges(config: Config, benchmark: str) -> Settings:
    """The LLM judges of a benchmark that has some; where they are served changes nothing that they say."""
    options = config.benchmark_options(benchmark)
    named = [(getattr(options, f"{judge}_url", None), getattr(options, f"{judge}_model", None)) for judge in ("judge", "second_judge")]
    judges = [model for url, model in named if url and model]
    return {"judges": judges, "prompt": prompts.readers_sha256("judge", ("judge",))} if judges else {}


def _digest(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
