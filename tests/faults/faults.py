"""A run that is disturbed: started, watched, hurt, run again as the README says, and compared with an undisturbed one."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from pipeline import snakemake_command, tables

MARK = "DLLM_AGENTS_FAULT_RUN"  # an environment variable that everything a run starts inherits
PLAYED = ("tiny-ar", "tiny-block")
PATIENCE = 1200.0
SECONDS_TO_LEAVE = 5.0
# Of a machine shared with others, five seconds of waiting are not five seconds of running.
SLACK = 15.0


class Run:
    """A copy of the finished run without the episodes of its two models and all that follows from these: training is shared."""

    def __init__(self, finished: Path, workdir: Path) -> None:
        self.workdir = workdir
        self.results = workdir / "results" / "test"
        self.mark = secrets.token_hex(8)
        # Isolated simulators inherit no variables; their home is a temporary folder, which is put below this run.
        self.environment = {MARK: self.mark, "TMPDIR": str(workdir / "tmp")}
        shutil.copytree(finished, workdir, dirs_exist_ok=True, symlinks=True)
        (workdir / "tmp").mkdir()
        for kind in ("episodes", "scores", "failures"):
            for path in (self.results / kind).rglob("*"):
                if path.is_file() and path.stem in PLAYED:
                    path.unlink()
        shutil.rmtree(self.results / "tables")
        self.expected = tables(finished)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Snakemake on its way to the tables."""
        command = snakemake_command(self.workdir, "--cores", "2", "tables", *arguments)
        with open(self.workdir / "run.log", "ab") as log:
            return subprocess.Popen(
                command, cwd=self.workdir, stdout=log, stderr=log, env=os.environ | self.environment, start_new_session=True
            )

    def processes(self, *words: str) -> list[psutil.Process]:
        """The processes of this run whose command line has all the words."""
        return [process for process, command in self._all() if all(any(word in part for part in command) for word in words)]

    def _all(self) -> Iterator[tuple[psutil.Process, list[str]]]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                ours = environment.get(MARK) == self.mark or environment.get("HOME", "").startswith(f"{self.workdir}/")
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    yield process, process.cmdline()

    def rollouts(self) -> list[psutil.Process]:
        """The stages that play episodes (not the shells around them)."""
        return [
            process for process in self.processes("dllm-agents", "rollout", "--agent") if "python" in process.name() or _is_stage(process)
        ]

    def servers(self) -> list[psutil.Process]:
        return self.processes("serve", "--backbone")

    def simulators(self) -> list[psutil.Process]:
        """BFCL's isolated checker and other simulators."""
        return self.processes("dllm_agents.benchmarks.")

    def journals(self) -> list[Path]:
        return [path for path in self.results.rglob(".tiny-*.journal") if path.read_bytes().count(b"\n") > 1]

    def wait_for(self, found: Callable[[], object], running: subprocess.Popen[bytes]) -> object:
        """What `found` gives, once it gives something. Raises AssertionError when the run ends before."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if value := found():
                return value
            assert running.poll() is None, f"the run ended before it could be hurt:\n{self.log()[-3000:]}"
            time.sleep(0.02)
        raise AssertionError("nothing to hurt came up in time")

    def kill(self, process: psutil.Process | subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            os.kill(process.pid, number)

    def end(self) -> None:
        """Leave no process of a run whose test failed."""
        for process in self.processes():
            self.kill(process)

    def nothing_is_left(self, seconds: float = SECONDS_TO_LEAVE + SLACK) -> None:
        """Raises AssertionError when a process of this run, or a port it listens on, is still there after `seconds`."""
        deadline = time.monotonic() + seconds
        while left := self.processes():
            if time.monotonic() > deadline:
                names = [" ".join(process.cmdline())[:200] for process in left]
                raise AssertionError(f"still there after {seconds:.0f} s: {names}")
            time.sleep(0.1)

    def finish(self, unlock: bool = False) -> None:
        """The rerun that the README describes. Raises AssertionError unless everything is as if nothing had happened."""
        if unlock:
            assert self.start("--unlock").wait(PATIENCE) == 0, self.log()[-3000:]
        assert self.start().wait(PATIENCE) == 0, self.log()[-6000:]
        self.nothing_is_left()
        for agent in PLAYED:
            for path in sorted((self.results / "episodes").glob(f"*/{agent}.jsonl")):
                wanted = [json.loads(line)["id"] for line in (self.results / "tasks" / f"{path.parent.name}.jsonl").open()]
                played = [json.loads(line)["task_id"] for line in path.open()]
                assert played == wanted, f"{path}: lost or doubled episodes"
        assert not list(self.results.rglob(".*.journal")) and not list(self.results.rglob("*.part"))
        assert tables(self.workdir) == self.expected

    def log(self) -> str:
        return (self.workdir / "run.log").read_text(errors="replace")


def _is_stage(process: psutil.Process) -> bool:
    command = process.cmdline()
    return len(command) > 2 and command[1].endswith("dllm-agents")


def port_of(server: psutil.Process) -> int:
    command = server.cmdline()
    return int(command[command.index("--port") + 1])


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
