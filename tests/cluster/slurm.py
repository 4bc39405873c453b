"""A SLURM cluster on this machine, for the time of a block: two nodes with two pretended GPUs each, all its files in one folder.

Needs root, and Debian's packages slurm-wlm, slurm-client and munge (`python slurm.py install` fetches them). Nothing outside the
folder is written, and no service of the system is touched.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGES = ["slurm-wlm", "slurm-client", "munge"]
PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch", "scontrol"]
NODES = ("node1", "node2")
# No accounting and no cgroups, so that it runs in a container; a gpu is any device file, and none of these is opened.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=20
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
MinJobAge=86400
KillWait=5
UnkillableStepTimeout=60
SlurmctldTimeout=300
SlurmdTimeout=300
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 RealMemory=24000 Gres=gpu:2
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 RealMemory=24000 Gres=gpu:2
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why no cluster can be made here, in one line; empty when one can."""
    if os.geteuid() != 0:
        return "a SLURM daemon needs root"
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    return f"{', '.join(absent)} not installed; run {sys.executable} {__file__} install" if absent else ""


def install() -> None:
    """Debian's packages, unless they are there; their services stay off."""
    if not missing():
        return
    if os.geteuid() != 0:
        raise SystemExit(missing())
    subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """The environment variables that lead to a running cluster. Raises RuntimeError with the log when its nodes do not come up."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o755)
    (folder / "state").mkdir()
    settings = folder / "slurm.conf"
    settings.write_text(CONFIGURATION.format(host=socket.gethostname(), folder=folder, ports=_free_ports(3)))
    (folder / "gres.conf").write_text(
        "".join(f"NodeName={node} Name=gpu File={gpu}\n" for node in NODES for gpu in ("/dev/zero", "/dev/full"))
    )
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    programs = folder / "bin"
    programs.mkdir()
    # The executor plugin takes SLURM_CONF out of the environment in which it starts srun, so srun is told once more.
    (programs / "srun").write_text(f'#!/bin/sh\nSLURM_CONF={settings} exec {shutil.which("srun")} "$@"\n')
    (programs / "srun").chmod(0o755)
    environment = {"SLURM_CONF": str(settings), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    munge = [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={key}", *munge],
        ["slurmctld", "-D", "-i", "-f", str(settings)],
        *(["slurmd", "-D", "-f", str(settings), "-N", node] for node in NODES),
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with open(folder / f"{command[0]}.out", "ab") as output:
                daemons.append(subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environment))
            time.sleep(0.5)
        _wait_for_nodes(environment, folder)
        yield environment
    finally:
        with suppress(OSError, subprocess.SubprocessError):
            slurm(environment, "scancel", "--user=root", "--full")
            _drained(environment)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in reversed(daemons):
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def slurm(environment: dict[str, str], *command: str) -> str:
    """The output of a SLURM command."""
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=60).stdout


def jobs(environment: dict[str, str]) -> list[dict[str, str]]:
    """Every job the controller has seen, in order of submission, as `scontrol show job` tells it: Comment, JobState, TRES, NodeList ..."""
    lines = slurm(environment, "scontrol", "show", "job", "-o").splitlines()
    found = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line.startswith("JobId=")]
    return sorted(found, key=lambda job: int(job["JobId"]))


def _wait_for_nodes(environment: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with suppress(subprocess.SubprocessError):
            states = slurm(environment, "sinfo", "-N", "-h", "-o", "%T").split()
            if states == ["idle"] * len(NODES):
                return
        time.sleep(0.5)
    logs = "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in sorted(folder.glob("*.[lo][ou][gt]")))
    raise RuntimeError(f"the cluster's nodes did not come up:\n{logs}")


def _drained(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and slurm(environment, "squeue", "-h"):
        time.sleep(0.5)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        sys.exit(f"usage: {sys.argv[0]} install")
    install()
