"""What jobs ask for: memory, minutes, GPUs, and the program that starts a training."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from dllm_agents.config import STAGES, Config, Resources
from dllm_agents.layout import WORKFLOW


def resources(config: Config, stage: str) -> Resources:
    """What a job of a stage asks for at its first try."""
    return config.resources.get(stage, STAGES[stage])


def memory(config: Config, stage: str, attempt: int) -> int:
    """Megabytes a job of a stage asks for; more on every retry, since a job killed for memory would be killed again."""
    return attempt * resources(config, stage).mem_mb


def minutes(config: Config, stage: str, attempt: int) -> int:
    """Minutes a job of a stage asks for; more on every retry."""
    return attempt * resources(config, stage).minutes


def serving_gpus(config: Config, backbone: str) -> int:
    """GPUs of the server that a job starts for a backbone: none where the backbone is given by URL."""
    entry = config.backbones[backbone]
    return 0 if entry.url else entry.gpus


def rollout_gpus(config: Config, agent: str, benchmark: str) -> int:
    """GPUs of a rollout: those of every server it starts itself."""
    return sum(serving_gpus(config, backbone) for backbone in dict.fromkeys(config.agent_backbones(agent, benchmark).values()))


def pair_gpus(config: Config, backbone: str) -> int:
    """GPUs of a pair-sampling job: those of the base's server."""
    return serving_gpus(config, config.trained_base(backbone) or backbone)


def verification_gpus(config: Config) -> int:
    """GPUs of a job that replays verifiers: it serves one after the other."""
    return max((serving_gpus(config, backbone) for backbone in config.run.verification.backbones), default=0)


def launcher(config: Config, backbone: str) -> str:
    """The program of a training job: this package's own, or accelerate starting it on every GPU of this machine, which is one of
    `nodes`. Under SLURM each machine learns its rank and the address of the first from the job's environment."""
    entry = config.backbones[backbone]
    assert entry.training is not None
    if entry.training.launch is None:
        return "dllm-agents"
    nodes, processes = entry.training.nodes, max(1, entry.training_gpus)
    file = shlex.quote(str(WORKFLOW / "config" / "accelerate" / f"{entry.training.launch}.yaml"))
    command = f"accelerate launch --config_file {file} --num_machines {nodes} --num_processes {nodes * processes}"
    if nodes > 1:
        first = "$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)"
        command += f" --machine_rank $SLURM_NODEID --main_process_ip {first} --main_process_port ${{MASTER_PORT:-29500}}"
    precision = "bf16" if entry.dtype == "bfloat16" else "no"
    command += f" --mixed_precision {precision}{'' if entry.training_gpus else ' --cpu'} --module dllm_agents"
    if nodes == 1:
        return command
    inner = shlex.quote(f'exec {command} "$@"')
    return f"srun --nodes {nodes} --ntasks-per-node 1 bash -c {inner} train"


def estimate(jobs: Iterable[tuple[str, int, float]]) -> str:
    """What jobs, (rule, GPUs, minutes) each, ask of GPUs at most, one line per rule; empty where none takes one."""
    spent: dict[str, list[float]] = {}
    for rule, gpus, length in jobs:
        if gpus:
            spent.setdefault(rule, []).append(gpus * length / 60)
    if not spent:
        return ""
    lines = [f"  {rule:<18} {len(hours):>5} jobs {sum(hours):>10,.1f} GPU-hours" for rule, hours in spent.items()]
    total = sum(map(sum, spent.values()))
    return "\n".join(["At most, if every job takes its whole time:", *lines, f"  {'total':<18} {total:>21,.1f} GPU-hours"])
