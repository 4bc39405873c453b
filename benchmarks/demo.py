"""Runs a scale from nothing and prints its wall time, the peak memory of all its processes, and the share that starting them takes.

    python benchmarks/demo.py [CONFIG] [FOLDER]

FOLDER (default: a temporary one) receives the results. Start-up is what a stage's imports take, measured once per stage before
the run, times the number of its jobs; a served backbone adds one server start. Both it and the run are counted in processor seconds
of all processes, which other load on the machine changes little.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = {
    "sample": "dllm_agents.cli, dllm_agents.benchmarks, minigrid",
    "collect": "dllm_agents.cli, dllm_agents.trajectories, minigrid",
    "filter": "dllm_agents.cli, dllm_agents.trajectories",
    "train": "dllm_agents.cli, dllm_agents.training.stage, transformers.models.llama.modeling_llama",
    "probe": "dllm_agents.cli, dllm_agents.serving.server, dllm_agents.serving.app",
    "rollout": "dllm_agents.cli, dllm_agents.agents.rollout",
    "score": "dllm_agents.cli, dllm_agents.analysis.stage",
    "classify": "dllm_agents.cli, dllm_agents.analysis.stage",
    "table": "dllm_agents.cli, dllm_agents.reporting.tables",
    "figure": "dllm_agents.cli, dllm_agents.reporting.figures",
    "browser": "dllm_agents.cli, dllm_agents.reporting.browser",
    "server": "dllm_agents.cli, dllm_agents.serving.server, dllm_agents.serving.app",
}


def processor_seconds() -> float:
    """User and system time of the processes that ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds_to_import(modules: str) -> float:
    before = processor_seconds()
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)
    return processor_seconds() - before


def tree_memory(root: psutil.Process) -> float:
    """Gigabytes of all processes below one, shared pages counted once for each that maps them in proportion (PSS)."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 2**30


def main() -> None:
    config = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "config" / "demo.yaml").resolve()
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp(prefix="dllm-agents-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    imports = {stage: seconds_to_import(modules) for stage, modules in IMPORTS.items()}
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), "--cores", "2"]
    log = folder / "run.log"
    started, used = time.perf_counter(), processor_seconds()
    with open(log, "w") as output:
        running = subprocess.Popen([*snakemake, "report", "--configfile", str(config)], stdout=output, stderr=subprocess.STDOUT)
        peak, done = [0.0], threading.Event()

        def watch() -> None:
            while not done.wait(2.0):
                try:
                    peak[0] = max(peak[0], tree_memory(psutil.Process(running.pid)))
                except psutil.Error:
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        status = running.wait()
        done.set()
        watcher.join()
    wall, used = time.perf_counter() - started, processor_seconds() - used
    jobs = Counter(re.findall(r"^(?:local)?rule ([a-z]+)", log.read_text(), re.MULTILINE))
    settings = yaml.safe_load(next(folder.glob("results/*/config.yaml")).read_text())
    servers = jobs["probe"] + sum(
        len({path.parent.name}) for path in folder.glob("results/*/episodes/*/*.jsonl") if path.stem not in ("random", "empty", "teacher")
    )
    start_up = sum(imports.get(stage, imports["filter"]) * count for stage, count in jobs.items()) + servers * imports["server"]
    report = {
        "exit status": status,
        "wall seconds": round(wall, 1),
        "peak GiB, all processes": round(peak[0], 2),
        "jobs": sum(jobs.values()),
        "servers": servers,
        "processor seconds": round(used, 1),
        "of them start-up": round(start_up, 1),
        "start-up share": round(start_up / used, 3),
        "agents": settings["run"]["agents"],
    }
    print(json.dumps(report, indent=1))
    sys.exit(status)


if __name__ == "__main__":
    main()
