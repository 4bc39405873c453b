"""Seconds until a rollout shard of 10,000 stored episodes goes on: `python benchmarks/resume.py [episodes]`.

Reads the journal as a rollout does (every line checked against the record) and writes the final file from it.
"""

import platform
import sys
import tempfile
import time
from pathlib import Path

from dllm_agents.agents.journal import Journal
from dllm_agents.files import write_jsonl
from dllm_agents.provenance import hardware
from dllm_agents.records import EpisodeStep, TracedCall, TracedEpisode

STEPS = 8
TEXT = "you see a red ball two steps ahead and a grey door to your left; nothing is carried. "


def episode(number: int) -> TracedEpisode:
    steps = [
        EpisodeStep(index=index, call=("policy", index), thought=TEXT, action="go forward", observation=TEXT * 2) for index in range(STEPS)
    ]
    calls = tuple(TracedCall(role="policy", seed=index, text=TEXT) for index in range(STEPS))
    return TracedEpisode(
        task_id=f"babyai/{number}",
        benchmark="babyai",
        category="c",
        goal=TEXT,
        agent="a",
        seed=1,
        max_steps=STEPS,
        ended="done",
        steps=steps,
        calls=calls,
    )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        journal = Journal(path, "fingerprint")
        for number in range(count):
            journal.append(episode(number))
        journal.close()
        wall, cpu = time.perf_counter(), time.process_time()
        again = Journal(path, "fingerprint")
        resumed, resumed_cpu = time.perf_counter() - wall, time.process_time() - cpu
        assert len(again.episodes) == count
        wall = time.perf_counter()
        write_jsonl(Path(folder) / "episodes.jsonl", again.episodes.values())
        written = time.perf_counter() - wall
        megabytes = path.stat().st_size / 1e6
    print(f"{count} episodes of {STEPS} steps, {megabytes:.0f} MB")
    print(f"read in {resumed:.2f} s (CPU {resumed_cpu:.2f} s), written in {written:.2f} s")
    print(f"{hardware()}; Python {platform.python_version()}")


if __name__ == "__main__":
    main()
