"""Faults on the real pipeline at scale `test`: `make test-faults`, or a part with `-k quick`.

Each hurts a run while episodes are played, runs it again as the README says, and demands the undisturbed run's tables, every
episode once, and no process or port left behind. The table of outcomes is printed and written to README.md beside this file.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dllm_agents.provenance import hardware

sys.path.insert(0, str(Path(__file__).parent))
from faults import PATIENCE, Run, listening, port_of

RANDOM_KILLS = 20
RUN_SECONDS = 80.0  # about what an undisturbed run takes on two cores that do other things too
GRACE = 30.0
README = Path(__file__).parent / "README.md"
outcomes: dict[str, tuple[str, int, int]] = {}  # fault -> what is done, tries, recovered, in this session


def killed_workflow(run: Run) -> None:
    """SIGKILL of Snakemake while episodes are played: its jobs leave by themselves"""
    running = run.start()
    run.wait_for(run.journals, running)
    servers = [port_of(server) for server in run.servers()]
    run.kill(running)
    running.wait()
    run.nothing_is_left()
    assert not any(map(listening, servers))
    run.finish(unlock=True)


def killed_rollout(run: Run) -> None:
    """SIGKILL of a rollout: the kernel ends its server and simulators, Snakemake reports the failure"""
    running = run.start()
    run.wait_for(run.journals, running)
    for stage in run.rollouts():
        run.kill(stage)
    assert running.wait(PATIENCE) != 0
    run.finish()


def killed_server(run: Run) -> None:
    """SIGKILL of a server: it is started again, the episodes in flight are played anew"""
    running = run.start()
    run.wait_for(run.journals, running)
    run.kill(run.wait_for(run.servers, running)[0])  # type: ignore[index]
    assert running.wait(PATIENCE) == 0, run.log()[-3000:]
    run.finish()


def killed_simulator(run: Run) -> None:
    """SIGKILL of the isolated checker of tool calls: it is started again, nothing else stops"""
    running = run.start()
    run.kill(run.wait_for(run.simulators, running)[0])  # type: ignore[index]
    assert running.wait(PATIENCE) == 0, run.log()[-3000:]
    run.finish()


def preempted(run: Run) -> None:
    """SIGTERM to every process, as a scheduler's pre-emption sends it, then SIGKILL after 30 s"""
    running = run.start()
    run.wait_for(run.journals, running)
    for process in run.processes():
        run.kill(process, signal.SIGTERM)
    run.nothing_is_left(GRACE)
    assert running.wait() != 0
    run.finish(unlock=True)


def full_disk(run: Run) -> None:
    """No space left while episodes are played; then there is space again"""
    with small_disk(run) as disk:
        running = run.start()
        run.wait_for(run.journals, running)
        filler = disk / "filler"
        with open(filler, "wb", buffering=0) as handle, pytest.raises(OSError, match="No space"):
            while True:
                handle.write(b"\0" * (1 << 16))
        assert running.wait(PATIENCE) != 0
        assert "No space left" in run.log()
        run.nothing_is_left()
        filler.unlink()
        run.finish(unlock=True)


def read_only_results(run: Run) -> None:
    """The results folder cannot be written at first"""
    with small_disk(run) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        running = run.start()
        assert running.wait(PATIENCE) != 0
        assert re.search(r"[Rr]ead-only", run.log())
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        run.finish(unlock=True)


def corrupted_journal(run: Run) -> None:
    """A journal's first episode is overwritten with noise after a kill: that episode is played again"""
    running = run.start()
    run.wait_for(run.journals, running)
    run.kill(running)
    running.wait()
    run.nothing_is_left()
    journal = run.journals()[0]
    lines = journal.read_bytes().split(b"\n")
    lines[1] = b"\xff" * len(lines[1])
    journal.write_bytes(b"\n".join(lines))
    run.finish(unlock=True)


def corrupted_episodes(run: Run) -> None:
    """A line of a finished episode file is damaged: scoring names file and line; the file is deleted, as it says, and made again"""
    run.finish()
    path = run.results / "episodes/babyai/tiny-ar.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0][: len(lines[0]) // 2] + b"\n" + b"".join(lines[1:]))
    assert run.start().wait(PATIENCE) != 0
    assert f"{path.relative_to(run.workdir)}:1: not a Episode record" in run.log()
    path.unlink()
    run.finish()


def clock_behind(run: Run) -> None:
    """The clock is an hour behind after a kill: all that was made until then lies in the future"""
    running = run.start()
    run.wait_for(run.journals, running)
    run.kill(running)
    running.wait()
    run.nothing_is_left()
    leave_an_hour_ahead(run)
    run.finish(unlock=True)


def clock_jumps_back(run: Run) -> None:
    """The clock of every process jumps back an hour while episodes are played: what is made then is older than what it is made from"""
    compiler, library, clock = shutil.which("cc"), run.workdir / "clock.so", run.workdir / "clock"
    if compiler is None:
        pytest.skip("no C compiler for the library that moves a clock")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, Path(__file__).parent / "clock.c"], check=True)
    clock.write_text("0")
    run.environment |= {"LD_PRELOAD": str(library), "DLLM_AGENTS_CLOCK": str(clock)}
    running = run.start()
    run.wait_for(run.journals, running)
    leave_an_hour_ahead(run)
    clock.write_text("-3600")
    assert running.wait(PATIENCE) != 0 and "clock skew" in run.log(), run.log()[-3000:]
    run.finish()


def leave_an_hour_ahead(run: Run) -> None:
    """What the run has made so far lies an hour ahead of what it makes next."""
    found = {}
    for path in run.workdir.rglob("*"):
        with suppress(FileNotFoundError):  # a run that goes on renames what it has written
            if path.is_file() and not path.is_symlink():
                found[path] = path.stat().st_mtime
    ahead = time.time() + 3600 - min(found.values())
    for path, made in found.items():
        with suppress(FileNotFoundError):
            os.utime(path, (made + ahead, made + ahead))


def port_taken(run: Run) -> None:
    """The port of the first server is taken between its choice and its binding: another is chosen"""
    running = run.start()
    server = run.wait_for(run.servers, running)[0]  # type: ignore[index]
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", port_of(server)))
        squatter.listen()
        assert running.wait(PATIENCE) == 0, run.log()[-3000:]
    run.finish()


def two_workflows(run: Run) -> None:
    """Two Snakemake runs at once: the second is refused by the lock; forced past it, its rollout is refused by the journal"""
    running = run.start()
    run.wait_for(run.journals, running)
    assert run.start().wait(PATIENCE) != 0
    assert "locked" in run.log()
    forced = run.start("--nolock")
    forced.wait(PATIENCE)
    running.wait(PATIENCE)
    run.finish()


@contextmanager
def small_disk(run: Run) -> Iterator[Path]:
    """The run's results on a disk of their own, with a few megabytes to spare."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    aside = run.workdir / "aside"
    run.results.rename(aside)
    run.results.mkdir()
    size = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file()) + (16 << 20)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(run.results)]).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        shutil.copytree(aside, run.results, dirs_exist_ok=True)
        yield run.results
    finally:
        subprocess.run(["umount", "--lazy", str(run.results)], check=True)


FAULTS: list[Callable[[Run], None]] = [
    killed_workflow,
    killed_rollout,
    killed_server,
    killed_simulator,
    preempted,
    full_disk,
    read_only_results,
    corrupted_journal,
    corrupted_episodes,
    clock_behind,
    clock_jumps_back,
    port_taken,
    two_workflows,
]
QUICK = {killed_workflow, full_disk, port_taken}


def named(faults: list[Callable[[Run], None]]) -> list[object]:
    return [pytest.param(fault, id=f"{'quick-' if fault in QUICK else ''}{fault.__name__}") for fault in faults]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Iterator[Run]:
    run = Run(finished_run, tmp_path / "run")
    yield run
    run.end()
    shutil.rmtree(run.workdir)


@pytest.mark.parametrize("fault", named(FAULTS))
def test_a_run_recovers(fault: Callable[[Run], None], run: Run) -> None:
    what = " ".join(str(fault.__doc__).split())
    outcomes[fault.__name__] = (what, 1, 0)
    fault(run)
    outcomes[fault.__name__] = (what, 1, 1)


@pytest.mark.parametrize("seed", [pytest.param(seed, id=f"{'quick-' if seed == 0 else ''}{seed}") for seed in range(RANDOM_KILLS)])
def test_a_run_recovers_from_a_kill_at_a_random_moment(seed: int, run: Run) -> None:
    what, tries, recovered = outcomes.get("random_kill", ("SIGKILL of Snakemake at a random moment (seeded)", 0, 0))
    outcomes["random_kill"] = (what, tries + 1, recovered)
    running = run.start()
    with suppress(subprocess.TimeoutExpired):
        running.wait(random.Random(seed).uniform(0, RUN_SECONDS))
    run.kill(running)
    running.wait()
    run.nothing_is_left()
    run.finish(unlock=True)
    outcomes["random_kill"] = (what, tries + 1, recovered + 1)


@pytest.fixture(scope="session", autouse=True)
def report(finished_run: Path) -> Iterator[None]:
    """Prints the table; what earlier sessions saw of this state of the source counts, so that the whole may be run in parts."""
    seen = finished_run.with_name(f"{finished_run.name}.faults.json")
    yield
    before = json.loads(seen.read_text()) if seen.is_file() else {}
    known = before | {name: [what, tries, recovered] for name, (what, tries, recovered) in outcomes.items()}
    seen.write_text(json.dumps(known))
    rows = [f"| {name.replace('_', ' ')} | {what} | {tries} | {recovered} |" for name, (what, tries, recovered) in known.items()]
    table = "\n".join(["| fault | what is done | tries | recovered |", "|---|---|---|---|", *rows])
    print(f"\n{table}")
    if len(known) == len(FAULTS) + 1 and known["random_kill"][1] == RANDOM_KILLS:
        where = f"{datetime.now(UTC):%Y-%m-%d}, {hardware()}, load {os.getloadavg()[2]:.1f} at the end."
        README.write_text(f"# Faults\n\n{HEAD}\n\n{where}\n\n{table}\n")


HEAD = """Written by `make test-faults`. Each fault disturbs the real pipeline at scale `test` while agents play. Recovered means: the
rerun that the documentation describes (the same command; `--unlock` before it where Snakemake was killed) finishes, every
task has exactly one episode, all tables but the timings equal those of an undisturbed run byte for byte, and no process or
port is left."""
