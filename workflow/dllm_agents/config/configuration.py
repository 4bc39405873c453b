"""A whole configuration."""

from __future__ import annotations

from pydantic import Field, model_validator

from dllm_agents.config import checks
from dllm_agents.config.agents import MODULE_ROLES, SCRIPTED, Agent
from dllm_agents.config.backbones import Backbone
from dllm_agents.config.benchmarks import BenchmarkOptions, Benchmarks
from dllm_agents.config.run import STAGES, Reporting, Resources, Run
from dllm_agents.config.section import Section
from dllm_agents.decoding.settings import Decoding


class Config(Section):
    extends: str | list[str] = Field(default=[], description="files merged below this one, relative to it, left to right")
    scale: str = Field(default="demo", pattern=r"^[A-Za-z0-9_.-]+$", description="results go to results/<scale>")
    seed: int = Field(default=42, ge=0)
    benchmarks: Benchmarks = Field(default_factory=Benchmarks, description="benchmark -> its options")
    backbones: dict[str, Backbone] = Field(default={})
    agents: dict[str, Agent] = Field(default={})
    add: dict[str, Backbone] = Field(default={}, description="your own backbones: each becomes an agent with a row in every table")
    run: Run = Field(default_factory=Run)
    report: Reporting = Field(default_factory=Reporting)
    endpoints: dict[str, str] = Field(default={}, description="backbone -> base URL of a server that already runs; jobs then start none")
    resources: dict[str, Resources] = Field(default={}, description=f"stage -> what its jobs ask for; stages: {', '.join(STAGES)}")

    @model_validator(mode="after")
    def _derived(self) -> Config:
        """Scripted agents, one agent for each backbone of `add`, and the URLs of `endpoints`."""
        for name in SCRIPTED:
            # Nobody waits for a model here, so more episodes in flight would only start more simulators.
            self.agents.setdefault(name, Agent(policy=name, concurrency=2))
        for name, backbone in self.add.items():
            self.backbones[name] = backbone
            self.agents.setdefault(name, Agent(policy=name))
            if name not in self.run.agents:
                self.run.agents.append(name)
        for name, url in self.endpoints.items():
            if name in self.backbones:
                self.backbones[name] = self.backbones[name].model_copy(update={"url": url})
        return self

    @model_validator(mode="after")
    def _checked(self) -> Config:
        for check in checks.CHECKS:
            check(self)
        return self

    def decoding(self, agent: str, role: str, benchmark: str) -> Decoding:
        """The decoding settings of a role of an agent on a benchmark."""
        backbone = self.backbones[self.agent_backbones(agent)[role]]
        base = backbone.benchmark_decoding.get(benchmark, backbone.decoding)
        changed = self.agents[agent].decoding if role == "policy" else {}
        return Decoding.model_validate(base.model_dump() | changed) if changed else base

    @property
    def results(self) -> str:
        """Where everything of this scale is written."""
        return f"results/{self.scale}"

    def benchmark_options(self, name: str) -> BenchmarkOptions:
        """The options that a benchmark shares with all; its own are those of `benchmarks.<name>`."""
        options: BenchmarkOptions = getattr(self.benchmarks, name)
        return options

    def agent_benchmarks(self, name: str) -> list[str]:
        """The benchmarks of the run that an agent plays, in the run's order."""
        agent = self.agents[name]
        backbone = self.backbones.get(agent.policy)
        return [
            benchmark
            for benchmark in self.run.benchmarks
            if benchmark in (agent.benchmarks or self.run.benchmarks)
            and (backbone is None or benchmark in (backbone.benchmarks or self.run.benchmarks))
        ]

    def plays_in_teams(self, benchmark: str) -> bool:
        """Whether an agent of the run plays a benchmark with a planner and a writer, which trained backbones are then taught to be."""
        return any(self.agents[name].workflow == "planner" and benchmark in self.agent_benchmarks(name) for name in self.run.agents)

    def agent_backbones(self, name: str) -> dict[str, str]:
        """Role -> backbone of an agent; empty for the scripted ones."""
        agent = self.agents[name]
        roles = {} if agent.policy in SCRIPTED else {"policy": agent.policy}
        return roles | {role: module for role in MODULE_ROLES if (module := getattr(agent, role)) is not None}

    def trained_base(self, name: str) -> str | None:
        """The backbone trained here that a backbone's training starts from."""
        training = self.backbones[name].training
        base = self.backbones.get(training.base) if training is not None and training.base is not None else None
        return training.base if training is not None and base is not None and base.training is not None else None

    def used_backbones(self) -> list[str]:
        """The backbones that the run's agents need, in order of first use."""
        used = [backbone for agent in self.run.agents for backbone in self.agent_backbones(agent).values()]
        return list(dict.fromkeys(used + self.run.verification.backbones * bool(self.run.verification.agents)))
