"""A planner and five seekers against a server that takes 50 ms: the share of an episode's wall time that a model was at work.

python benchmarks/team.py [episodes, default 20] [seconds of the server, default 0.05]
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from pathlib import Path
from typing import Any

import runner

from dllm_agents import benchmarks
from dllm_agents.agents import rollout
from dllm_agents.agents.deepdiver import tools
from dllm_agents.agents.deepdiver.teacher import done
from dllm_agents.config import Config
from dllm_agents.files import read_jsonl, write_jsonl
from dllm_agents.provenance import hardware
from dllm_agents.records import Episode
from dllm_agents.tool_calls import call_text

SEEKERS = 5
SEARCHES = 3


def says(messages: Any) -> str:
    """One round of five tasks, three searches and a report each, and the answer."""
    turn = sum(message["role"] == "assistant" for message in messages)
    if "You are an information seeker" in messages[0]["content"]:
        search = {"name": "batch_web_search", "arguments": {"queries": [f"mother of Adela {turn}"]}}
        return call_text(search if turn < SEARCHES else done(tools.SEEKER_DONE, "nobody"))
    tasks = [{"task_content": f"part {number}"} for number in range(SEEKERS)]
    return call_text(done(tools.PLANNER_DONE, "", final_answer="nobody") if turn else {"name": tools.ASSIGN, "arguments": {"tasks": tasks}})


def shares(episode: Episode) -> tuple[float, float, float]:
    """(seconds in which a model was at work, wall seconds, seconds of all calls); seekers work side by side, so that the slowest counts."""
    assert episode.team is not None and episode.team.seeker_turns == [SEARCHES + 1] * SEEKERS, episode.error
    seconds = {call.key: call.seconds for call in episode.calls}
    turns = [seconds[step.call] for step in episode.steps if step.stage == "search" and step.call is not None]
    planner = sum(call.seconds for call in episode.calls if call.role == "planner")
    each = [sum(turns[first : first + SEARCHES + 1]) for first in range(0, len(turns), SEARCHES + 1)]
    return planner + max(each), episode.seconds, sum(seconds.values())


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    pause = float(sys.argv[2]) if len(sys.argv) > 2 else 0.05
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=runner.serve, args=(pause, port, says), daemon=True)
    server.start()
    config = Config.model_validate(
        {
            "benchmarks": {"multihop_qa": {"tasks": count, "train_tasks": 0}},
            "backbones": {"m": {"prompt": "react", "url": f"http://127.0.0.1:{port.get()}/v1"}},
            "agents": {"team": {"policy": "m", "workflow": "deepdiver", "concurrency": 1}},
            "run": {"benchmarks": ["multihop_qa"], "agents": ["team"]},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        tasks, output = Path(folder) / "tasks.jsonl", Path(folder) / "episodes.jsonl"
        write_jsonl(tasks, benchmarks.load("multihop_qa", config).tasks("test"))
        rollout.rollout(config, "team", rollout.Shard(tasks, output))
        measured = [shares(episode) for episode in read_jsonl(output, Episode)]
    server.terminate()
    model, wall, calls = (sum(part) for part in zip(*measured, strict=True))
    least = min(at_work / whole for at_work, whole, _ in measured)
    print(hardware())
    print(f"{len(measured)} episodes, {SEEKERS} seekers each: {100 * model / wall:.1f} % of {wall:.1f} s is model time ", end="")
    print(f"(least of an episode {100 * least:.1f} %); calls take {calls / model:.2f} times as long one after another")


if __name__ == "__main__":
    main()
