"""Servers that live as long as the job that needs them: native, vLLM or SGLang, or one that already runs."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import httpx
import psutil

from dllm_agents import foreign, lifeline
from dllm_agents.client.client import Client, Endpoint, ServerFault, api_key
from dllm_agents.config import Backbone, Config
from dllm_agents.errors import StageError
from dllm_agents.models.checkpoints import knows_thinking, resolve_model

HOST = "127.0.0.1"
LISTENING = (HOST, f"::ffff:{HOST}", "0.0.0.0", "::")  # addresses of a listener that is reached at HOST
SGLANG_REQUESTS = "16"  # its default for diffusion models is one
PORT_TRIES = 5
LIST_BYTES, LIST_SECONDS = 1 << 20, 10.0  # of a server's list of models
START_SECONDS = {"native": 600.0, "vllm": 1800.0, "sglang": 1800.0}
LOG_TAIL = 8


@dataclass(frozen=True)
class Job:
    """What a launcher needs to know. `scratch` is a folder only this user can read; `key` guards the server on a shared machine."""

    name: str
    backbone: Backbone
    seed: int
    model_dir: Path | None
    port: int
    scratch: Path
    key: str


@dataclass(frozen=True)
class Launch:
    """A server's command line and environment. Keys travel in the environment or in files, never on the command line."""

    command: list[str]
    environment: dict[str, str]


@contextmanager
def running_server(backbone_name: str, config: Config, model_dir: Path | None = None, benchmark: str | None = None) -> Iterator[Endpoint]:
    """A served backbone for the time of the block: started on a free port and always ended, or the configured URL.

    `model_dir` is the checkpoint trained for the backbone, `benchmark` the one whose context it takes.
    Must be entered in a thread that outlives the block, because the server ends with the thread that started it.
    Raises StageError, with the log's last lines, when the server does not get healthy, and adds them to a ServerFault of the block.
    """
    backbone = config.backbones[backbone_name]
    backbone = backbone.model_copy(update={"context": backbone.context_on(benchmark)})
    if backbone.url:
        yield configured_endpoint(backbone_name, backbone, config.origin_key(backbone_name))
        return
    if backbone.thinking is not None and not knows_thinking(resolve_model(backbone, model_dir)):
        where = config.origin_key(backbone_name)
        raise StageError(f"{where}.thinking: its chat template has no `enable_thinking`; leave the key out")
    with tempfile.TemporaryDirectory(prefix="dllm-agents-serve-") as scratch:
        log = Path(scratch, "server.log")
        process, endpoint = _start(backbone_name, backbone, config.seed, model_dir, Path(scratch), log)
        try:
            yield endpoint
        except ServerFault as fault:
            if process.poll() is None and endpoint.base_url not in str(fault):
                raise
            raise ServerFault(f"{fault}; last lines of the log of {backbone_name}: {_tail(log) or 'none'}") from None
        finally:
            _end(process)


class Served(NamedTuple):
    """What a running server stands for."""

    name: str
    model: Path | None
    context: int


class Servers:
    """The servers of a job: one for each backbone, checkpoint and context in use, shared by all agents that the job plays."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._running: dict[Served, tuple[ExitStack, Client]] = {}

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(list(self._running))

    @contextmanager
    def clients(self, models: Mapping[str, Path | None], benchmark: str) -> Iterator[dict[str, Client]]:
        """Clients of backbones on a benchmark, each with the checkpoint trained for it, for the time of the block.

        What runs already is used again; what is not asked for is ended first, since two checkpoints of a backbone may not fit
        one GPU. An error in the block ends them all, and those asked for next time start afresh. Raises as `running_server` does.
        """
        servers = [Served(name, model, self._config.backbones[name].context_on(benchmark)) for name, model in models.items()]
        self._end([key for key in self._running if key not in servers])
        try:
            for key in servers:
                if key not in self._running:
                    self._running[key] = self._start(key, benchmark)
            yield {key.name: self._running[key][1] for key in servers}
        except BaseException:
            # Each of the contexts sees the error: the one whose server is at fault adds its last words.
            with ExitStack() as ending:
                for stack, _ in self._running.values():
                    ending.push(stack)
                self._running.clear()
                raise

    def _start(self, served: Served, benchmark: str) -> tuple[ExitStack, Client]:
        with ExitStack() as starting:
            endpoint = starting.enter_context(running_server(served.name, self._config, served.model, benchmark=benchmark))
            client = starting.enter_context(Client.for_backbone(endpoint, self._config.backbones[served.name]))
            return starting.pop_all(), client

    def _end(self, keys: list[Served]) -> None:
        with ExitStack() as ending:
            for key in keys:
                ending.push(self._running.pop(key)[0])


def configured_endpoint(name: str, backbone: Backbone, where: str) -> Endpoint:
    """The endpoint of a backbone that is given by URL, defined at the key `where`. A server with one model is asked for that one. Raises
    StageError when nothing answers there, and when it is not clear which of several models is meant."""
    key = api_key(backbone)
    endpoint = Endpoint(str(backbone.url), backbone.served_name or name, native=False, api_key=key)
    address = f"{endpoint.base_url.rstrip('/')}/models"
    try:
        with httpx.stream("GET", address, headers=endpoint.headers() | foreign.ACCEPTED, timeout=LIST_SECONDS) as response:
            if response.status_code in (404, 405, 501) and backbone.served_name:
                return endpoint  # no list of models is needed where the name is given
            response.raise_for_status()
            listed = foreign.loads(foreign.gather(foreign.body_of(response), LIST_BYTES, LIST_SECONDS))["data"]
        native = any(entry.get("owned_by") == "dllm-agents" for entry in listed)
        models = [str(entry["id"]) for entry in listed]
    except (httpx.HTTPError, httpx.InvalidURL, foreign.TooMuch, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StageError(f"{where}.url: {backbone.url} gives no model list ({reason}); start the server or correct the URL") from None
    if backbone.served_name is None and models and name not in models:
        if len(models) > 1:
            raise StageError(f"{where}.served_name: {backbone.url} serves {', '.join(sorted(models)[:20])}; name one of them")
        return Endpoint(endpoint.base_url, models[0], native, key)
    return Endpoint(endpoint.base_url, endpoint.model, native, key)


def _start(
    name: str, backbone: Backbone, seed: int, model_dir: Path | None, scratch: Path, log: Path
) -> tuple[subprocess.Popen[bytes], Endpoint]:
    for _ in range(PORT_TRIES):
        job = Job(name, backbone, seed, model_dir, free_port(), scratch, secrets.token_urlsafe(24))
        process = _spawn(BUILDERS[backbone.engine](job), log)
        try:
            state = _state_after_start(process, job.port, START_SECONDS[backbone.engine])
            if state == "healthy" and (listener := _listener(process.pid, job.port)):
                url = f"http://{HOST}:{job.port}/v1"
                return process, Endpoint(url, name, backbone.engine == "native", job.key, partial(_is_alive, listener))
        except BaseException:
            _end(process)
            raise
        _end(process)
        tail = _tail(log)
        # Another process took the port between choice and bind: choose again.
        if state != "taken" and "in use" not in tail:
            break
    raise StageError(f"backbones.{name}: its {backbone.engine} server did not get healthy; last lines of its log: {tail or 'none'}")


def free_port() -> int:
    """A port that is free on the loopback interface now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _spawn(launch: Launch, log: Path) -> subprocess.Popen[bytes]:
    executable = shutil.which(launch.command[0])
    if executable is None:
        raise StageError(f"{launch.command[0]}: no such program; make its environment as envs/vllm.txt or envs/sglang.txt says")
    guarded = [sys.executable, "-I", lifeline.__file__, str(os.getpid()), executable, *launch.command[1:]]
    # Keys of searches, judges and other backbones are none of a server's business.
    environment = {name: value for name, value in os.environ.items() if not lifeline.is_key(name)} | launch.environment
    with open(log, "wb") as output:
        return subprocess.Popen(guarded, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True)


def _state_after_start(process: subprocess.Popen[bytes], port: int, seconds: float) -> Literal["healthy", "taken", "failed"]:
    """Wait until the server answers /health, ends, or the time is over; `taken` when another process listens on its port.

    Nothing is sent to a listener that is not of the process group that was started: another user of the machine could take the port
    first, and would be given the key and the prompts.
    """
    deadline = time.monotonic() + seconds
    pause = 0.05
    with httpx.Client(trust_env=False, timeout=2.0) as http:
        while time.monotonic() < deadline and process.poll() is None:
            if _listener(process.pid, port):
                with suppress(httpx.HTTPError):
                    if http.get(f"http://{HOST}:{port}/health").status_code == 200:
                        return "healthy" if process.poll() is None else "failed"
            elif _is_open(port) and not _listener(process.pid, port):
                return "taken"
            time.sleep(pause)
            pause = min(pause * 1.3, 0.5)
    return "failed"


def _listener(pid: int, port: int) -> psutil.Process | None:
    """The process, among one and those that it started, that listens on a port of the loopback interface."""
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.Error):
                listening = [entry.laddr for entry in process.net_connections(kind="tcp") if entry.status == psutil.CONN_LISTEN]
                if any(address.port == port and address.ip in LISTENING for address in listening):
                    return process
    return None


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _is_open(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((HOST, port)) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server's whole process group: politely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(lifeline.STOP_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " | ".join(line.strip() for line in lines[-LOG_TAIL:])[-1500:]


def native_launch(job: Job) -> Launch:
    """This project's own server, in this interpreter. It is given the one backbone it serves and nothing else of the configuration."""
    settings = job.scratch / "backbone.yaml"
    shown = {"backbones": {job.name: job.backbone.model_dump(mode="json")}, "run": {"agents": []}}
    settings.write_text(json.dumps(shown), encoding="utf-8")
    command = [sys.executable, "-m", "dllm_agents", "serve", "--config", str(settings), "--backbone", job.name, "--port", str(job.port)]
    return Launch([*command, *(["--model", str(job.model_dir)] if job.model_dir else [])], {lifeline.SERVER_KEY: job.key})


def vllm_launch(job: Job) -> Launch:
    """vLLM's OpenAI server, for autoregressive backbones. $DLLM_AGENTS_VLLM is its environment's `vllm` program."""
    command = [os.environ.get("DLLM_AGENTS_VLLM", "vllm"), "serve", str(resolve_model(job.backbone, job.model_dir))]
    command += ["--served-model-name", job.name, "--host", HOST, "--port", str(job.port)]
    command += ["--max-model-len", str(job.backbone.context), "--dtype", job.backbone.dtype, "--seed", str(job.seed)]
    # A checkpoint's own sampling defaults (top_p, top_k of its generation_config.json) would change every request that does not name them.
    command += ["--generation-config", "vllm"]
    if job.backbone.template_settings:
        command += ["--default-chat-template-kwargs", json.dumps(job.backbone.template_settings)]
    if job.backbone.gpus > 1:
        command += ["--tensor-parallel-size", str(job.backbone.gpus)]
    return Launch(command, {"VLLM_API_KEY": job.key, "VLLM_NO_USAGE_STATS": "1"})


def sglang_launch(job: Job) -> Launch:
    """SGLang's OpenAI server; diffusion backbones (SDAR, LLaDA2.x) get its low-confidence algorithm with their threshold and block.

    $DLLM_AGENTS_SGLANG is its environment's `sglang` program. Its key and algorithm settings are read from files.
    """
    keys = job.scratch / "sglang.yaml"
    keys.write_text(json.dumps({"api-key": job.key}), encoding="utf-8")
    command = [os.environ.get("DLLM_AGENTS_SGLANG", "sglang"), "serve", "--config", str(keys)]
    command += ["--model-path", str(resolve_model(job.backbone, job.model_dir)), "--served-model-name", job.name]
    command += ["--host", HOST, "--port", str(job.port), "--context-length", str(job.backbone.context)]
    command += ["--dtype", job.backbone.dtype, "--random-seed", str(job.seed)]
    if job.backbone.gpus > 1:
        command += ["--tp", str(job.backbone.gpus)]
    if job.backbone.paradigm == "diffusion":
        decoding = job.backbone.decoding
        algorithm = {"threshold": decoding.threshold, "block_size": decoding.block_length}
        options = job.scratch / "algorithm.yaml"
        options.write_text(json.dumps({name: value for name, value in algorithm.items() if value is not None}), encoding="utf-8")
        command += ["--dllm-algorithm", "LowConfidence", "--dllm-algorithm-config", str(options), "--max-running-requests", SGLANG_REQUESTS]
    return Launch(command, {})


BUILDERS = {"native": native_launch, "vllm": vllm_launch, "sglang": sglang_launch}
