"""Scale `test` through profiles/slurm on a real SLURM of this machine: `make test-cluster`.

While it runs, one rollout is cancelled with `scancel`, and the node of another is drained and taken down. Both must be played to
the end, and the tables must equal those of a local run. Only the seconds between polls and the account are set differently here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import slurm
from pipeline import ROOT, snakemake_command, tables

CONFIG = Path(__file__).parent / "config.yaml"
SECONDS = 3000
HERE = [
    "--slurm-no-account",
    "--slurm-status-command",
    "squeue",
    "--slurm-init-seconds-before-status-checks",
    "3",
    "--seconds-between-status-checks",
    "3",
]


@dataclass
class Seen:
    """What the watcher saw and did while the workflow ran."""

    workdir: Path
    jobs: list[dict[str, str]] = field(default_factory=list)
    gpus: dict[str, set[str]] = field(default_factory=dict)  # job id -> CUDA_VISIBLE_DEVICES of the servers it started
    cancelled: str = ""  # job ids
    lost: str = ""
    lost_node: str = ""
    output: str = ""
    left: list[str] = field(default_factory=list)  # command lines of the jobs' processes that were still there after the last had ended


def rule_of(job: dict[str, str]) -> str:
    """The rule, or `group`, that a job's comment names."""
    return re.sub(r"^rule_", "", job["Comment"]).partition("_wildcards_")[0]


def servers() -> Iterator[tuple[str, str]]:
    """(SLURM job, visible GPUs) of every server on this machine that a job started."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if "serve" in command and "--backbone" in command and (job := process.environ().get("SLURM_JOB_ID")):
                yield job, process.environ().get("CUDA_VISIBLE_DEVICES", "none")


def left(seconds: float, ids: set[str]) -> list[str]:
    """The command lines of processes of these jobs that are still there after some seconds."""
    deadline = time.monotonic() + seconds
    while found := [command for job, command in _processes() if job in ids]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return found


def _processes() -> Iterator[tuple[str, str]]:
    """(SLURM job, command line) of every process on this machine that belongs to one."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if (job := process.environ().get("SLURM_JOB_ID")) and process.status() != psutil.STATUS_ZOMBIE:
                yield job, " ".join(process.cmdline())[:300]


def disturb(environment: dict[str, str], seen: Seen, running: Callable[[], bool]) -> None:
    """Cancel the first rollout whose server runs, and take down the node under the next one."""
    while running():
        playing = {
            job["JobId"]: job for job in slurm.jobs(environment) if rule_of(job).startswith("rollout") and job["JobState"] == "RUNNING"
        }
        for job_id, gpus in servers():
            if job_id not in playing:
                continue
            seen.gpus.setdefault(job_id, set()).add(gpus)
            if not seen.cancelled:
                seen.cancelled = job_id
                slurm.slurm(environment, "scancel", job_id)
            elif not seen.lost and job_id != seen.cancelled:
                seen.lost, seen.lost_node = job_id, playing[job_id]["NodeList"]
                for state in ("drain", "down"):
                    slurm.slurm(environment, "scontrol", "update", f"NodeName={seen.lost_node}", f"State={state}", "Reason=test")
        time.sleep(0.2)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The workflow, run to its end through SLURM."""
    if reason := slurm.missing():
        pytest.skip(reason)
    seen = Seen(tmp_path_factory.mktemp("run"))
    log = seen.workdir / "run.log"
    profile = ["--workflow-profile", str(ROOT / "profiles/slurm"), *HERE]
    with slurm.cluster(tmp_path_factory.mktemp("slurm") / "cluster") as environment:
        with open(log, "wb") as output:
            command = snakemake_command(seen.workdir, "tables", "episodes", "serving", *profile, config=[CONFIG])
            process = subprocess.Popen(command, cwd=seen.workdir, stdout=output, stderr=output, env=os.environ | environment)
        watcher = threading.Thread(target=disturb, args=(environment, seen, lambda: process.poll() is None), daemon=True)
        watcher.start()
        try:
            process.wait(SECONDS)
        finally:
            process.kill()
        watcher.join(30)
        seen.jobs = slurm.jobs(environment)
        seen.left = left(15, {job["JobId"] for job in seen.jobs})
    seen.output = log.read_text(errors="replace")
    assert process.returncode == 0, seen.output[-6000:]
    return seen


def of(seen: Seen, rule: str) -> list[dict[str, str]]:
    found = [job for job in seen.jobs if rule_of(job).startswith(rule)]
    assert found, f"no job of {rule}; there are {sorted({rule_of(job) for job in seen.jobs})}"
    return found


def test_jobs_ask_for_what_their_stage_needs(seen: Seen) -> None:
    asked = {
        (rule_of(job).partition("_")[0], job["TimeLimit"], job["MinMemoryNode"]) for job in seen.jobs if job["Comment"].startswith("rule_")
    }
    assert ("train", "01:00:00", "4000M") in asked and ("rollout", "00:20:00", "3000M") in asked
    assert {job["CPUs/Task"] for job in of(seen, "train")} == {"1"}
    # Those that serve a model, and the one model that is trained on a GPU.
    takes_a_gpu = re.compile("rule_(rollout_tiny|train_.*tiny-ar|probe|sample_pairs)")
    told = [(job["Comment"], job.get("TresPerJob", "none")) for job in seen.jobs]
    assert told == [(comment, "gres:gpu:1" if takes_a_gpu.match(comment) else "none") for comment, _ in told]


def test_light_jobs_travel_in_groups(seen: Seen) -> None:
    rules = [rule_of(job) for job in seen.jobs]
    assert len([name for name in rules if name.startswith("light")]) == 1 and not {"table", "figure", "sample_tasks"} & set(rules)


def test_the_gpus_of_a_job_reach_its_server(seen: Seen) -> None:
    assert seen.gpus and set.union(*seen.gpus.values()) <= {"0", "1"}


def test_a_cancelled_job_is_sent_again_and_asks_for_more(seen: Seen) -> None:
    first = next(job for job in seen.jobs if job["JobId"] == seen.cancelled)
    again = [job for job in seen.jobs if job["Comment"] == first["Comment"] and job["JobId"] != first["JobId"]]
    assert first["JobState"] == "CANCELLED" and again[-1]["JobState"] == "COMPLETED"
    assert (first["MinMemoryNode"], again[-1]["MinMemoryNode"]) == ("3000M", "6000M")


def test_the_job_of_a_lost_node_runs_again_on_another(seen: Seen) -> None:
    lost = next(job for job in seen.jobs if job["JobId"] == seen.lost)
    assert int(lost["Restarts"]) >= 1 and lost["JobState"] == "COMPLETED"
    assert {lost["NodeList"], seen.lost_node} == set(slurm.NODES)


def test_tables_equal_those_of_a_local_run(seen: Seen, finished_run: Path) -> None:
    assert tables(seen.workdir) == tables(finished_run)


def test_no_process_of_a_job_is_left(seen: Seen) -> None:
    assert not seen.left
