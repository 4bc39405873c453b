"""Simulators in processes of their own: bounded in time and memory, and gone when the job is gone.

The simulators are neither thread-safe nor bounded (some can loop, some grow), so each lives in a worker process. A request that takes too
long ends the worker and everything it started.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from dllm_agents.benchmarks import worker
from dllm_agents.benchmarks.worker import WorkerLost, WorkerProcess
from dllm_agents.errors import StageError

START_SECONDS = 300.0  # generous, as all limits are: on a crowded machine a healthy simulator may get a tenth of a core
REPLY_BYTES = 4 << 20
_LOST = {
    "timeout": "no answer to {method!r} within {seconds:g} s; the simulator was ended",
    "too long": "over {most:,} bytes in answer to {method!r}; the simulator was ended",
    "unreadable": "the answer to {method!r} cannot be read; the simulator was ended",
    "crashed": "the simulator died during {method!r} ({last_words})",
}


class SimulatorError(Exception):
    """A simulator hung, died or failed. One line; the episode ends with it as its recorded error, the run goes on."""


class SimulatorProcess(WorkerProcess):
    """A worker that holds one object of the class `simulator` ("module:Class"), made with keyword `arguments` (JSON values)."""

    def __init__(self, simulator: str, arguments: dict[str, Any], memory_mb: int | None = None) -> None:
        super().__init__(__name__, json.dumps({"simulator": simulator, "arguments": arguments, "memory_mb": memory_mb}))
        self.simulator = simulator
        self.episodes = 0
        self._reply("start", START_SECONDS)

    def call(self, method: str, seconds: float, **arguments: Any) -> Any:
        """The JSON value that the simulator's `method` returns.

        Raises StageError when the simulator refuses the request (a StageError there), SimulatorError when it takes longer than
        `seconds`, dies or fails; after a time-out the worker is gone."""
        if not self.alive:
            raise SimulatorError(f"{self.simulator}: the simulator process has ended; reset the environment")
        self.send([{"method": method, "arguments": arguments}])
        return self._reply(method, seconds)

    def _reply(self, method: str, seconds: float) -> Any:
        try:
            reply = self.receive(seconds, REPLY_BYTES)
        except WorkerLost as loss:
            reason = _LOST[str(loss)].format(method=method, seconds=seconds, most=REPLY_BYTES, last_words=self.last_words())
            raise SimulatorError(f"{self.simulator}: {reason}") from None
        if "refused" in reply:
            raise StageError(reply["refused"])
        if "error" in reply:
            raise SimulatorError(f"{self.simulator}: {method!r} failed ({reply['error']})")
        return reply["value"]


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


def main() -> None:
    """The worker: make the simulator, then answer requests until the job closes the pipe."""
    worker.follow_job()
    setup = json.loads(sys.argv[2])
    if setup["memory_mb"] is not None:
        limit = setup["memory_mb"] << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # Replies go out on a private copy of stdout, so that nothing a library prints can be taken for one.
    replies = os.dup(1)
    os.dup2(2, 1)
    simulator: Any = None

    def make(**arguments: Any) -> None:
        nonlocal simulator
        module, _, name = setup["simulator"].partition(":")
        simulator = getattr(import_module(module), name)(**arguments)

    def call(method: str, arguments: dict[str, Any]) -> Any:
        return getattr(simulator, method)(**arguments)

    ready = _answer(make, setup["arguments"])
    worker.serve(partial(_answer, call), ready, replies)


def _answer(act: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": act(**arguments)}
    except StageError as error:
        return {"refused": str(error)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


if __name__ == "__main__":
    main()
