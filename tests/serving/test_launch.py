"""Servers start on a free port, are waited for, and end with their block or their parent, whatever engine they are."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from dllm_agents.client.client import Client, ServerFault
from dllm_agents.config import Config
from dllm_agents.errors import StageError
from dllm_agents.serving import launch
from dllm_agents.serving.launch import running_server
from dllm_agents.serving.probe import probe

DIFFUSION = {"strategy": "fast_dllm", "threshold": 0.9, "max_new_tokens": 16, "block_length": 8}

# Answers /health and /v1/chat/completions as an engine would, and writes down how it was called.
FAKE_ENGINE = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
arguments = sys.argv[1:]
port = int(arguments[arguments.index("--port") + 1])
option = "--dllm-algorithm-config"
algorithm = json.load(open(arguments[arguments.index(option) + 1])) if option in arguments else None
json.dump({"arguments": arguments, "environment": dict(os.environ), "algorithm": algorithm}, open(os.environ["FAKE_RECORD"], "w"))
class Handler(BaseHTTPRequestHandler):
    def answer(self, data):
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer({})
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer({"choices": [{"message": {"content": self.headers["authorization"] or ""}, "finish_reason": "stop"}]})
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def config(**backbones: Any) -> Config:
    return Config.model_validate({"backbones": backbones, "run": {"agents": [], "probe_concurrency": [1, 2], "probe_requests": 2}})


@pytest.fixture
def fake_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both engines' programs replaced by FAKE_ENGINE; gives the file it writes its call to."""
    program = tmp_path / "engine"
    program.write_text(f"#!{sys.executable}\n{FAKE_ENGINE}")
    program.chmod(0o755)
    record = tmp_path / "record.json"
    for variable, value in {"DLLM_AGENTS_VLLM": program, "DLLM_AGENTS_SGLANG": program, "FAKE_RECORD": record}.items():
        monkeypatch.setenv(variable, str(value))
    return record


def gone(port: int) -> bool:
    """Whether nothing listens there any more, within 5 seconds."""
    for _ in range(50):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_launchers_share_one_contract(
    engine: str, fake_engine: Path, ar_checkpoint: Path, diffusion_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "of the judge alone")
    directory, decoding = (ar_checkpoint, {"max_new_tokens": 16}) if engine == "vllm" else (diffusion_checkpoint, DIFFUSION)
    backbone = {"model": str(directory), "engine": engine, "decoding": decoding, "gpus": 2}
    settings = config(big=backbone)
    with running_server("big", settings) as endpoint, Client.for_backbone(endpoint, settings.backbones["big"]) as client:
        answer = client.complete([{"role": "user", "content": "x"}], decoding=settings.backbones["big"].decoding)
        port = httpx.URL(endpoint.base_url).port or 0
    called = json.loads(fake_engine.read_text())
    line = " ".join(called["arguments"])
    assert str(directory) in line and "--served-model-name big" in line and "--host 127.0.0.1" in line
    assert endpoint.api_key is not None and endpoint.api_key not in line
    assert "JUDGE_API_KEY" not in called["environment"]
    if engine == "vllm":
        assert called["environment"]["VLLM_API_KEY"] == endpoint.api_key and "--max-model-len 4000" in line
        assert "--tensor-parallel-size 2" in line
    else:
        assert "--dllm-algorithm LowConfidence" in line and "--max-running-requests" in line and "--tp 2" in line
        options = Path(called["arguments"][called["arguments"].index("--dllm-algorithm-config") + 1])
        assert not options.exists(), "its folder ends with the server"
        assert called["algorithm"] == {"threshold": 0.9, "block_size": 8}
    assert answer.text == f"Bearer {endpoint.api_key}" and not endpoint.native
    assert gone(port)


def test_each_benchmark_has_its_own_context(fake_engine: Path, diffusion_checkpoint: Path) -> None:
    settings = config(big={"model": str(diffusion_checkpoint), "engine": "vllm", "context": 500, "benchmark_context": {"bfcl": 700}})
    with launch.Servers(settings) as servers:
        ports = []
        for benchmark, context in (("babyai", "500"), ("alfworld", "500"), ("bfcl", "700")):
            with servers.clients({"big": None}, benchmark) as clients:
                ports.append(clients["big"].endpoint.base_url)
                line = json.loads(fake_engine.read_text())["arguments"]
                assert line[line.index("--max-model-len") + 1] == context
                assert line[line.index("--generation-config") + 1] == "vllm"
        assert ports[0] == ports[1] != ports[2]


def test_thinking_is_switched_by_the_template_alone(fake_engine: Path, diffusion_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(diffusion_checkpoint, tmp_path / "thinks")
    (tmp_path / "thinks" / "chat_template.jinja").write_text("{% if enable_thinking %}{% endif %}")
    settings = config(
        thinks={"model": str(tmp_path / "thinks"), "engine": "vllm", "thinking": False},
        plain={"model": str(diffusion_checkpoint), "engine": "vllm", "thinking": False},
    )
    with running_server("thinks", settings) as endpoint, Client.for_backbone(endpoint, settings.backbones["thinks"]) as client:
        sent = client._settings(settings.backbones["thinks"].decoding, 1)
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}
    with (
        pytest.raises(StageError, match="backbones.plain.thinking: its chat template has no `enable_thinking`"),
        running_server("plain", settings),
    ):
        pass


def test_a_server_that_dies_says_why(diffusion_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "engine"
    program.write_text("#!/bin/sh\necho 'no GPU was found' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("DLLM_AGENTS_VLLM", str(program))
    with (
        pytest.raises(StageError, match="no GPU was found"),
        running_server("big", config(big={"model": str(diffusion_checkpoint), "engine": "vllm"})),
    ):
        pass
    monkeypatch.setenv("DLLM_AGENTS_VLLM", str(tmp_path / "absent"))
    with (
        pytest.raises(StageError, match="no such program"),
        running_server("big", config(big={"model": str(diffusion_checkpoint), "engine": "vllm"})),
    ):
        pass


ATTACKER = """
import os, socket, sys
if os.getuid() == 0:
    os.setuid(65534)
with socket.socket() as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(sys.argv[1])))
    listener.listen()
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        connection.settimeout(1)
        try:
            heard = connection.recv(65536)
        except OSError:
            heard = b""
        if heard:
            print(heard.decode(errors="replace"), flush=True)
            connection.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n{}")
        connection.close()
"""


def test_another_user_who_takes_the_port_is_sent_nothing(
    fake_engine: Path, diffusion_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is slow to bind, an attacker (another user, where this runs as root) is faster and says that it is healthy."""
    taken, free = launch.free_port(), launch.free_port()
    ports = iter([taken, free])
    monkeypatch.setattr(launch, "free_port", lambda: next(ports))
    slow = Path(os.environ["DLLM_AGENTS_VLLM"])
    slow.write_text(slow.read_text().replace('HTTPServer(("127', 'import time; time.sleep(1.0)\nHTTPServer(("127'))
    attacker = subprocess.Popen([sys.executable, "-c", ATTACKER, str(taken)], stdout=subprocess.PIPE, text=True)
    try:
        assert attacker.stdout is not None and attacker.stdout.readline() == "ready\n"
        settings = config(big={"model": str(diffusion_checkpoint), "engine": "vllm"})
        with running_server("big", settings) as endpoint, Client.for_backbone(endpoint, settings.backbones["big"]) as client:
            answer = client.complete([{"role": "user", "content": "secret"}], decoding=settings.backbones["big"].decoding)
    finally:
        attacker.kill()
        heard = attacker.communicate()[0]
    assert endpoint.base_url == f"http://127.0.0.1:{free}/v1" and answer.text == f"Bearer {endpoint.api_key}"
    assert heard == ""


def test_another_user_who_takes_the_port_of_a_dead_server_is_sent_nothing(fake_engine: Path, diffusion_checkpoint: Path) -> None:
    settings = config(big={"model": str(diffusion_checkpoint), "engine": "vllm"})
    with running_server("big", settings) as endpoint, Client.for_backbone(endpoint, settings.backbones["big"]) as client:
        ask = partial(client.complete, [{"role": "user", "content": "secret"}], decoding=settings.backbones["big"].decoding)
        assert ask().text == f"Bearer {endpoint.api_key}"
        port = httpx.URL(endpoint.base_url).port or 0
        server = launch._listener(os.getpid(), port)
        assert server is not None
        server.kill()
        assert gone(port)
        attacker = subprocess.Popen([sys.executable, "-c", ATTACKER, str(port)], stdout=subprocess.PIPE, text=True)
        try:
            assert attacker.stdout is not None and attacker.stdout.readline() == "ready\n"
            with pytest.raises(ServerFault, match="has ended; another process listens on its port"):
                ask()
        finally:
            attacker.kill()
            heard = attacker.communicate()[0]
    assert heard == ""


def test_a_port_taken_between_choice_and_bind_is_chosen_again(
    fake_engine: Path, diffusion_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        taken, free = squatter.getsockname()[1], launch.free_port()
        ports = iter([taken, free])
        monkeypatch.setattr(launch, "free_port", lambda: next(ports))
        with running_server("big", config(big={"model": str(diffusion_checkpoint), "engine": "vllm"})) as endpoint:
            assert endpoint.base_url == f"http://127.0.0.1:{free}/v1"


def test_the_probe_of_a_native_server_and_of_a_dead_url(diffusion_checkpoint: Path) -> None:
    """A real server, probed; and a URL where nothing answers, which is a finding and not an error."""
    settings = config(
        tiny={"model": str(diffusion_checkpoint), "paradigm": "diffusion", "decoding": DIFFUSION, "context": 256},
        down={"url": "http://127.0.0.1:9/v1"},
    )
    record = probe(settings, "tiny")
    assert record.healthy and record.canary == "equal" and record.engine == "native"
    assert [level["concurrency"] for level in record.concurrency] == [1, 2]
    assert all(level["tokens_per_second"] > 0 and level["p95_s"] >= level["p50_s"] > 0 for level in record.concurrency)
    assert record.peak_memory_mb > 50
    down = probe(settings, "down")
    assert not down.healthy and "gives no model list" in str(down.error) and down.canary == "no reference"


def test_a_port_in_use_is_one_line(diffusion_checkpoint: Path) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        command = [sys.executable, "-m", "dllm_agents", "serve", "--model", str(diffusion_checkpoint), "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (
        ended.returncode == 1
        and ended.stderr == f"dllm-agents: 127.0.0.1:{port}: port in use; stop what listens there or choose another --port\n"
    )


def test_a_server_ends_with_its_parent(fake_engine: Path, diffusion_checkpoint: Path) -> None:
    """SIGKILL of the job: no clean-up of ours can run, the kernel ends the server."""
    backbone = {"model": str(diffusion_checkpoint), "engine": "vllm"}
    script = f"""
        import time
        from dllm_agents.config import Config
        from dllm_agents.serving.launch import running_server
        settings = Config.model_validate({{"backbones": {{"big": {backbone!r}}}, "run": {{"agents": []}}}})
        with running_server("big", settings) as endpoint:
            print(endpoint.base_url, flush=True)
            time.sleep(600)
    """
    job = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    port = httpx.URL(job.stdout.readline().strip()).port or 0
    children = psutil.Process(job.pid).children()
    os.kill(job.pid, signal.SIGKILL)
    job.wait(10)
    assert children and gone(port)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


@pytest.fixture
def listing():
    """Start a server that lists these models; gives its URL."""
    servers = []

    def start(*models: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"data": [{"id": model, "owned_by": "someone"} for model in models]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "models, named, asked", [(["one"], None, "one"), (["one", "mine"], None, "mine"), ([], None, "mine"), (["one"], "other", "other")]
)
def test_a_server_is_asked_for_the_model_it_has(listing, models: list[str], named: str | None, asked: str) -> None:
    with running_server("mine", config(mine={"url": listing(*models), "served_name": named})) as endpoint:
        assert endpoint.model == asked


def test_a_server_with_several_models_needs_to_be_told_which(listing) -> None:
    own = Config.model_validate({"add": {"mine": {"url": listing("two", "one")}}})
    with pytest.raises(StageError, match=r"add\.mine\.served_name: \S+ serves one, two; name one of them"), running_server("mine", own):
        pass
