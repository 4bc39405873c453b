"""Processes of their own that answer one JSON line per request: bounded in time and size, and gone when the job is gone.

`WorkerProcess` is the job's side, `serve` the worker's. The kernel ends a worker whose job has died (`lifeline.end_with_parent`), even if
the job was killed and the worker hangs.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import psutil

from dllm_agents import foreign, lifeline

EXIT_SECONDS = 60.0  # for a worker that closed its output to end


class WorkerLost(Exception):
    """The worker ended, or was ended, during a request; the message is `timeout`, `crashed`, `too long` or `unreadable`."""


@cache
def _starter() -> ThreadPoolExecutor:
    """The thread that starts all workers: the kernel's signal comes when the *thread* that started a process ends, so it has to live
    as long as the job."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker-starter")


os.register_at_fork(after_in_child=_starter.cache_clear)  # a forked job has no such thread yet


class WorkerProcess:
    """`python -m module <process id of the job> <arguments>`, head of its process group; it calls `serve`."""

    def __init__(self, module: str, *arguments: str, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._buffer = b""
        command = [sys.executable, "-m", module, str(os.getpid()), *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._stderr}
        start: Any = partial(subprocess.Popen, command, **pipes, cwd=folder, env=environment, start_new_session=True)
        self._process: subprocess.Popen[bytes] = _starter().submit(start).result()
        self._end = weakref.finalize(self, _end, self._process, os.getpid())

    @property
    def pid(self) -> int:
        """The worker's process id, which is also its process group's."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """The worker still runs and has not been ended."""
        return self._end.alive and self._process.poll() is None

    @property
    def killed(self) -> bool:
        """Whether the worker ended by SIGKILL."""
        return self._process.poll() == -signal.SIGKILL

    def last_words(self) -> str:
        """The last line that the worker wrote to standard error."""
        self._stderr.seek(-min(self._stderr.seek(0, os.SEEK_END), 4096), os.SEEK_END)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:200] if lines else "no message"

    def close(self) -> None:
        """End the worker and everything it started. Safe to call twice."""
        self._end()

    def send(self, requests: Sequence[Any]) -> None:
        """Send requests, in pieces. That the worker has ended meanwhile shows when a reply is read."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):
            for start in range(0, len(requests), 64):
                self._process.stdin.write(b"".join(json.dumps(request).encode() + b"\n" for request in requests[start : start + 64]))
                self._process.stdin.flush()

    def receive(self, seconds: float, most: int, patience: float = 0.0) -> Any:
        """The next reply, of at most `most` bytes, within `seconds`, and up to `patience` times more while other work keeps the worker off
        the processor. Raises WorkerLost, and has ended the worker then."""
        try:
            return foreign.loads(self._line(seconds, most, patience))
        except ValueError:
            self.close()
            raise WorkerLost("unreadable") from None
        except BaseException:  # a reply that nobody read must not answer the next request
            self.close()
            raise

    def _line(self, seconds: float, most: int, patience: float) -> bytes:
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    if time.monotonic() < deadline + patience * seconds and self._waits_for_a_processor():
                        time.sleep(0.05)
                        continue
                    raise WorkerLost("timeout")
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)
                if not chunk:
                    with suppress(subprocess.TimeoutExpired):
                        self._process.wait(EXIT_SECONDS)
                    raise WorkerLost("timeout" if self._process.returncode == -signal.SIGPROF else "crashed")
                self._buffer += chunk
                if len(self._buffer) > most:
                    raise WorkerLost("too long")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _waits_for_a_processor(self) -> bool:
        """Whether the worker could run: if the request is at fault the limit of processor time ends it; the machine's load must not."""
        try:
            return psutil.Process(self.pid).status() in (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)
        except psutil.Error:
            return False


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


def follow_job() -> None:
    """What a worker does first: end with the job that started it."""
    lifeline.end_with_parent(int(sys.argv[1]))


def serve(handle: Callable[[Any], Any], ready: Any, replies: int, cpu_seconds: float = 0.0) -> None:
    """Answer JSON lines from standard input on the descriptor `replies` until it closes; `ready` is said first.

    A request that burns more than `cpu_seconds` (0: any) of processor time ends the process: the kernel's SIGPROF is not caught.
    """

    def send(reply: Any) -> None:
        data = (json.dumps(reply) + "\n").encode()
        while data:
            data = data[os.write(replies, data) :]

    send(ready)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        reply = handle(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(reply)
