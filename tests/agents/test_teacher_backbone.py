"""A model behind a URL as the teacher, and LLM judges in the scores."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest

from dllm_agents import benchmarks, trajectories
from dllm_agents.agents.rollout import Shard, rollout
from dllm_agents.analysis.stage import score_file
from dllm_agents.config import Config
from dllm_agents.files import write_jsonl


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Any OpenAI-compatible server: says the same thing to everybody."""
    says: list[str] = [""]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply({"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "someone"}]})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            choice = {"index": 0, "message": {"role": "assistant", "content": says[0]}, "finish_reason": "stop"}
            self.reply({"id": "1", "object": "chat.completion", "model": "m", "created": 0, "choices": [choice]})

        def reply(self, body: dict[str, object]) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1", says
    http.shutdown()
    http.server_close()


def test_a_url_teaches_through_the_agents_environment(server: tuple[str, list[str]]) -> None:
    url, says = server
    says[0] = "Thought: I walk on.\nAction: move forward"
    options = {"levels": ["GoToRedBallNoDists"], "seeds": [1234], "max_steps": 3, "train_tasks": 3, "teacher": "big"}
    config = Config.model_validate({"benchmarks": {"babyai": options}, "backbones": {"big": {"url": url}}})
    tasks = benchmarks.load("babyai", config).tasks("train")
    found = list(trajectories.collect(config, "babyai", tasks))
    assert [item.task.id for item in found] == [task.id for task in tasks]
    assert {step.action for item in found for step in item.steps} == {"move forward"}
    assert {item.teacher for item in found} == {"big"}


def test_judges_speak_in_the_scores(server: tuple[str, list[str]], tmp_path: Path) -> None:
    url, says = server
    says[0] = "It fits.\nVerdict: correct"
    options = {"tasks": 3, "judge_url": url, "judge_model": "m", "second_judge_url": url, "second_judge_model": "m"}
    config = Config.model_validate({"benchmarks": {"multihop_qa": options}, "run": {"benchmarks": ["multihop_qa"]}})
    write_jsonl(tmp_path / "tasks.jsonl", benchmarks.load("multihop_qa", config).tasks("test"))
    for agent in ("teacher", "empty"):
        rollout(config, agent, Shard(tmp_path / "tasks.jsonl", tmp_path / f"{agent}.jsonl"))
        score_file(config, tmp_path / f"{agent}.jsonl", tmp_path / "tasks.jsonl", tmp_path / f"{agent}.parquet")
    teacher, empty = (pd.read_parquet(tmp_path / f"{agent}.parquet") for agent in ("teacher", "empty"))
    assert teacher["success"].all() and set(teacher["judge"]) == set(teacher["second_judge"]) == {"correct"}
    assert set(empty["judge"]) == {"incorrect"}, "an empty answer is wrong without asking"


@pytest.mark.parametrize(("says_what", "kept"), [("Verdict: correct", 3), ("Verdict: incorrect", 0), ("perhaps", 0)])
def test_the_filter_asks_the_judge(server: tuple[str, list[str]], says_what: str, kept: int) -> None:
    url, says = server
    says[0] = says_what
    options = {"train_tasks": 3, "judge_url": url, "judge_model": "m"}
    config = Config.model_validate({"benchmarks": {"multihop_qa": options}, "run": {"benchmarks": ["multihop_qa"]}})
    benchmark = benchmarks.load("multihop_qa", config)
    found = list(trajectories.collect(config, "multihop_qa", benchmark.tasks("train")))
    accepted, rejected, counts = trajectories.split_accepted(benchmark, found)
    assert len(accepted) == kept and set(counts) <= {"judge"} and len(accepted) + len(rejected) == 3
