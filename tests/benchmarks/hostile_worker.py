"""A worker that seals itself and then runs whatever Python it is sent: what the kernel still forbids is the isolation's own merit."""

import os
import sys
from pathlib import Path

from dllm_agents.benchmarks import isolation


def run(request: list[str]) -> str:
    names: dict[str, object] = {"os": os, "result": "done"}
    try:
        exec(request[0], names)
    except Exception as error:
        return type(error).__name__
    return str(names["result"])


if __name__ == "__main__":
    layers = isolation.confine(Path(sys.argv[1]))
    isolation.serve(run, {"layers": layers, "blocked": isolation.probe(Path(sys.argv[2]))}, 1, cpu_seconds=1.0)
