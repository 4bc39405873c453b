"""A whole configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from dllm_agents.config import checks
from dllm_agents.config.agents import SCRIPTED, Agent
from dllm_agents.config.backbones import Backbone, Weights
from dllm_agents.config.benchmarks import BenchmarkOptions, Benchmarks
from dllm_agents.config.dialects import DIALECTS, OURS
from dllm_agents.config.merging import merged
from dllm_agents.config.roles import REPLY_TOKENS, TEAM_WORKFLOWS, WORKFLOWS
from dllm_agents.config.run import STAGES, Reporting, Resources, Run
from dllm_agents.config.section import NOTHING, Section
from dllm_agents.config.training import PREFERENCE
from dllm_agents.decoding.settings import Decoding, ToolPrefill


class Config(Section):
    extends: str | list[str] = Field(
        default=[],
        description="files merged below this one, relative to it, left to right",
        json_schema_extra=NOTHING,
    )
    scale: str = Field(
        default="demo",
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$",
        description="results go to results/<scale>",
        json_schema_extra=NOTHING,
    )
    seed: int = Field(default=42, ge=0, lt=2**63, description="seed of tasks, trainings and agents")
    benchmarks: Benchmarks = Field(default_factory=Benchmarks, description="benchmark -> its options")
    backbones: dict[str, Backbone] = Field(default={}, description="name -> a model and how it is decoded, served and trained")
    agents: dict[str, Agent] = Field(default={}, description="name -> a workflow with backbones in its roles")
    add: dict[str, Backbone] = Field(default={}, description="your own backbones: each becomes an agent with a row in every table")
    run: Run = Field(default_factory=Run, description="which benchmarks and agents run")
    report: Reporting = Field(default_factory=Reporting, description="which tables and figures are made")
    endpoints: dict[str, str] = Field(
        default={},
        description="backbone -> base URL of a server that already runs; jobs then start none",
        json_schema_extra=NOTHING,
    )
    resources: dict[str, Resources] = Field(
        default={},
        description=f"stage -> what its jobs ask for; stages: {', '.join(STAGES)}",
        json_schema_extra=NOTHING,
    )

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
        playing = [name for name in self.run.verification.agents if name in self.run.agents or name not in self.agents]
        self.run.verification = self.run.verification.model_copy(update={"agents": playing})
        return self

    @model_validator(mode="after")
    def _checked(self) -> Config:
        for check in checks.CHECKS:
            check(self)
        return self

    def decoding(self, agent: str, role: str, benchmark: str) -> Decoding:
        """The decoding settings of a role of an agent on a benchmark."""
        entry = self.agents[agent]
        of_policy = entry.named(role) is None
        decoding = self.role_decoding(self.agent_backbones(agent, benchmark)[role], role, benchmark, entry.decoding if of_policy else {})
        # P-ReAct without settings of its own is the published one.
        prefilled = role == "policy" and entry.acting == "p_react" and self.benchmark_options(benchmark).workflow == "search"
        return decoding.model_copy(update={"tool_prefill": decoding.tool_prefill or ToolPrefill()}) if prefilled else decoding

    def role_decoding(self, backbone: str, role: str, benchmark: str, changed: Mapping[str, Any] | None = None) -> Decoding:
        """How a backbone decodes in a role on a benchmark: its settings there with what is `changed` merged in as deeply as files are,
        and no longer a reply than the role takes, with as many tokens a step as before."""
        entry = self.backbones[backbone]
        decoding = entry.benchmark_decoding.get(benchmark, entry.decoding)
        if decoding.strategy is None and (weights := self.weights(backbone)) is not None:
            decoding = decoding.model_copy(update={"strategy": weights.strategy})
        if changed:
            decoding = Decoding.model_validate(merged(decoding.model_dump(), changed))
        limit = REPLY_TOKENS.get(role, decoding.max_new_tokens)
        if limit >= decoding.max_new_tokens:
            return decoding
        steps = None if decoding.steps is None else max(1, decoding.steps * limit // decoding.max_new_tokens)
        return decoding.model_copy(update={"max_new_tokens": limit, "steps": steps})

    def origin_key(self, backbone: str) -> str:
        """The key under which a backbone is defined."""
        return f"{'add' if backbone in self.add else 'backbones'}.{backbone}"

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

    def team_workflows(self, benchmark: str) -> list[str]:
        """The workflows with several roles in which agents of the run play a benchmark: trained backbones are taught all of their roles."""
        played = {self.workflow(name, benchmark) for name in self.run.agents if benchmark in self.agent_benchmarks(name)}
        return sorted(played & TEAM_WORKFLOWS)

    def acts_alone(self, backbone: str, benchmark: str) -> bool:
        """Whether a backbone is taught to act on its own: where it plays in teams alone, it is taught their roles alone."""
        policies = [name for name in self.run.agents if self.agents[name].policy == backbone]
        played = {self.workflow(name, benchmark) for name in policies if benchmark in self.agent_benchmarks(name)}
        return not played or not played <= TEAM_WORKFLOWS

    def trained_teams(self, benchmark: str) -> list[str]:
        """The agents of the run that play a benchmark as a planner and seekers whose backbones are all trained here: those whose attention
        is read."""
        return [
            agent
            for agent in self.run.agents
            if benchmark in self.agent_benchmarks(agent)
            and self.agents[agent].workflow in TEAM_WORKFLOWS
            and all(self.backbones[name].training for name in self.agent_backbones(agent, benchmark).values())
        ]

    def call_orders(self, backbone: str, benchmark: str) -> list[bool]:
        """Whether agents of the run have this backbone write a search call before the thought: False, True or both; [False] without any."""
        policies = [self.agents[name] for name in self.run.agents if benchmark in self.agent_benchmarks(name)]
        return sorted({agent.acting == "tool_first" for agent in policies if agent.policy == backbone}) or [False]

    def workflow(self, agent: str, benchmark: str) -> str:
        """How an agent acts on a benchmark."""
        own, chosen = self.benchmark_options(benchmark).workflow, self.agents[agent].workflow
        return chosen if chosen is not None and own in WORKFLOWS[chosen].plays else own

    def workflow_options(self, agent: str, benchmark: str) -> dict[str, Any]:
        """The settings of the workflow in which an agent plays a benchmark."""
        return WORKFLOWS[self.workflow(agent, benchmark)].options | self.agents[agent].options

    def dialect(self, agent: str, benchmark: str) -> str | None:
        """The tags in which an agent searches on a benchmark; None for ours."""
        workflow = self.workflow(agent, benchmark)
        if "dialect" not in WORKFLOWS[workflow].keys:
            return None
        dialect = self.agents[agent].dialect or (workflow if workflow in DIALECTS else OURS)
        return None if dialect == OURS else dialect

    def agent_backbones(self, name: str, benchmark: str) -> dict[str, str]:
        """Role -> backbone of what plays for an agent on a benchmark; empty for the scripted ones."""
        agent = self.agents[name]
        if agent.policy in SCRIPTED:
            return {}
        roles = WORKFLOWS[self.workflow(name, benchmark)].roles
        return {role: backbone for role in roles if (backbone := agent.backbone(role)) is not None}

    def played_backbones(self, name: str) -> dict[str, list[str]]:
        """Backbone -> the benchmarks of the run on which it plays for an agent."""
        played: dict[str, list[str]] = {}
        for benchmark in self.agent_benchmarks(name):
            for backbone in dict.fromkeys(self.agent_backbones(name, benchmark).values()):
                played.setdefault(backbone, []).append(benchmark)
        return played

    def weights(self, backbone: str) -> Weights | None:
        """What a backbone's weights are, where the configuration can tell."""
        base = self.trained_base(backbone)
        preferred = base is not None and self.backbones[backbone].training.objective in PREFERENCE  # type: ignore[union-attr]
        return self.backbones[str(base) if preferred else backbone].weights()

    def trained_base(self, name: str) -> str | None:
        """The backbone trained here that a backbone's training starts from."""
        training = self.backbones[name].training
        base = self.backbones.get(training.base) if training is not None and training.base is not None else None
        return training.base if training is not None and base is not None and base.training is not None else None

    def used_backbones(self) -> list[str]:
        """The backbones that the run's agents need, in order of first use."""
        used = [backbone for agent in self.run.agents for backbone in self.played_backbones(agent)]
        return list(dict.fromkeys(used + self.run.verification.backbones * bool(self.run.verification.agents)))
