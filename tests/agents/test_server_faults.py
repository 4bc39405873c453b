"""A server that dies while episodes are played: those in flight are played again, finished ones are kept, its last words are shown."""

import sys
from pathlib import Path

import pytest

from dllm_agents import benchmarks
from dllm_agents.agents.play import Player
from dllm_agents.agents.rollout import RESTARTS, Shard, rollout
from dllm_agents.client.client import Client
from dllm_agents.config import Config
from dllm_agents.errors import StageError
from dllm_agents.files import read_jsonl, write_jsonl
from dllm_agents.records import Episode, Task
from dllm_agents.serving import launch

# Answers until its `lives` file says so, then writes why and is gone in the middle of a request.
SERVER = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
port, lives = int(sys.argv[1]), sys.argv[2]
first, *others = open(lives).read().split()
left = [int(first)]
open(lives, "w").write(" ".join(others) or "0")
class Handler(BaseHTTPRequestHandler):
    def do_GET(self): self.reply({"object": "list", "data": []})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        left[0] -= 1
        if left[0] < 0:
            print("CUDA out of memory: I am gone", file=sys.stderr, flush=True)
            os._exit(1)
        message = {"role": "assistant", "content": "Thought: on.\\\\nAction: turn left"}
        self.reply({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {}})
    def reply(self, body):
        data = json.dumps(body).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(data))); self.end_headers(); self.wfile.write(data)
    def log_message(self, *arguments): pass
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shard:
    lives = tmp_path / "lives"
    monkeypatch.setitem(launch.BUILDERS, "native", lambda job: launch.Launch([sys.executable, "-c", SERVER, str(job.port), str(lives)], {}))
    monkeypatch.setattr(Client, "for_backbone", classmethod(lambda cls, endpoint, backbone: cls(endpoint, attempts=2, backoff=0.01)))
    write_jsonl(tmp_path / "tasks.jsonl", benchmarks.load("babyai", configuration()).tasks("test"))
    return Shard(tmp_path / "tasks.jsonl", tmp_path / "episodes.jsonl")


def configuration() -> Config:
    return Config.model_validate(
        {
            "benchmarks": {"babyai": {"levels": ["GoToObj"], "seeds": [1, 2, 3, 4, 5, 6], "max_steps": 5}},
            "backbones": {"m": {"model": "none"}},
            "agents": {"a": {"policy": "m", "concurrency": 2}},
        }
    )


def test_episodes_in_flight_are_played_again_and_finished_ones_kept(shard: Shard, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "lives").write_text("17 1000")
    played: list[str] = []
    play = Player.play
    monkeypatch.setattr(Player, "play", lambda player, task, backbones: (played.append(task.id), play(player, task, backbones))[1])
    rollout(configuration(), "a", shard)
    tasks = [task.id for task in read_jsonl(shard.tasks, Task)]
    episodes = read_jsonl(shard.output, Episode)
    assert [episode.task_id for episode in episodes] == tasks and all(len(episode.steps) == 5 for episode in episodes)
    # 17 answers are three whole episodes of five steps and a part of others: only what was not finished is played twice.
    assert len(tasks) < len(played) <= len(tasks) + 3
    assert "out of memory: I am gone" in capsys.readouterr().err


def test_a_server_that_keeps_dying_fails_the_job_with_its_last_words(shard: Shard, tmp_path: Path) -> None:
    (tmp_path / "lives").write_text("11 " + "0 " * RESTARTS)
    with pytest.raises(
        StageError, match=r"last lines of the log of m: CUDA out of memory: I am gone; finished episodes are kept"
    ) as caught:
        rollout(configuration(), "a", shard)
    assert "\n" not in str(caught.value) and not shard.output.exists()
    journal = next(tmp_path.glob(".*.journal")).read_text().splitlines()
    assert len(journal) - 1 >= 1 and (tmp_path / "lives").read_text() == "0"


def test_a_checkpoint_of_another_benchmark_has_a_server_of_its_own_and_one_at_a_time(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path | None] = []
    builder = launch.BUILDERS["native"]
    monkeypatch.setitem(launch.BUILDERS, "native", lambda job: (started.append(job.model_dir), builder(job))[1])
    (tmp_path / "lives").write_text("1000 1000")
    one, two = tmp_path / "one", tmp_path / "two"
    with launch.Servers(configuration()) as servers:
        for model in (one, one, two):
            with servers.clients({"m": model}, "babyai") as clients:
                assert list(clients) == ["m"] and len(servers._running) == 1
    assert started == [one, two] and not servers._running
