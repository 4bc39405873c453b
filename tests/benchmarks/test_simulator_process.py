"""A simulator in a worker process: what it answers, and how it ends when it hangs, fails, grows, or its job is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dllm_agents.benchmarks.simulator_process import SimulatorError, SimulatorPool, SimulatorProcess

EVENT = "threading:Event"  # any importable class will do as a simulator: this one can answer at once or hang


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone_within(seconds: float, *pids: int) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(running, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(running, pids))


def test_a_worker_answers_with_json_values() -> None:
    worker = SimulatorProcess(EVENT, {})
    assert worker.call("is_set", 30) is False
    worker.call("set", 30)
    assert worker.call("is_set", 30) is True
    worker.close()
    worker.close()
    assert gone_within(5, worker.pid)


def test_a_hung_simulator_is_ended_and_named() -> None:
    worker = SimulatorProcess(EVENT, {})
    with pytest.raises(SimulatorError, match=r"threading:Event: no answer to 'wait' within 0\.2 s"):
        worker.call("wait", 0.2, timeout=600)
    assert gone_within(5, worker.pid)
    with pytest.raises(SimulatorError, match="has ended"):
        worker.call("is_set", 1)


def test_what_a_simulator_says_is_valid_and_bounded() -> None:
    worker = SimulatorProcess("random:Random", {})
    assert worker.call("choices", 30, population=["a\ud800\u2028"], k=1) == ["a\ufffd\u2028"]
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    for population, count, reason in (([deep], 1, "cannot be read"), (["x" * 1000], 10_000, "over 4,194,304 bytes")):
        with pytest.raises(SimulatorError, match=reason):
            worker.call("choices", 30, population=population, k=count)
        assert gone_within(5, worker.pid)
        worker = SimulatorProcess("random:Random", {})
    worker.close()


def test_a_failing_call_is_one_line_and_the_worker_goes_on() -> None:
    worker = SimulatorProcess("random:Random", {}, memory_mb=256)
    with pytest.raises(SimulatorError, match="MemoryError"):
        worker.call("choices", 60, population=[0], k=10**9)
    with pytest.raises(SimulatorError, match="AttributeError"):
        worker.call("no_such_method", 30)
    assert 0 <= worker.call("random", 30) < 1
    worker.close()


def test_a_worker_that_dies_says_during_what() -> None:
    worker = SimulatorProcess(EVENT, {})
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(SimulatorError, match="died during 'wait'|has ended"):
        worker.call("wait", 30, timeout=600)


def test_a_simulator_that_cannot_be_made_says_why() -> None:
    with pytest.raises(SimulatorError, match="'start' failed .*ModuleNotFoundError"):
        SimulatorProcess("no_such_module:Simulator", {})


def test_the_pool_reuses_workers_and_replaces_them_after_their_episodes() -> None:
    pool = SimulatorPool(lambda: SimulatorProcess(EVENT, {}), recycle_after=2)
    first = pool.take()
    pool.give(first)
    assert pool.take() is first
    pool.give(first)
    assert not first.alive
    second = pool.take()
    pool.give(second)
    pool.close()
    assert not second.alive


def test_killing_the_job_ends_a_hung_worker() -> None:
    script = (
        "from dllm_agents.benchmarks.simulator_process import SimulatorProcess\n"
        "import threading\n"
        # Started from a thread that ends: the worker must outlive that thread, and not the job.
        "made = []\n"
        f"starter = threading.Thread(target=lambda: made.append(SimulatorProcess({EVENT!r}, {{}})))\n"
        "starter.start(); starter.join()\n"
        "assert made[0].call('is_set', 30) is False\n"
        "print(made[0].pid, flush=True)\n"
        "made[0].call('wait', 600, timeout=600)\n"
    )
    job = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    worker = int(job.stdout.readline())
    assert running(worker)
    job.kill()
    job.communicate()
    assert gone_within(5, worker)


def test_a_fork_of_the_job_starts_its_own_workers_and_leaves_the_others_alone() -> None:
    worker = SimulatorProcess(EVENT, {})
    child = os.fork()
    if child == 0:
        worker.close()
        own = SimulatorProcess(EVENT, {})
        os._exit(17 if own.call("is_set", 30) is False else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
    assert worker.call("is_set", 30) is False
    worker.close()
