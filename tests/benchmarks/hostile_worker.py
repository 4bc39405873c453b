"""A worker that seals itself and then runs whatever Python it is sent: what the kernel still forbids is the isolation's own merit.

A scratch folder called `without-<layer>[ and <layer>]` leaves layers out, as an older kernel or a container would.
"""

import os
import sys
from pathlib import Path

from dllm_agents.benchmarks import isolation, worker


def run(request: list[str]) -> str:
    names: dict[str, object] = {"os": os, "result": "done"}
    try:
        exec(request[0], names)
    except Exception as error:
        return type(error).__name__
    return str(names["result"])


if __name__ == "__main__":
    worker.follow_job()
    scratch, outside = map(Path, sys.argv[2:])
    without = scratch.name.removeprefix("without-").split(" and ")
    if "namespaces" in without:
        isolation._LIBC.unshare = lambda flags: -1
    if "landlock" in without:
        isolation._restrict_paths = lambda scratch: False
    if "seccomp" in without:
        isolation._filter_system_calls = lambda: False
    layers = isolation.confine(scratch)
    worker.serve(run, {"layers": layers, "blocked": isolation.probe(outside, layers)}, 1, cpu_seconds=1.0)
