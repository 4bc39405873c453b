"""What no section can check alone: names that must exist elsewhere, and settings that must fit one another.

Every check reads a configuration and raises Mistake with the key, what is wrong and what is allowed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import ValidationError

from dllm_agents.catalogue import FIGURES, TABLES, unnamed
from dllm_agents.config.agents import SCRIPTED, Agent
from dllm_agents.config.benchmarks import BENCHMARKS, QUESTIONS
from dllm_agents.config.dialects import DIALECTS
from dllm_agents.config.roles import CALLED, MODULE_ROLES, MODULES, TEAM, WORKFLOWS, Workflow
from dllm_agents.config.run import STAGES
from dllm_agents.config.section import Mistake, explain, require
from dllm_agents.config.training import PREFERENCE
from dllm_agents.decoding.settings import Decoding

if TYPE_CHECKING:
    from dllm_agents.config.configuration import Config

AGENT_KEYS = ("workflow", *dict.fromkeys(key for workflow in WORKFLOWS.values() for key in workflow.keys))
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def names(config: Config) -> None:
    """Names of agents and backbones can be names of files and rules."""
    for kind, entries in (("add", config.add), ("backbones", config.backbones), ("agents", config.agents)):
        for name in entries:
            if not NAME.fullmatch(name):
                raise Mistake(
                    f"{kind}.{name}",
                    "files and rules are named after it; use letters, digits, _, . and -, a letter, digit or _ first",
                )


def references(config: Config) -> None:
    """What the run, the report and the benchmarks name exists."""
    require(config.endpoints, config.backbones, "endpoints", "backbone")
    require(config.resources, STAGES, "resources", "stage")
    require(config.run.benchmarks, BENCHMARKS, "run.benchmarks", "benchmark")
    require(config.run.agents, config.agents, "run.agents", "agent")
    for name in BENCHMARKS:
        if (teacher := config.benchmark_options(name).teacher) is not None:
            require([teacher], config.backbones, f"benchmarks.{name}.teacher", "backbone")
    require(config.run.verification.agents, config.agents, "run.verification.agents", "agent")
    require(config.run.verification.backbones, config.backbones, "run.verification.backbones", "backbone")
    require(config.report.tables, TABLES, "report.tables", "table")
    require(config.report.figures, FIGURES, "report.figures", "figure")
    require(config.report.style, FIGURES, "report.style", "figure")


def agents(config: Config) -> None:
    """Every agent has its backbones and benchmarks, no role or key that none of these can use, and settings that fit together."""
    for name, agent in config.agents.items():
        require([agent.policy], [*SCRIPTED, *config.backbones], f"agents.{name}.policy", "backbone")
        for role, backbone in agent.backbones.items():
            where = f"agents.{name}.{role}.backbone" if role in MODULES else f"agents.{name}.{role}"
            require([backbone], config.backbones, where, "backbone")
        for key in ("benchmarks", "tasks"):
            require(getattr(agent, key) or [], BENCHMARKS, f"agents.{name}.{key}", "benchmark")
        _workflow(name, agent)
        _roles(config, name)
        policy = config.backbones.get(agent.policy)
        if agent.acting == "p_react" and policy is not None and policy.paradigm == "ar":
            raise Mistake(f"agents.{name}.acting", f"p_react decodes the call first, and {agent.policy} from left to right; use tool_first")
        if agent.decoding:
            _decoding(config, name)


def _workflow(name: str, agent: Agent) -> None:
    """The workflow and dialect that an agent names exist, and so do the roles and options it gives that workflow."""
    for key, kind, names in (("workflow", "workflow", chosen_workflows()), ("dialect", "dialect", DIALECTS)):
        if (value := getattr(agent, key)) is not None and value not in names:
            raise Mistake(f"agents.{name}.{key}", unnamed(value, kind, names))
    workflow = WORKFLOWS[agent.workflow] if agent.workflow is not None else Workflow()
    require(agent.roles, [role for role in workflow.roles if role != "policy"], f"agents.{name}.roles", "role")
    require(agent.options, workflow.options, f"agents.{name}.options", "option")
    for key, value in agent.options.items():
        kind_of = type(workflow.options[key])
        fits = isinstance(value, (int, float) if kind_of is float else kind_of) and not isinstance(value, bool)
        if not fits or (not isinstance(value, str) and not 0 <= value < 1e6):
            raise Mistake(f"agents.{name}.options.{key}", f"is {value!r}; write one such as {workflow.options[key]!r}")


def chosen_workflows() -> list[str]:
    """The workflows that an agent can choose in place of a benchmark's own."""
    return [name for name, workflow in WORKFLOWS.items() if workflow.plays]


def _roles(config: Config, name: str) -> None:
    """A role or key has a use on at least one benchmark that the agent plays, or is meant for."""
    agent = config.agents[name]
    backbone = config.backbones.get(agent.policy)
    chosen = agent.benchmarks or (config.run.benchmarks if name in config.run.agents else BENCHMARKS)
    played = [benchmark for benchmark in chosen if backbone is None or benchmark in (backbone.benchmarks or [benchmark])]
    workflows = {config.workflow(name, benchmark): WORKFLOWS[config.workflow(name, benchmark)] for benchmark in played}
    usable = {key for workflow in workflows.values() for key in (*workflow.roles, *workflow.keys)}
    usable |= {"workflow"} if agent.workflow in workflows else set()
    for key in (*MODULE_ROLES, *AGENT_KEYS):
        if (
            not played
            or agent.policy in SCRIPTED
            or key in usable
            or getattr(agent, key) == Agent.model_fields[key].get_default(call_default_factory=True)
        ):
            continue
        verb, noun = ("have no" if len(played) > 1 else "has no", CALLED.get(key, key)) if key in MODULE_ROLES else ("cannot use", "it")
        having = "; ".join(f"workflow {title}: {', '.join(_others(workflow, key)) or 'none'}" for title, workflow in workflows.items())
        way_out = "set workflow: deepdiver or planner, or leave it out" if key in TEAM and "search" in workflows else "leave it out"
        raise Mistake(f"agents.{name}.{key}", f"{', '.join(played)} {verb} {noun} ({having}); {way_out}")


def _others(workflow: Workflow, key: str) -> list[str]:
    """The roles beside the policy, or the keys, that a workflow has in place of one that it has not."""
    return [role for role in workflow.roles if role != "policy"] if key in MODULE_ROLES else list(workflow.keys)


def _decoding(config: Config, name: str) -> None:
    if config.agents[name].policy in SCRIPTED:
        raise Mistake(f"agents.{name}.decoding", f"{config.agents[name].policy} decodes nothing; leave it out")
    for benchmark in config.agent_benchmarks(name):
        try:
            config.decoding(name, next(iter(config.agent_backbones(name, benchmark))), benchmark)
        except ValidationError as error:
            raise explain(error, Decoding, f"agents.{name}.decoding") from None


def backbones(config: Config) -> None:
    """Every backbone names benchmarks that exist; preference optimisation starts from a block-diffusion backbone trained here."""
    for name, backbone in config.backbones.items():
        for key in ("benchmarks", "tasks", "benchmark_decoding", "benchmark_context"):
            require(getattr(backbone, key) or [], BENCHMARKS, f"{config.origin_key(name)}.{key}", "benchmark")
        where = f"endpoints.{name}" if name in config.endpoints else f"{config.origin_key(name)}.url"
        _address(backbone.url, where)
    for name in QUESTIONS:
        for key in ("web_search_url", "judge_url", "second_judge_url"):
            _address(getattr(config.benchmark_options(name), key, None), f"benchmarks.{name}.{key}")
    learnt = [name for name, entry in config.backbones.items() if entry.training and entry.training.objective == "block_diffusion"]
    for name in config.used_backbones():  # a server is given its own backbone alone, without the one that was its base
        training = config.backbones[name].training
        if training is not None and training.objective in PREFERENCE:
            require([str(training.base)], learnt, f"{config.origin_key(name)}.training.base", "block-diffusion backbone trained here")


def _address(url: str | None, key: str) -> None:
    if url is not None and not url.startswith(("http://", "https://")):
        raise Mistake(key, f"{url} has no scheme; write http://{url}, or https://")


CHECKS = (names, references, agents, backbones)
