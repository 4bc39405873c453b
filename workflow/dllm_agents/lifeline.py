"""A job ends with the workflow that started it, however that died, and takes its servers and simulators along.

Snakemake starts a stage through a shell and cannot clean up after SIGKILL. So the workflow names itself in an environment variable,
and a stage watches that process and its own shell: when either is gone it ends itself as SIGTERM would. Servers and worker
processes follow their job by the kernel's parent-death signal. A Snakemake inside a cluster's job watches what started it in the same way.

As a program, `python -I lifeline.py JOB COMMAND...`, it guards the command for the process JOB; so it imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

VARIABLE = "DLLM_AGENTS_WORKFLOW"
CLEAN_UP_SECONDS = 3.0
STOP_SECONDS = 5.0
ORPHAN_SECONDS = 1.0  # of a server whose job is gone; nobody waits for its answers
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
SERVER_KEY = "DLLM_AGENTS_API_KEY"
HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # which servers need, to fetch a checkpoint
_KEY = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)\Z", re.IGNORECASE)


def announce() -> None:
    """Name this process as the workflow that the stages started from here belong to."""
    os.environ[VARIABLE] = f"{os.getpid()}:{_started(os.getpid())}:{_place()}"


def follow() -> None:
    """Watch the workflow this stage was started by, if any, from a thread of its own."""
    pid, started, place = (os.environ.pop(VARIABLE, "").split(":", 2) + ["", ""])[:3]
    if not pid or place != _place() or not hasattr(os, "pidfd_open"):
        return  # by hand, from another machine or container, or where the kernel has no such means
    if started != _started(int(pid)):
        _leave()
    watched = []
    for number in {int(pid), os.getppid()}:
        try:
            watched.append(os.pidfd_open(number))
        except ProcessLookupError:
            _leave()
        except OSError:  # forbidden here
            return
    threading.Thread(target=_watch, args=(watched, _leave), name="lifeline", daemon=True).start()


def follow_parent() -> None:
    """End this Snakemake, which runs inside a job, once the process that started it is gone: its node was lost, or its job was sent
    elsewhere. At once: asked to end it would wait for its stage, and nobody reads its result any more."""
    if not hasattr(os, "pidfd_open"):
        return
    try:
        parent = os.pidfd_open(os.getppid())
    except OSError:  # forbidden here, or a parent outside this process namespace
        return
    threading.Thread(target=_watch, args=([parent], _end), name="lifeline", daemon=True).start()


def end_with_parent(parent: int | None = None, number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when the thread that started it ends, or send it at once where its parent is not the
    process `parent` any more. (Linux; elsewhere a process is ended by what started it alone.)"""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if parent is not None and os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), number)


def guard(job: int, command: list[str]) -> int:
    """Run a command as head of its process group, end as it ends, and end the whole group when this process is asked to end, or when the
    job is gone: a server that hangs in a compilation does not hear a signal."""
    server = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, partial(_end_group, job, server.pid))
    end_with_parent(job, signal.SIGTERM)
    return server.wait()


def _end_group(job: int, server: int, *_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + (STOP_SECONDS if os.getppid() == job else ORPHAN_SECONDS)
    while time.monotonic() < deadline and os.waitpid(server, os.WNOHANG)[0] == 0:
        time.sleep(0.02)
    os.killpg(0, signal.SIGKILL)


def hide_keys() -> None:
    """Where this job's environment holds a key, keep other processes of the same user from reading it (prctl PR_SET_DUMPABLE).

    Not for the key that was made for a server of a job: hidden, its job could not see that it is this server which listens.
    """
    if sys.platform == "linux" and any(is_key(name) and name != SERVER_KEY for name in os.environ):
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def is_key(variable: str) -> bool:
    """Whether an environment variable holds a key by its name."""
    return bool(_KEY.search(variable)) and variable not in HUB_TOKENS


def _watch(descriptors: list[int], then: Callable[[], None]) -> None:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    poll.poll()
    then()


def _leave() -> None:
    """End this process as if it were asked to, and by force when it has not ended by itself soon after."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(CLEAN_UP_SECONDS)
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _place() -> str:
    """The machine, since its last start, and the process namespace on it: where a process id means something."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot: with its id, what tells it from a later one. Empty when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(guard(int(sys.argv[1]), sys.argv[2:]))
