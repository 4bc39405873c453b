"""The command line: a list of the stages' own commands. Each names what it reads and writes and touches nothing else.

A stage's module is imported when it runs, so that `dllm-agents tabulate` never loads torch and `dllm-agents train` no plotting.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from typing import NamedTuple, NoReturn

import dllm_agents
from dllm_agents import lifeline
from dllm_agents.commands import say
from dllm_agents.errors import StageError
from dllm_agents.layout import default_config


class Command(NamedTuple):
    """A stage's command. Its module has `add_arguments(parser)` and `run(args)`; one with two commands has a pair for each
    (`add_score_arguments`, `run_score`), named after `place`'s colon."""

    place: str
    help: str
    configured: bool = True

    def attach(self, parser: argparse.ArgumentParser) -> None:
        """Give a parser the arguments of the command, and what runs it."""
        module, _, name = self.place.partition(":")
        stage = import_module(f"dllm_agents.{module}")
        if self.configured:
            parser.add_argument("--config", nargs="+", default=[default_config()], metavar="FILE", help="YAML files, later ones on top")
        getattr(stage, f"add_{name}_arguments" if name else "add_arguments")(parser)
        parser.set_defaults(run=getattr(stage, f"run_{name}" if name else "run"))


COMMANDS = {
    "sample-tasks": Command("benchmarks.sampling", "freeze the tasks of a benchmark"),
    "collect-trajectories": Command("trajectories:collect", "let the teacher play training tasks"),
    "filter-trajectories": Command("trajectories:filter", "keep the trajectories worth training on, and say why the others are not"),
    "sample-pairs": Command("pairs", "roll a backbone's base out twice a query, and keep pairs of which one is right"),
    "train": Command("training.stage", "train a backbone on accepted trajectories, or on pairs"),
    "serve": Command("serving.server", "serve a backbone behind the OpenAI API"),
    "download": Command("download", "fetch the models and question files a run needs, and check them, where there is a network"),
    "probe": Command("serving.probe", "measure a served backbone"),
    "rollout": Command("agents.rollout", "let an agent play a benchmark"),
    "merge-episodes": Command("agents.merge", "put the episodes of all parts of a rollout into one file, in task order"),
    "replay-verifiers": Command("analysis.verification", "replay early-exit verifiers on stored episodes of one benchmark"),
    "score": Command("analysis.stage:score", "score episodes with the official checkers"),
    "attention": Command("analysis.attention", "read where the replies of a team of planner and seekers look while they are decoded"),
    "classify-failures": Command("analysis.stage:classify", "name the failures in episodes, with evidence"),
    "tabulate": Command("reporting.tables", "make a table from scores and failures"),
    "plot": Command("reporting.figures", "make a figure from scores and failures"),
    "browse": Command("reporting.browser", "make the page that shows every episode"),
    "paper": Command("reporting.paper", "build the manuscript from tables and figures"),
    "coverage": Command(
        "reporting.coverage", "say which of the papers' tables and figures a configuration produces, and why not the others"
    ),
    "status": Command("reporting.status", "tell what of a run is done, running, missing or stale, and why"),
    "provenance": Command(
        "reporting.crate:provenance", "record where a finished run came from: provenance.json and an RO-Crate beside its results"
    ),
    "verify": Command(
        "reporting.crate:verify", "recompute the checksums of a run's inputs and outputs, and name what changed", configured=False
    ),
    "export": Command("reporting.export", "write the episodes for inspect_ai's viewer, or as a folder that Hugging Face datasets loads"),
    "reference": Command("reporting.reference", "keep a finished run's tables in the package, as the reference beside other runs"),
    "show": Command("reporting.show", "print what a run says at first sight, and where its tables and its report lie"),
    "schema": Command("schemas", "write the JSON Schemas and the table of configuration defaults", configured=False),
}


def parser(stage: str | None = None) -> argparse.ArgumentParser:
    """The argument parser, with the arguments of one stage, or of all for None."""
    top = argparse.ArgumentParser(prog="dllm-agents", description=(dllm_agents.__doc__ or "").strip())
    top.add_argument("--version", action="version", version=dllm_agents.__version__)
    commands = top.add_subparsers(required=True, metavar="STAGE")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help)
        if stage in (None, name):
            command.attach(sub)
    return top


def main(argv: Sequence[str] | None = None) -> None:
    """Run a subcommand; a StageError becomes its one line and exit status 1."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    # A job that is asked to end must run its clean-up: servers and simulators go with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lifeline.hide_keys()
    lifeline.follow()
    try:
        args = parser(next((word for word in arguments if not word.startswith("-")), "")).parse_args(arguments)
        args.run(args)
    except StageError as error:
        _leave(1, f"dllm-agents: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        _leave(130)
    except SystemExit as request:
        _leave(request.code if isinstance(request.code, int) else 1, request.code if isinstance(request.code, str) else "")
    except BrokenProcessPool:
        _leave(1, "dllm-agents: a worker process was killed, most likely for want of memory; run again with fewer --workers")
    except MemoryError:
        _leave(1, "dllm-agents: out of memory; lower the batch size or concurrency in the configuration")
    except OSError as error:
        _leave(1, f"dllm-agents: {error.filename or 'input/output'}: {error.strerror or error}")


def _leave(status: int, line: str = "") -> NoReturn:
    """End the process now. What had to be cleaned up has been, on the way here; threads that still wait for a server that is
    gone are not waited for."""
    if line:
        say(line)
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
