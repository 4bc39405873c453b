"""ScienceWorld and ALFWorld: teacher success on 50 sampled tasks each, and steps a second without a model, resets apart.

python benchmarks/simulator_rates.py [scienceworld|alfworld ...]
"""

from __future__ import annotations

import sys
import time
from typing import Any

import psutil

from dllm_agents.benchmarks import load

SECTIONS: dict[str, dict[str, Any]] = {
    "scienceworld": {"tasks": 50, "gold_within_limit": True, "max_steps": 30},
    "alfworld": {"tasks": 50, "max_steps": 30},
}


def processor_seconds(pid: int) -> float:
    """Processor time of a worker and of everything it started."""
    worker = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:2]) for process in [worker, *worker.children(recursive=True)])


def resident_mb(pid: int) -> list[int]:
    """Resident memory of a worker and of everything it started, in MiB."""
    worker = psutil.Process(pid)
    return [process.memory_info().rss >> 20 for process in [worker, *worker.children(recursive=True)]]


def report(name: str) -> None:
    """Let the teacher play the sampled tasks of a benchmark and print what came of it."""
    start = time.monotonic()
    benchmark = load(name, SECTIONS[name])
    tasks = benchmark.tasks("test")
    print(f"{name}: {len(tasks)} tasks of {len({task.category for task in tasks})} types sampled in {time.monotonic() - start:.0f} s")
    solved, steps, wall, processor, resets, memory = 0, 0, 0.0, 0.0, 0.0, [0]
    for task in tasks:
        environment: Any = benchmark.environment(task)
        start = time.monotonic()
        environment.reset()
        resets += time.monotonic() - start
        environment.expert_action()  # makes the gold path, which is no step
        pid = environment._simulator.pid
        start, used = time.monotonic(), processor_seconds(pid)
        for _ in range(benchmark.max_steps):
            label = environment.expert_action()
            steps += label is not None
            if label is None or environment.step(label[1]).done:
                break
        wall += time.monotonic() - start
        processor += processor_seconds(pid) - used
        memory = max(memory, resident_mb(pid), key=sum)
        solved += environment.success
        if not environment.success:
            print(f"  not solved: {task.id}")
        environment.close()
    print(f"{name}: teacher {solved}/{len(tasks)} = {100 * solved / len(tasks):.0f} % within {benchmark.max_steps} steps")
    print(f"{name}: {steps / wall:.0f} steps/s of wall time, {steps / processor:.0f} of processor time, resets apart")
    print(f"{name}: a reset takes {resets / len(tasks):.1f} s")
    print(f"{name}: at most {' + '.join(map(str, memory))} MiB (worker + what it started)")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or SECTIONS:
        report(chosen)
