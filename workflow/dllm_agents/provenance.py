"""What every result says about where it came from: versions, git revision, hardware."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dllm_agents import __version__


@cache
def git_revision() -> str:
    """The checkout's revision, with `+changes` when it is dirty; empty outside a checkout."""
    root = Path(__file__).resolve().parent
    try:
        revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return revision.stdout.strip() + ("+changes" if status.stdout.strip() else "")


@cache
def hardware() -> str:
    """Processor model, cores this process may use, and the GPUs that nvidia-smi lists."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{model} x{cores}"]
    if shutil.which("nvidia-smi"):
        with suppress(OSError, subprocess.SubprocessError):
            listing = subprocess.run(
                ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=30
            )
            parts += listing.stdout.strip().splitlines()
    return "; ".join(parts)


def versions(*packages: str) -> dict[str, str]:
    """This package's version and those of the installed packages named."""
    numbers = {"dllm-agents": __version__}
    for package in packages:
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            continue
    return numbers


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content alone, as `sha256sum` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of every file below a folder."""
    digest = hashlib.sha256()
    for item in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if item.is_file():
            digest.update(item.relative_to(path).as_posix().encode() + b"\0")
            with open(item, "rb") as handle:
                while chunk := handle.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()
