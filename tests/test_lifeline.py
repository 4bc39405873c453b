"""A stage ends soon after the workflow, or the shell, that started it."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from dllm_agents import lifeline

# A stage: it follows its workflow, notes that it cleaned up when asked to end, and would wait for a minute.
STAGE = """
    import signal, sys, time
    from dllm_agents import lifeline
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lifeline.follow()
    try:
        print("follows", flush=True)
        time.sleep(60)
    finally:
        open(sys.argv[1], "w").close()
"""
# A workflow: it announces itself and starts a stage through a shell that waits for it, as Snakemake does.
WORKFLOW = """
    import subprocess, sys
    from dllm_agents import lifeline
    lifeline.announce()
    subprocess.run(["sh", "-c", '"$0" -c "$1" "$2"; true', sys.executable, sys.argv[1], sys.argv[2]])
"""


@pytest.mark.parametrize("victim", ["workflow", "shell"])
def test_a_stage_ends_with_what_started_it(victim: str, tmp_path: Path) -> None:
    cleaned = tmp_path / "cleaned"
    arguments = [sys.executable, "-c", textwrap.dedent(WORKFLOW), textwrap.dedent(STAGE), str(cleaned)]
    workflow = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert workflow.stdout is not None and workflow.stdout.readline() == "follows\n"
    shell, stage = psutil.Process(workflow.pid).children(recursive=True)
    os.kill({"workflow": workflow.pid, "shell": shell.pid}[victim], signal.SIGKILL)
    _, alive = psutil.wait_procs([stage], timeout=10)
    shell.is_running() and shell.kill()
    workflow.wait(10)
    assert not alive and cleaned.exists()


# What starts a Snakemake inside a job: a shell that waits for it.
INNER = """
    import signal, time
    from dllm_agents import lifeline
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it would wait for its stage
    lifeline.follow_parent()
    print("follows", flush=True)
    time.sleep(60)
"""


def test_a_snakemake_inside_a_job_ends_with_what_started_it() -> None:
    shell = subprocess.Popen(["sh", "-c", '"$0" -c "$1"; true', sys.executable, textwrap.dedent(INNER)], stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None and shell.stdout.readline() == "follows\n"
    (inner,) = psutil.Process(shell.pid).children()
    shell.kill()
    _, alive = psutil.wait_procs([inner], timeout=10)
    shell.wait(10)
    assert not alive


def test_a_stage_started_by_hand_follows_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(lifeline.VARIABLE, raising=False)
    lifeline.follow()
    # The identity of a process elsewhere means nothing here.
    monkeypatch.setenv(lifeline.VARIABLE, f"{os.getpid()}:1:another machine")
    lifeline.follow()
    time.sleep(0.1)


HIDDEN = ("WEB_SEARCH_API_KEY", "MY_BACKBONE_API_KEY", "MY_TOKEN", "AWS_SECRET_ACCESS_KEY")
# A server that hides its own key cannot be seen to listen by the job that started it, unless that is root's.
SEEN = ("DLLM_AGENTS_API_KEY", "HF_TOKEN", "TOKENIZERS_PARALLELISM")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's way")
@pytest.mark.parametrize(("variable", "readable"), [*((name, 0) for name in HIDDEN), *((name, 1) for name in SEEN)])
def test_a_job_with_a_key_cannot_be_read_by_other_processes_of_its_user(variable, readable):
    code = "import ctypes; from dllm_agents import lifeline; lifeline.hide_keys(); print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    environment = {**os.environ, "PYTHONPATH": str(Path(lifeline.__file__).parents[1]), variable: "secret"}
    job = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert int(job.stdout) == readable  # PR_GET_DUMPABLE
