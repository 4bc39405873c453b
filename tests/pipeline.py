"""One finished run at scale `test`, made once for this state of the source and shared by all that compare with it."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEST_SCALE = ROOT / "config" / "test.yaml"
SOURCES = ("Snakefile", "workflow/rules", "workflow/dllm_agents", "config")


def snakemake_command(workdir: Path, *arguments: str, config: Sequence[Path] = (TEST_SCALE,), python: str = sys.executable) -> list[str]:
    """The command line of this checkout's workflow in a folder of its own."""
    command = [python, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(workdir)]
    return [*command, *arguments, "--configfile", *map(str, config)]


def tables(workdir: Path) -> dict[str, bytes]:
    """Name -> content of every table that holds no wall-clock time."""
    found = sorted((workdir / "results/test/tables").glob("*.csv"))
    return {path.name: path.read_bytes() for path in found if not path.stem.endswith("_timing") and path.stem != "serving"}


@pytest.fixture(scope="session")
def finished_run() -> Path:
    """The working folder of an undisturbed run, in build/. Do not change anything in it; copy what you need."""
    digest = hashlib.sha256()
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*")) or [ROOT / source]:
            if path.is_file() and path.suffix != ".pyc":
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    workdir = ROOT / "build" / f"test-run-{digest.hexdigest()[:16]}"
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / ".lock", "w") as lock:  # two test runs side by side wait for one another
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = snakemake_command(workdir, "--cores", "2", "report", "episodes", "serving")
        done = subprocess.run(command, capture_output=True, text=True, cwd=workdir)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return workdir
