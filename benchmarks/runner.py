"""The rollout runner: BabyAI steps a second with a backend that takes no time, and the share of model time with one that takes 50 ms.

python benchmarks/runner.py [seconds of the backend, default 0.05]
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dllm_agents import benchmarks
from dllm_agents.agents import rollout
from dllm_agents.agents.journal import Journal
from dllm_agents.agents.play import Player
from dllm_agents.agents.policy import Message
from dllm_agents.agents.recording import Answer, StreamedAnswer
from dllm_agents.client.client import Completion
from dllm_agents.config import Config
from dllm_agents.config import load as load_config
from dllm_agents.files import read_jsonl, write_jsonl
from dllm_agents.provenance import hardware
from dllm_agents.records import Episode

ACTIONS = ["move forward", "turn left", "go to red ball 1", "toggle", "turn right", "pickup red ball 1"]
EASY_LEVELS = load_config([Path(__file__).parents[1] / "config" / "demo.yaml"]).benchmarks.babyai.levels
BABYAI = {"levels": EASY_LEVELS, "seeds": list(range(1234, 1250)), "max_steps": 8}
REPLY = "Thought: I look around and see what is in the way.\nAction: {}"


class Scripted:
    """Answers at once, with actions in turn."""

    def __init__(self) -> None:
        self._actions = itertools.cycle(ACTIONS)

    def complete(self, role: str) -> Answer | None:
        return self._ask if role == "policy" else None

    def stream(self, role: str) -> StreamedAnswer:
        raise NotImplementedError

    def _ask(self, messages: Sequence[Message], *, seed: int) -> Completion:
        return Completion(REPLY.format(next(self._actions)), 200, 20, 20, 0.0, "stop", list(range(20)))


def steps_per_second(config: Config, in_flight: int) -> tuple[float, int]:
    """(steps a second, steps) of the runner on BabyAI, prompts, records and journal included, servers left out."""
    benchmark = benchmarks.load("babyai", config)
    tasks = benchmark.tasks("test")
    player = Player(config, "agent", benchmark)
    play = partial(player.play, backbones=Scripted())
    describe = partial(rollout.episode_of, player)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal", "benchmark")
        started = time.perf_counter()
        for episode in rollout.play_all(tasks, play, describe, in_flight):
            journal.append(episode)
        spent = time.perf_counter() - started
        steps = sum(len(episode.steps) for episode in journal.episodes.values())
        journal.remove()
    return steps / spent, steps


def serve(seconds: float, port: multiprocessing.Queue[int], says: Callable[[Any], str]) -> None:
    """An OpenAI-compatible server that takes `seconds` for every answer, which `says` makes from the messages."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            self.reply({"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "benchmark"}]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(seconds)
            message = {"role": "assistant", "content": says(asked["messages"])}
            usage = {"prompt_tokens": 200, "completion_tokens": 20, "total_tokens": 220}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            self.reply({"id": "1", "object": "chat.completion", "model": "m", "created": 0, "usage": usage, "choices": choices})

        def reply(self, body: dict[str, object]) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.put(server.server_port)
    server.serve_forever()


def model_share(seconds: float, concurrency: int) -> tuple[float, float, float]:
    """(model time of episode time, model time of the wall time of all slots, wall seconds) of a rollout against a slow server."""
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    actions = itertools.cycle(ACTIONS)
    server = multiprocessing.Process(target=serve, args=(seconds, port, lambda _: REPLY.format(next(actions))), daemon=True)
    server.start()
    config = configuration({"url": f"http://127.0.0.1:{port.get()}/v1"}, concurrency)
    with tempfile.TemporaryDirectory() as folder:
        tasks, output = Path(folder) / "tasks.jsonl", Path(folder) / "episodes.jsonl"
        write_jsonl(tasks, benchmarks.load("babyai", config).tasks("test"))
        started = time.perf_counter()
        rollout.rollout(config, "agent", rollout.Shard(tasks, output))
        spent = time.perf_counter() - started
        episodes = read_jsonl(output, Episode)
    server.terminate()
    model = sum(call.seconds for episode in episodes for call in episode.calls)
    return model / sum(episode.seconds for episode in episodes), model / (concurrency * spent), spent


def configuration(backbone: dict[str, object], concurrency: int) -> Config:
    return Config.model_validate(
        {
            "benchmarks": {"babyai": BABYAI},
            "backbones": {"m": {"prompt": "compact", **backbone}},
            "agents": {"agent": {"policy": "m", "concurrency": concurrency}},
            "run": {"benchmarks": ["babyai"], "agents": ["agent"]},
        }
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.05
    print(hardware())
    rate, steps = steps_per_second(configuration({"model": "none"}, 16), 16)
    print(f"zero-latency backend, 16 in flight: {rate:.0f} BabyAI steps/s over {steps} steps")
    inside, slots, spent = model_share(seconds, 8)
    print(f"{1000 * seconds:.0f} ms server, concurrency 8: {100 * inside:.1f} % of the episodes' time and {100 * slots:.1f} % of ", end="")
    print(f"8 x {spent:.1f} s wall is model time")


if __name__ == "__main__":
    main()
