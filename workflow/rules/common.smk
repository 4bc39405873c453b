"""What all rules share: the checked configuration and the files it asks for.

Rules list as `params` what their results depend on beside their inputs (dllm_agents.dependencies), so that editing one value reruns only
what depends on it. They hand stages the frozen configuration of the run, which is no parameter, since each of those reruns what changes
with it.
"""

import atexit
import shlex
import sys
from pathlib import Path

from dllm_agents import dependencies
from dllm_agents.dag import prepare, resources as demand
from dllm_agents.dag.files import Files, model_arguments

CONFIG = prepare.configure(
    workflow.configfiles, config, inside_job=not workflow.is_main_process
)
FILES = Files(CONFIG)
RESULTS = FILES.results
FROZEN = str(prepare.frozen(CONFIG))


wildcard_constraints:
    benchmark="[a-z0-9_]+",
    backbone="[A-Za-z0-9_.-]+",
    agent="[A-Za-z0-9_.-]+",
    name="[a-z0-9_]+",
    part=r"\d+-of-\d+",


def memory(stage):
    """Megabytes of a stage's jobs, by attempt."""
    return lambda wildcards, attempt: demand.memory(CONFIG, stage, attempt)


def minutes(stage):
    """Minutes of a stage's jobs, by attempt."""
    return lambda wildcards, attempt: demand.minutes(CONFIG, stage, attempt)


def processors(stage, gpus=0, alone=False):
    """Threads of a job that has work for several: what `resources` says, or two on a cluster. On one machine a job that takes a GPU, or is
    timed, has all that Snakemake may use, so that it has the GPU, or the machine, to itself.
    """
    wanted = demand.resources(CONFIG, stage).cpus
    if workflow.remote_exec or workflow.resource_settings.cores is None:
        return wanted or 2
    return workflow.cores if gpus or alone else wanted or workflow.cores
