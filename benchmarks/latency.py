"""What acting otherwise than by ReAct saves of a question's time: two agents of one backbone play each question in turn, one at a time.

python benchmarks/latency.py CONFIG TASKS FIRST SECOND [questions, default 8]

prints the seconds of a question by either agent, their ratio with its 95 % interval (paired bootstrap), and how many each answers. The
search tool takes as long as CONFIG says (`benchmarks.multihop_qa.tool_delay`). For calls that ran side by side, also what they would have
taken in turn.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from dllm_agents.agents.play import Player
from dllm_agents.agents.rollout import Servers, Shard, load_tasks, playing, spread
from dllm_agents.analysis.statistics import ratio_interval
from dllm_agents.config import load
from dllm_agents.provenance import hardware
from dllm_agents.records import Outcome


def main() -> None:
    config = load([Path(sys.argv[1])])
    tasks, benchmark = load_tasks(config, Path(sys.argv[2]))
    names, count = sys.argv[3:5], int(sys.argv[5]) if len(sys.argv) > 5 else 8
    seconds: dict[str, list[float]] = {name: [] for name in names}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    with ExitStack() as stack:
        servers = stack.enter_context(Servers(config))
        shard = Shard(Path(), Path())
        plays = {name: stack.enter_context(playing(Player(config, name, benchmark), shard, servers)) for name in names}
        warm, *measured = spread(tasks, count + 1)
        for play in plays.values():
            play(warm)
        for number, task in enumerate(measured):
            for name in names if number % 2 else names[::-1]:
                begun = time.perf_counter()
                outcomes[name].append(plays[name](task))
                seconds[name].append(time.perf_counter() - begun)
    first, second = (np.array(seconds[name]) for name in names)
    low, high = ratio_interval(first, second, seed=config.seed)
    delays = " or ".join(f"{delay:g}" for delay in config.benchmarks.multihop_qa.tool_delays)
    print(f"{hardware()}; {len(measured)} questions by each in turn; a search takes {delays} s at least")
    for name in names:
        right = sum(outcome.success for outcome in outcomes[name])
        print(f"{name}: {np.mean(seconds[name]):.2f} s a question, {right} of {len(measured)} answered")
    print(f"{names[0]} takes x {first.sum() / second.sum():.3f} [{low:.3f}, {high:.3f}] of the time")
    side_by_side = [outcome.counts for outcome in outcomes[names[0]] if "in_turn_tool_seconds" in outcome.counts]
    if side_by_side:
        took, in_turn = (sum(counts[key] for counts in side_by_side) for key in ("tool_seconds", "in_turn_tool_seconds"))
        print(f"{names[0]}: searches took {took:.2f} s side by side, {in_turn:.2f} s in turn")


if __name__ == "__main__":
    main()
