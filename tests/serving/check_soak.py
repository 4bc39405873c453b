"""The real server under load for a while: schemathesis over its own schema, and hundreds of requests that hang up. `make test-soak`;
SOAK=60 for less than the ten minutes of schemathesis."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance
from small_checkpoints import make_tokenizer, save_checkpoint

SECONDS = int(os.environ.get("SOAK", "600"))
PATHS = ("chat/completions", "completions")
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
REQUESTS = 400
GROWTH = 32 << 20  # bytes that the server may have taken on over a round of 400 requests after a first round


class Server(NamedTuple):
    name: str
    url: str
    process: subprocess.Popen[bytes]

    def memory(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def busy(self) -> float:
        """Requests that are running or waiting."""
        metrics = httpx.get(f"{self.url}/metrics", timeout=60).text
        numbers = re.findall(r"^dllm_agents_requests_(?:running|waiting) (\S+)$", metrics, re.MULTILINE)
        assert len(numbers) == 2
        return sum(map(float, numbers))


@pytest.fixture(scope="module", params=["tiny-ar", "tiny-diffusion"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = save_checkpoint(tmp_path_factory.mktemp("soak") / request.param, make_tokenizer(), request.param == "tiny-diffusion")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dllm_agents", "serve", "--model", str(folder), "--port", str(port)]
    started = Server(request.param, f"http://127.0.0.1:{port}", subprocess.Popen(command))
    for _ in range(600):
        try:
            httpx.get(f"{started.url}/health", timeout=5)
            break
        except httpx.HTTPError:
            assert started.process.poll() is None, "the server ended"
            time.sleep(0.2)
    yield started
    started.process.send_signal(signal.SIGTERM)
    started.process.wait(20)


def test_its_own_schema_finds_no_accident(server: Server, tmp_path: Path) -> None:
    """What fits the schema and what does not, alone and one request upon another."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--phases", "coverage,fuzzing,stateful"]
    command += ["--checks", ",".join(check.__name__ for check in CHECKS), "--max-time", str(SECONDS // 4), "--max-examples", "100000"]
    done = subprocess.run([*command, "--request-timeout", "300", "--no-color"], cwd=tmp_path, capture_output=True, text=True)
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert server.process.poll() is None and settled(server)


def test_requests_to_its_model_meet_no_accident(server: Server) -> None:
    """The same with the one name of a model that is served, so that a good part of the requests is decoded."""
    api = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    cases = [
        api[f"/v1/{path}"]["post"].as_strategy(generation_mode=GenerationMode.POSITIVE) for path in ("chat/completions", "completions")
    ]
    statuses: Counter[int] = Counter()

    @given(case=strategies.one_of(cases))
    @settings(max_examples=50, deadline=None, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    def survives(case: Any) -> None:
        case.body["model"] = server.name
        statuses[case.call_and_validate(checks=CHECKS, timeout=300).status_code] += 1

    started = time.monotonic()
    while time.monotonic() - started < SECONDS / 4:
        survives()
    print(f"{server.name}: {dict(statuses)}")
    assert statuses[200] > 0.1 * statuses.total() and settled(server)


def test_requests_that_hang_up_leave_nothing_behind(server: Server) -> None:
    whole = answer(server)
    hang_up_often(server, 1)
    before = server.memory()
    hang_up_often(server, 2)
    grown = server.memory() - before
    print(f"{server.name}: {grown / 2**20:.1f} MiB more after {REQUESTS} requests that hung up")
    assert grown < GROWTH and answer(server) == whole


def hang_up_often(server: Server, seed: int) -> None:
    """Some hang up before an answer is there, some in the middle of a stream, some at its end."""
    generator = random.Random(seed)
    moments = [(generator.random() < 0.5, generator.choice([0.0, 0.01, 0.05, 0.2]) * generator.random()) for _ in range(REQUESTS)]
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda moment: hang_up(server, *moment), moments))
    assert settled(server), f"{server.busy()} requests still run or wait"


def hang_up(server: Server, stream: bool, seconds: float) -> None:
    body = json.dumps({"model": server.name, "messages": [{"role": "user", "content": "go"}], "max_tokens": 256, "stream": stream}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        if stream:
            connection.recv(1 + int(seconds * 20_000))
        time.sleep(seconds)


def settled(server: Server) -> bool:
    """Whether nothing runs or waits within ten seconds."""
    for _ in range(100):
        if not server.busy():
            return True
        time.sleep(0.1)
    return False


def answer(server: Server) -> str:
    body = {"model": server.name, "messages": [{"role": "user", "content": "the red ball"}], "max_tokens": 16}
    return str(httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120).json()["choices"][0]["message"]["content"])
