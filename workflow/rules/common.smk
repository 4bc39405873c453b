"""What all rules share: the checked configuration and the files it asks for.

Rules receive as `params` only the configuration values they use, so that editing one value reruns only what depends on it.
"""

import re
import shlex
import sys
from pathlib import Path

from dllm_agents.workflow import Plan, model_arguments

CONFIG = Plan.configure(
    workflow.configfiles, config, inside_job=not workflow.is_main_process
)
PLAN = Plan(CONFIG)
RESULTS = CONFIG.results


wildcard_constraints:
    benchmark="[a-z0-9_]+",
    backbone="[A-Za-z0-9_.-]+",
    agent="[A-Za-z0-9_.-]+",
    name="[a-z0-9_]+",


def processors(stage, gpus=0):
    """Threads of a job that has work for several: what `resources` says, or two on a cluster. On one machine a job that takes a GPU has
    all that Snakemake may use, so that it has the GPU to itself."""
    on_cluster = workflow.remote_exec or workflow.resource_settings.cores is None
    wanted = PLAN.resources(stage).cpus
    return (
        wanted or 2
        if on_cluster
        else workflow.cores if gpus else wanted or workflow.cores
    )


def per_agent(kind, ending):
    return [
        f"{RESULTS}/{kind}/{benchmark}/{agent}.{ending}"
        for agent in CONFIG.run.agents
        for benchmark in CONFIG.agent_benchmarks(agent)
    ]


def exit_files():
    return [
        f"{RESULTS}/exits/{benchmark}.parquet"
        for benchmark in PLAN.verified_benchmarks()
    ]


def accepted_files():
    return [
        f"{RESULTS}/trajectories/{benchmark}/accepted.jsonl"
        for benchmark in PLAN.taught_benchmarks()
    ]


def model_files():
    return [
        f"{RESULTS}/models/{backbone}/{benchmark}"
        for backbone, benchmark in PLAN.trained()
    ]


def table_files():
    return [
        f"{RESULTS}/tables/{name}.{ending}"
        for name in CONFIG.report.tables
        for ending in ("csv", "md", "tex", "html")
    ]


def figure_files():
    return [
        f"{RESULTS}/figures/{name}.{ending}"
        for name in CONFIG.report.figures
        for ending in ("png", "pdf")
    ]
