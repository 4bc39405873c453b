"""What is run, reported and asked of a scheduler."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from dllm_agents.config.section import NOTHING, Count, Section


class Resources(Section):
    """What a job of a stage asks of a scheduler; a local run heeds only `cpus`. Memory and time grow with every retry."""

    mem_mb: int = Field(default=4000, ge=100, description="memory of the first try; the n-th asks n times as much")
    minutes: int = Field(default=60, ge=1, description="wall time of the first try; the n-th asks n times as much")
    cpus: int | None = Field(
        default=None,
        ge=1,
        description="processors of a job that has work for several; left out, two on a cluster, on one machine all that Snakemake has",
    )


# Stage -> what its jobs ask for where the configuration says nothing. The light ones travel in groups, which ask for the sum.
STAGES: dict[str, Resources] = {
    "sample_tasks": Resources(mem_mb=1500, minutes=15),
    "collect_trajectories": Resources(),
    "train": Resources(),
    "probe": Resources(),
    "rollout": Resources(),
    "score": Resources(mem_mb=1000, minutes=15),
    "report": Resources(mem_mb=1000, minutes=15),
}


class Verification(Section):
    """The early-exit verifier, replayed on stored episodes (DiffuAgent section 5.1 and Figure 6): every backbone with every prompt."""

    FORMER: ClassVar = {"prompts": "is gone: both are always replayed"}

    agents: list[str] = Field(default=[], description="agents whose stored embodied episodes are looked at")
    backbones: list[str] = Field(default=[], description="backbones that play the verifier")
    every: int = Field(default=5, ge=1, description="steps between two verifications")
    episodes: int | None = Field(default=None, ge=1, description="episodes of each agent, at even distances; null for all")


class Run(Section):
    FORMER: ClassVar = {"agents_per_job": "is gone: a job plays one agent on one benchmark; leave it out"}

    benchmarks: list[str] = Field(default=["babyai", "bfcl"])
    agents: list[str] = Field(default=["random", "empty", "teacher"])
    probe_concurrency: list[Count] = Field(default=[1, 4])
    probe_requests: int = Field(default=8, ge=1)
    shards: int = Field(
        default=1,
        ge=1,
        description="jobs that share an agent's tasks on a benchmark, each with one start of the servers; another number takes up what "
        "was played",
        json_schema_extra=NOTHING,
    )
    verification: Verification = Field(default_factory=Verification)


class Reporting(Section):
    tables: list[str] = Field(default=["diffuagent_table1", "diffuagent_table2", "failures", "trajectory_filter", "serving"])
    figures: list[str] = Field(default=["diffuagent_figure1", "diffuagent_figure3", "diffuagent_figure4"])
    style: dict[str, dict[str, Any]] = Field(default={}, description="figure -> {width, height, dpi, title}")
    loop_length: int = Field(default=3, ge=2, description="identical consecutive actions that make a retry loop (>=)")
    margin: float = Field(
        default=5.0, gt=0, le=100, description="percentage points within which two agents count as comparable (equivalence test)"
    )
    allow_mixed_versions: bool = Field(
        default=False, description="accept scores of several package or benchmark versions and mark the tables"
    )
