"""BabyAI: teacher success on 50 sampled tasks, on the easy levels at 8 steps beside random valid actions, and low-level moves a second.

python benchmarks/babyai_rates.py [AgentBoard's babyai test.jsonl]
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dllm_agents.benchmarks import load
from dllm_agents.benchmarks.base import Split
from dllm_agents.config import load as load_config

EASY_LEVELS = load_config([Path(__file__).parents[1] / "config" / "demo.yaml"]).benchmarks.babyai.levels


def success(section: dict[str, Any], split: Split, steps: int, choose: Callable[[Any], str]) -> str:
    """Success of a policy on the tasks of a split, as a line."""
    benchmark = load("babyai", section)
    tasks = benchmark.tasks(split)
    solved = played = 0
    for task in tasks:
        environment = benchmark.environment(task)
        environment.reset()
        for _ in range(steps):
            played += 1
            if environment.step(choose(environment)).done:
                break
        solved += environment.success
    return f"{solved}/{len(tasks)} = {100 * solved / len(tasks):.1f} % within {steps} steps, {played / len(tasks):.2f} steps each"


def moves_per_second(seconds: float = 5.0) -> float:
    """Low-level moves a second of random valid actions over AgentBoard's levels, resets apart."""
    benchmark, generator = load("babyai", {"seeds": [1234]}), random.Random(0)
    moves, spent = 0, 0.0
    while spent < seconds:
        for task in benchmark.tasks("test"):
            environment: Any = benchmark.environment(task)
            environment.reset()
            start = time.process_time()
            for _ in range(30):
                if environment.step(generator.choice(environment.valid_actions())).done:
                    break
            spent += time.process_time() - start
            moves += environment._simulator.step_count
    return moves / spent


def main() -> None:
    task_list = sys.argv[1] if len(sys.argv) > 1 else None
    generator = random.Random(0)
    teacher: Callable[[Any], str] = lambda environment: environment.expert_action()[1]  # noqa: E731
    chance: Callable[[Any], str] = lambda environment: generator.choice(environment.valid_actions())  # noqa: E731
    print("teacher, 50 of AgentBoard's tasks: ", success({"tasks": 50, "task_list": task_list}, "test", 30, teacher))
    print("teacher, AgentBoard's 112 tasks:   ", success({"task_list": task_list}, "test", 30, teacher))
    print("teacher, 28 levels, fresh seeds:   ", success({"train_tasks": 560}, "train", 30, teacher))
    easy = {"levels": EASY_LEVELS, "train_tasks": 800}
    print("teacher, easy levels, fresh seeds: ", success(easy, "train", 8, teacher))
    print("random valid, easy levels:         ", success(easy, "train", 8, chance))
    print(f"low-level moves per CPU second:     {moves_per_second():.0f}")


if __name__ == "__main__":
    main()
