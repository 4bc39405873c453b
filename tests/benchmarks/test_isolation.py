"""The isolated process: what the kernel forbids it, how it is lost and replaced."""

import logging
import os
import platform
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from dllm_agents.benchmarks import isolation
from dllm_agents.benchmarks.isolation import Worker
from dllm_agents.benchmarks.worker import WorkerLost, WorkerProcess
from dllm_agents.errors import StageError

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64"), reason="kernel filters are Linux's"
)


@pytest.fixture
def worker(tmp_path):
    worker = Worker("hostile_worker", tmp_path / "scratch", seconds=2.0)
    yield worker
    worker.close()


FORBIDDEN = {
    "fork": "result = os.fork()",
    "start a program": "import subprocess; result = subprocess.run(['true'])",
    "replace itself": "os.execv('/bin/true', ['true'])",
    "start a thread": "import threading; threading.Thread(target=print).start()",
    "a TCP socket": "import socket; result = socket.socket()",
    "a Unix socket": "import socket; result = socket.socketpair()",
    "write": "result = open('{outside}/new', 'w')",
    "append": "result = open('{outside}/kept', 'a')",
    "truncate": "os.truncate('{outside}/kept', 0)",
    "delete": "os.unlink('{outside}/kept')",
    "rename": "os.rename('{outside}/kept', '{outside}/moved')",
    "make a folder": "os.mkdir('{outside}/folder')",
    "link": "os.symlink('/etc', '{outside}/link')",
    "permissions": "os.chmod('{outside}/kept', 0o777)",
    "kill the parent": "os.kill({parent}, 0)",
    "trace the parent": "import ctypes; c = ctypes.CDLL(None, use_errno=True); assert c.ptrace(16, {parent}, 0, 0) == 0",
    "file in memory": "result = os.memfd_create('x')",
    "raise its limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "own a pipe's signals": "import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, {parent})",
    "choose a pipe's signal": "import fcntl; fcntl.fcntl(0, 10, 9)",
    "lease a file": "import fcntl; fcntl.fcntl(0, 1024, 0)",
    "make a pipe asynchronous": "import fcntl; fcntl.fcntl(0, fcntl.F_SETFL, os.O_ASYNC)",
    "read a file": "result = open('{outside}/kept').read()",
    "list a folder": "result = os.listdir('{outside}')",
    "read passwords": "result = open('/etc/shadow').read()",
    "read the parent's environment": "result = open('/proc/{parent}/environ').read()",
    "list the interpreter's prefix": "import sys; result = os.listdir(sys.prefix)",
    "2 GB of memory": "result = len(bytearray(2 << 30))",
}


@linux
@pytest.mark.parametrize("code", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_sealed_python_cannot(worker, tmp_path, code):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("as it was")
    reply = worker.call([code.replace("{outside}", str(outside)).replace("{parent}", str(os.getpid()))])
    assert reply in {"PermissionError", "OSError", "RuntimeError", "MemoryError", "AssertionError", "BlockingIOError", "ValueError"}
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "as it was"


def test_sealed_python_can_compute_read_and_import(worker):
    assert worker.call(["import decimal, colorsys; result = str(decimal.Decimal(1) / 3)[:4] + open(decimal.__file__).read()[:0]"]) == "0.33"


def test_an_endless_loop_ends_as_a_timeout_and_the_next_request_is_answered(worker):
    started = time.monotonic()
    endless, after = worker.call_many([["while True: pass"], ["result = 7"]])
    assert isinstance(endless, WorkerLost)
    assert str(endless) == "timeout"
    assert after == "7"
    assert worker.restarts == 1
    assert time.monotonic() - started < 20


def test_sleep_ends_by_wall_time(worker):
    with pytest.raises(WorkerLost, match="timeout"):
        worker.call(["import time; time.sleep(60)"])


def test_a_crash_loses_only_its_own_request(worker):
    replies = worker.call_many([["result = 1"], ["os._exit(3)"], ["result = 2"], ["import ctypes; ctypes.string_at(0)"], ["result = 3"]])
    assert [str(reply) for reply in replies] == ["1", "crashed", "2", "crashed", "3"]


def test_a_worker_killed_from_outside_is_replaced(worker):
    assert worker.call(["result = 1"]) == "1"
    os.kill(worker._process.pid, signal.SIGKILL)
    psutil.Process(worker._process.pid).wait()
    assert worker.call(["result = 2"]) == "2"


def test_a_worker_killed_while_it_starts_is_started_once_more(worker, monkeypatch):
    receive, killed = WorkerProcess.receive, []

    def kill_first(process, *bounds):
        if not killed:
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)
        return receive(process, *bounds)

    monkeypatch.setattr(WorkerProcess, "receive", kill_first)
    assert worker.call(["result = 1"]) == "1" and killed != [worker._process.pid]


def test_killing_the_job_ends_a_sealed_worker(tmp_path):
    """Whatever the layers: one of them, a user namespace, may make the kernel forget whom a process ends with."""
    script = f"""
        from dllm_agents.benchmarks.isolation import Worker
        worker = Worker("hostile_worker", {str(tmp_path / "scratch")!r}, seconds=600)
        worker.call(["pass"])
        print(worker._process.pid, flush=True)
        worker.call(["import time; time.sleep(600)"])
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    job = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, env=environment)
    worker = psutil.Process(int(job.stdout.readline()))
    job.kill()
    job.communicate()
    _, alive = psutil.wait_procs([worker], timeout=5)
    alive and worker.kill()
    assert not alive


def test_output_that_is_no_reply_is_a_crash(worker):
    with pytest.raises(WorkerLost, match="crashed"):
        worker.call(["os.write(1, b'not json\\n')"])
    assert worker.call(["result = 1"]) == "1"


def test_threads_share_a_worker(worker):
    replies: dict[int, list[str]] = {}

    def ask(number: int) -> None:
        replies[number] = worker.call_many([[f"result = {number}"]] * 50)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == {number: [str(number)] * 50 for number in range(4)}


def test_the_level_reached_is_logged(worker, caplog):
    with caplog.at_level(logging.INFO):
        worker.call(["pass"])
    assert "isolation by limits" in caplog.text
    assert set(worker.ready["blocked"]) == {"network", "writes", "reads", "processes", "signals"}


@linux
def test_what_is_open_without_a_layer_is_what_the_security_page_says(tmp_path):
    """The table of SECURITY.md, made again; only for layers that this machine has."""
    rows = []
    for layer in ("none", "namespaces", "landlock", "seccomp", "landlock and namespaces"):
        worker = Worker("hostile_worker", tmp_path / f"without-{layer}", seconds=5.0)
        worker.call(["pass"])
        worker.close()
        if layer == "none" and worker.ready["layers"] != ["limits", "namespaces", "landlock", "seccomp"]:
            pytest.skip(f"this machine offers {', '.join(worker.ready['layers'])} alone")
        rows.append(f"| {layer} | " + " | ".join("blocked" if shut else "open" for shut in worker.ready["blocked"].values()) + " |")
    page = (Path(__file__).parents[2] / "SECURITY.md").read_text()
    assert "\n".join(rows) in page, "\n".join(rows)


def test_a_scratch_folder_of_others_is_refused(tmp_path):
    (tmp_path / "shared").mkdir(mode=0o777)
    (tmp_path / "shared").chmod(0o777)
    with pytest.raises(StageError, match="another user owns this scratch folder or may write to it"):
        Worker("hostile_worker", tmp_path / "shared").call(["pass"])


@pytest.mark.skipif(os.getuid() != 0, reason="giving a folder away needs root")
def test_a_scratch_folder_that_another_user_owns_is_refused(tmp_path):
    (tmp_path / "given").mkdir(mode=0o700)
    os.chown(tmp_path / "given", 65534, 65534)
    with pytest.raises(StageError, match="another user owns"):
        Worker("hostile_worker", tmp_path / "given").call(["pass"])


def test_nothing_in_the_scratch_folder_is_imported(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir(mode=0o700)
    (scratch / "psutil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    worker = Worker("hostile_worker", scratch)
    assert worker.call(["import psutil; result = psutil.__name__"]) == "psutil"
    worker.close()
    assert not (tmp_path / "ran").exists()


def test_the_probe_leaves_nothing_behind_and_follows_no_link(worker, tmp_path):
    worker.call(["pass"])
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]


def test_a_reply_without_end_is_cut_off(worker, monkeypatch):
    monkeypatch.setattr(isolation, "REPLY_BYTES", 100_000)
    with pytest.raises(WorkerLost, match="too long"):
        worker.call(["result = 'x' * 1_000_000"])
    assert worker.call(["result = 1"]) == "1"


def test_a_machine_without_isolation_is_warned_of(caplog):
    worker = Worker("hostile_worker")
    worker.ready = {"layers": ["limits"], "blocked": {"network": False, "writes": False, "processes": True}}
    worker._report()
    assert "no isolation of network, writes here" in caplog.text


def test_no_secret_of_the_environment_reaches_the_worker(worker, monkeypatch):
    monkeypatch.setenv("WEB_SEARCH_API_KEY", "secret")
    assert worker.call(["result = 'secret' in os.environ.values()"]) == "False"


def test_a_worker_that_cannot_start_says_why():
    with pytest.raises(StageError, match="did not start.*No module named no_such_worker"):
        Worker("no_such_worker").call([])
