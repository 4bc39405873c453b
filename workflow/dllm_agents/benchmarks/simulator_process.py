"""Simulators in processes of their own: bounded in time and memory, and gone when the job is gone.

The simulators are neither thread-safe nor bounded (some can loop, some grow), so each lives in a worker process that answers one
JSON line per request. A request that takes too long ends the worker and everything it started. The kernel ends a worker whose
job has died (PR_SET_PDEATHSIG), even if the job was killed and the worker hangs.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

from dllm_agents import foreign
from dllm_agents.errors import StageError

START_SECONDS = 300.0  # generous, as all limits are: on a crowded machine a healthy simulator may get a tenth of a core
REPLY_BYTES = 4 << 20
_PR_SET_PDEATHSIG = 1


class SimulatorError(Exception):
    """A simulator hung, died or failed. One line; the episode ends with it as its recorded error, the run goes on."""


@cache
def _starter() -> ThreadPoolExecutor:
    """The thread that starts all workers: the kernel's signal comes when the *thread* that started a process ends, so it has to live
    as long as the job."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="simulator-starter")


os.register_at_fork(after_in_child=_starter.cache_clear)  # a forked job has no such thread yet


class SimulatorProcess:
    """A worker that holds one object of the class `simulator` ("module:Class"), made with keyword `arguments` (JSON values)."""

    def __init__(self, simulator: str, arguments: dict[str, Any], memory_mb: int | None = None) -> None:
        self.simulator = simulator
        self.episodes = 0
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        setup = {"simulator": simulator, "arguments": arguments, "memory_mb": memory_mb, "parent": os.getpid()}
        command = [sys.executable, "-m", "dllm_agents.benchmarks.simulator_process", json.dumps(setup)]
        self._process = (
            _starter()
            .submit(
                subprocess.Popen,
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                start_new_session=True,
            )
            .result()
        )
        self._buffer = b""
        self._finalizer = weakref.finalize(self, _end, self._process, os.getpid())
        self._receive("start", START_SECONDS)

    @property
    def pid(self) -> int:
        """The worker's process id, which is also its process group's."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """The worker still runs and has not been ended."""
        return self._finalizer.alive and self._process.poll() is None

    def call(self, method: str, seconds: float, **arguments: Any) -> Any:
        """The JSON value that the simulator's `method` returns.

        Raises StageError when the simulator refuses the request (a StageError there), SimulatorError when it takes longer than
        `seconds`, dies or fails; after a time-out the worker is gone."""
        if not self.alive:
            raise SimulatorError(f"{self.simulator}: the simulator process has ended; reset the environment")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"method": method, "arguments": arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._died(method) from None
        return self._receive(method, seconds)

    def close(self) -> None:
        """End the worker and everything it started. Safe to call twice."""
        self._finalizer()

    def _receive(self, method: str, seconds: float) -> Any:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.close()
                raise SimulatorError(f"{self.simulator}: no answer to {method!r} within {seconds:g} s; the simulator was ended")
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise self._died(method)
            self._buffer += chunk
            if len(self._buffer) > REPLY_BYTES:
                self.close()
                raise SimulatorError(f"{self.simulator}: over {REPLY_BYTES:,} bytes in answer to {method!r}; the simulator was ended")
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            reply = foreign.loads(line)
        except ValueError:
            self.close()
            raise SimulatorError(f"{self.simulator}: the answer to {method!r} cannot be read; the simulator was ended") from None
        if "refused" in reply:
            raise StageError(reply["refused"])
        if "error" in reply:
            raise SimulatorError(f"{self.simulator}: {method!r} failed ({reply['error']})")
        return reply["value"]

    def _died(self, method: str) -> SimulatorError:
        self.close()
        self._stderr.seek(-min(self._stderr.seek(0, os.SEEK_END), 4096), os.SEEK_END)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return SimulatorError(f"{self.simulator}: the simulator died during {method!r} ({lines[-1][:200] if lines else 'no message'})")


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:  # a fork of the job has a copy of this object, not the worker
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            if pipe is not None:
                pipe.close()


class SimulatorPool:
    """Workers of one kind that wait for their next episode; each is replaced after `recycle_after` episodes."""

    def __init__(self, start: Callable[[], SimulatorProcess], recycle_after: int) -> None:
        self._start = start
        self._recycle_after = recycle_after
        self._idle: list[SimulatorProcess] = []
        self._lock = threading.Lock()

    def take(self) -> SimulatorProcess:
        """A worker for one episode: a waiting one, else a new one. Thread-safe."""
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.alive:
                    return process
        return self._start()

    def give(self, process: SimulatorProcess) -> None:
        """Take back a worker after its episode."""
        process.episodes += 1
        if process.alive and process.episodes < self._recycle_after:
            with self._lock:
                self._idle.append(process)
        else:
            process.close()

    def close(self) -> None:
        """End the waiting workers."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _serve(setup: dict[str, Any]) -> None:
    """The worker: make the simulator, then answer requests until the job closes the pipe."""
    die_with_parent()
    if os.getppid() != setup["parent"]:
        return
    if setup["memory_mb"] is not None:
        limit = setup["memory_mb"] << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # Replies go out on a private copy of stdout, so that nothing a library prints can be taken for one.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(act: Callable[..., Any], arguments: dict[str, Any]) -> None:
        try:
            answer = {"value": act(**arguments)}
        except StageError as error:
            answer = {"refused": str(error)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    held: list[Any] = []

    def make(**arguments: Any) -> None:
        module, _, name = setup["simulator"].partition(":")
        held.append(getattr(import_module(module), name)(**arguments))

    reply(make, setup["arguments"])
    for line in sys.stdin:
        request = json.loads(line)
        reply(lambda method, arguments: getattr(held[0], method)(**arguments), request)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
