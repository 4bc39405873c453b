"""The command line: one subcommand per stage. Each names what it reads and writes and touches nothing else.

Stages are imported when they run, so that `dllm-agents tabulate` never loads torch and `dllm-agents train` no plotting.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dllm_agents import __version__, lifeline
from dllm_agents.errors import StageError
from dllm_agents.layout import Results, default_config

if TYPE_CHECKING:
    from dllm_agents.agents.rollout import Shard


def sample_tasks(args: argparse.Namespace) -> None:
    from dllm_agents import benchmarks
    from dllm_agents.files import write_jsonl

    count = write_jsonl(args.output, benchmarks.load(args.benchmark, _config(args)).tasks(args.split))
    if count == 0 and args.split == "test":
        args.output.unlink()
        raise StageError(f"benchmarks.{args.benchmark}: the configuration selects no task; widen it in {args.config[-1]}")
    _say(f"{args.output}: {count} {args.split} tasks")


def collect_trajectories(args: argparse.Namespace) -> None:
    from dllm_agents.files import read_jsonl, write_jsonl
    from dllm_agents.progress import track
    from dllm_agents.records import Task
    from dllm_agents.trajectories import collect

    tasks = read_jsonl(args.tasks, Task)
    trajectories = collect(_config(args), args.benchmark, tasks, args.workers)
    count = write_jsonl(args.output, track(trajectories, len(tasks), f"teacher on {args.benchmark}"))
    _say(f"{args.output}: {count} trajectories")


def filter_trajectories(args: argparse.Namespace) -> None:
    from dllm_agents import benchmarks
    from dllm_agents.files import iter_jsonl, write_jsonl
    from dllm_agents.records import Trajectory
    from dllm_agents.trajectories import split_accepted

    benchmark = benchmarks.load(args.benchmark, _config(args))
    accepted, rejected, counts = split_accepted(benchmark, iter_jsonl(args.trajectories, Trajectory))
    write_jsonl(args.accepted, accepted)
    write_jsonl(args.rejected, rejected)
    reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items())) or "none"
    _say(f"{args.accepted}: {len(accepted)} accepted; {len(rejected)} rejected ({reasons})")


def sample_pairs(args: argparse.Namespace) -> None:
    from dllm_agents.pairs import sample_pairs as run

    if len(args.tasks) != len(args.model):
        raise StageError("sample-pairs: give as many --model as --tasks, in the same order")
    counts = run(_config(args), args.backbone, args.tasks, args.model, args.output)
    reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()) if reason != "kept") or "none"
    _say(f"{args.output}: {counts['kept']} pairs of {counts.total()} queries; rejected: {reasons}")


def train(args: argparse.Namespace) -> None:
    from dllm_agents.training.stage import train as run

    report = run(_config(args), args.backbone, args.benchmark, args.pairs or args.trajectories, args.output, args.base, args.tensorboard)
    if report is None:
        return
    _say(f"{args.output}: {report.steps} steps, {report.supervised_tokens} supervised tokens, loss {report.final_loss:.3f}")


def serve(args: argparse.Namespace) -> None:
    from dllm_agents.serving.server import serve as run

    if not args.backbone and not args.model:
        raise StageError("serve: give --backbone NAME or --model DIR")
    config = _config(args) if args.backbone else None
    run(config=config, backbone=args.backbone, model=args.model, host=args.host, port=args.port, dtype=args.dtype)


def download(args: argparse.Namespace) -> None:
    from dllm_agents.download import download as run

    config = _config(args)
    record = args.output or Results(Path(config.results)).downloads
    for name, entry in run(config, record).items():
        source = entry.get("model") or entry["dataset"]
        _say(f"{name}: {source} at {entry['revision']} in {entry['directory']}, {len(entry['files'])} files as the hub lists them")
    _say(f"{record}: written; jobs need no network with HF_HUB_OFFLINE=1")


def probe(args: argparse.Namespace) -> None:
    from dllm_agents.files import write_json
    from dllm_agents.serving.probe import probe as run

    found = run(_config(args), args.backbone, args.model)
    write_json(args.output, found)
    _say(f"{args.output}: {'healthy' if found.healthy else 'not healthy: ' + str(found.error)}, canary {found.canary}")


def rollout(args: argparse.Namespace) -> None:
    from dllm_agents.agents.rollout import rollout as run

    config, plays = _config(args), {}
    for position, agent in enumerate(args.agent):
        if agent not in config.agents:
            raise StageError(f"rollout: unknown agent {agent!r}; allowed: {', '.join(sorted(config.agents))}")
        plays[agent] = _shards(args, position, config.agents[agent].policy)
    if len(plays) != len(args.agent):
        raise StageError("rollout: name every --agent once")
    run(config, plays)
    _say(f"{', '.join(str(shard.output) for shards in plays.values() for shard in shards)}: written")


def _shards(args: argparse.Namespace, position: int, policy: str) -> list[Shard]:
    """What the agent at a position of the command line plays: the options given as many times as --agent are read there."""
    from dllm_agents.agents.rollout import Shard

    given = {name: getattr(args, name) for name in ("tasks", "output", "model", "replay")}
    wrong = next((name for name, groups in given.items() if groups is not None and len(groups) != len(args.agent)), None)
    if wrong is not None:
        raise StageError(f"rollout: give --{wrong} once for each --agent, in the same order")
    tasks, outputs, models, replays = (groups[position] if groups else [] for groups in given.values())
    if len(tasks) != len(outputs) or len(replays) not in (0, len(tasks)):
        raise StageError(
            f"rollout: give as many --{'output' if len(tasks) != len(outputs) else 'replay'} as --tasks files, in the same order"
        )
    trained: list[dict[str, Path]] = [{} for _ in tasks]
    names = {path.stem: index for index, path in enumerate(tasks)}
    for index, item in enumerate(models):
        backbone, _, directory = item.rpartition("=")
        # A role of one benchmark alone has no checkpoint for the others: the folder's name says which it is for.
        trained[names.get(Path(directory).name, index % len(tasks))][backbone or policy] = Path(directory)
    files = zip(tasks, outputs, trained, replays or [None] * len(tasks), strict=True)
    return [Shard(tasks, output, models, args.trajectories, replay, args.part) for tasks, output, models, replay in files]


def replay_verifiers(args: argparse.Namespace) -> None:
    from dllm_agents.analysis.verification import replay_verifiers as run

    models = dict(item.split("=", 1) for item in args.model)
    count = run(_config(args), args.episodes, {name: Path(path) for name, path in models.items()}, args.output)
    _say(f"{args.output}: {count} verifications")


def merge_episodes(args: argparse.Namespace) -> None:
    from dllm_agents.agents.merge import merge

    if len(args.tasks) != len(args.output) or len(args.parts) % len(args.tasks):
        raise StageError("merge-episodes: give one --output for every --tasks file, and equally many --parts for each")
    each = len(args.parts) // len(args.tasks)
    for index, (tasks, output) in enumerate(zip(args.tasks, args.output, strict=True)):
        _say(f"{output}: {merge(tasks, args.parts[index * each : (index + 1) * each], output)} episodes")


def score(args: argparse.Namespace) -> None:
    from dllm_agents.analysis.stage import score_file

    config = _config(args)
    for episodes, tasks, output in _together(args.episodes, args.tasks, args.output):
        _say(f"{output}: {score_file(config, episodes, tasks, output)} scores")


def attention(args: argparse.Namespace) -> None:
    from dllm_agents.analysis.attention import measure

    models = {name: Path(path) for name, path in (item.split("=", 1) for item in args.model)}
    count = measure(_config(args), args.agent, args.tasks, args.episodes, models, args.output)
    _say(f"{args.output}: attention of {count} replies")


def classify_failures(args: argparse.Namespace) -> None:
    from dllm_agents.analysis.stage import classify_file

    config = _config(args)
    for episodes, scores, tasks, output in _together(args.episodes, args.scores, args.tasks, args.output):
        _say(f"{output}: {classify_file(config, episodes, scores, tasks, output)} failures")


def tabulate(args: argparse.Namespace) -> None:
    from dllm_agents.reporting.tables import tabulate as run

    run(args.name, _config(args), args.results, args.output)
    _say(f"{args.output}.csv: written")


def plot(args: argparse.Namespace) -> None:
    from dllm_agents.reporting.figures import plot as run

    run(args.name, _config(args), args.results, args.output)
    _say(f"{args.output}.png: written")


def browse(args: argparse.Namespace) -> None:
    from dllm_agents.reporting.browser import build

    for path in build(_config(args), args.results, args.output):
        _say(f"{path}: written")


def paper(args: argparse.Namespace) -> None:
    from dllm_agents.reporting.paper import build

    _say(f"{build(_config(args), args.results, args.output)}: written")


def export(args: argparse.Namespace) -> None:
    from dllm_agents.reporting.export import export as run

    _say(f"{args.output}: {len(run(_config(args), args.results, args.output, args.format))} files written")


def schema(args: argparse.Namespace) -> None:
    from dllm_agents.schemas import write_all

    for path in write_all(args.root):
        _say(f"{path}: written")


def status(args: argparse.Namespace) -> None:
    from dllm_agents.reporting.status import show as run

    _config(args)
    run(args.config)


def provenance(args: argparse.Namespace) -> None:
    from dllm_agents.reporting.crate import write

    for path in write(_config(args), args.config, args.results):
        _say(f"{path}: written")


def verify(args: argparse.Namespace) -> None:
    from dllm_agents.reporting.crate import changes

    found = changes(args.results)
    for line in found:
        print(line)
    if found:
        raise StageError(f"{args.results}: {len(found)} files are not what provenance.json says; see the lines above")
    _say(f"{args.results}: every file is as it was recorded")


def show(args: argparse.Namespace) -> None:
    from dllm_agents.reporting.show import show as run

    config = _config(args)
    if args.where:
        print(config.results)
    else:
        run(config, every=args.all)


def parser() -> argparse.ArgumentParser:
    """The argument parser, one subcommand per stage."""
    top = argparse.ArgumentParser(prog="dllm-agents", description=(__import__("dllm_agents").__doc__ or "").strip())
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(required=True, metavar="STAGE")

    def command(function: Any, help_text: str, *, config: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(function.__name__.replace("_", "-"), help=help_text, description=help_text)
        sub.set_defaults(run=function)
        if config:
            sub.add_argument("--config", nargs="+", default=[default_config()], metavar="FILE", help="YAML files, later ones on top")
        return sub

    sub = command(sample_tasks, "freeze the tasks of a benchmark")
    sub.add_argument("--benchmark", required=True)
    sub.add_argument("--split", choices=["test", "train"], default="test")
    sub.add_argument("--output", type=Path, required=True, metavar="FILE")

    sub = command(collect_trajectories, "let the teacher play training tasks")
    sub.add_argument("--benchmark", required=True)
    sub.add_argument("--tasks", type=Path, required=True, metavar="FILE")
    sub.add_argument("--output", type=Path, required=True, metavar="FILE")
    sub.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")

    sub = command(filter_trajectories, "keep the trajectories worth training on, and say why the others are not")
    sub.add_argument("--benchmark", required=True)
    sub.add_argument("--trajectories", type=Path, required=True, metavar="FILE")
    sub.add_argument("--accepted", type=Path, required=True, metavar="FILE")
    sub.add_argument("--rejected", type=Path, required=True, metavar="FILE")

    sub = command(sample_pairs, "roll a backbone's base out twice a query, and keep pairs of which one is right")
    sub.add_argument("--backbone", required=True, help="the backbone that will learn from the pairs")
    sub.add_argument("--tasks", type=Path, nargs="+", required=True, metavar="FILE", help="training tasks")
    sub.add_argument("--model", type=Path, nargs="+", required=True, metavar="DIR", help="the base's checkpoint for each task file")
    sub.add_argument("--output", type=Path, required=True, metavar="FILE")

    sub = command(train, "train a backbone on accepted trajectories, or on pairs")
    sub.add_argument("--backbone", required=True)
    sub.add_argument("--benchmark", required=True, help="what the trajectories are of; `mixture` where they are of several")
    source = sub.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--trajectories", type=Path, nargs="+", metavar="FILE", help="accepted ones; of each benchmark of a mixture, in order"
    )
    source.add_argument("--pairs", type=Path, metavar="FILE", help="pairs to learn preferences from (vrpo, agentic_vrpo, just_grpo)")
    sub.add_argument("--base", type=Path, metavar="DIR", help="the checkpoint of the backbone that training.base names")
    sub.add_argument("--tensorboard", type=Path, metavar="DIR", help="where scalars for TensorBoard go")
    sub.add_argument("--output", type=Path, required=True, metavar="DIR")

    sub = command(serve, "serve a backbone behind the OpenAI API")
    sub.add_argument("--backbone", help="a name from the configuration")
    sub.add_argument("--model", metavar="DIR", help="a checkpoint directory; with --backbone, the one trained for it")
    sub.add_argument("--host", default="127.0.0.1")
    sub.add_argument("--port", type=int, required=True)
    sub.add_argument("--dtype", choices=["float32", "bfloat16"], help="of a checkpoint without --backbone; default: as it is stored")

    sub = command(download, "fetch the models and question files a run needs, and check them, where there is a network")
    sub.add_argument(
        "--output", type=Path, metavar="FILE", help="record of revisions and checksums (default: results/<scale>/downloads.json)"
    )

    sub = command(probe, "measure a served backbone")
    sub.add_argument("--backbone", required=True)
    sub.add_argument("--model", type=Path, metavar="DIR", help="the checkpoint trained for it")
    sub.add_argument("--output", type=Path, required=True, metavar="FILE")

    sub = command(rollout, "let agents play their benchmarks; each --agent has its own --tasks, --output, --model and --replay")
    sub.add_argument("--agent", action="append", required=True)
    sub.add_argument("--tasks", type=Path, nargs="+", action="append", required=True, metavar="FILE")
    sub.add_argument(
        "--model",
        nargs="+",
        action="append",
        metavar="DIR",
        help="checkpoints trained here, one for each task file in order; BACKBONE=DIR for a role other than the policy",
    )
    sub.add_argument("--trajectories", type=Path, metavar="FILE", help="accepted trajectories, for a selector with a tool graph")
    sub.add_argument(
        "--replay",
        type=Path,
        nargs="+",
        action="append",
        metavar="FILE",
        help="stored episodes whose answers stand in for every backbone",
    )
    sub.add_argument("--part", type=_part, default=(1, 1), metavar="K-of-N", help="play every N-th task from the K-th on")
    sub.add_argument("--output", type=Path, nargs="+", action="append", required=True, metavar="FILE")

    sub = command(merge_episodes, "put the episodes of all parts of a rollout into one file, in task order")
    sub.add_argument("--tasks", type=Path, nargs="+", required=True, metavar="FILE")
    sub.add_argument(
        "--parts", type=Path, nargs="+", required=True, metavar="FILE", help="all parts of the first task file, then of the next"
    )
    sub.add_argument("--output", type=Path, nargs="+", required=True, metavar="FILE")

    sub = command(replay_verifiers, "replay early-exit verifiers on stored episodes of one benchmark")
    sub.add_argument("--episodes", type=Path, nargs="+", required=True, metavar="FILE")
    sub.add_argument("--model", nargs="+", default=[], type=_assignment, metavar="BACKBONE=DIR", help="checkpoints trained for verifiers")
    sub.add_argument("--output", type=Path, required=True, metavar="FILE")

    sub = command(score, "score episodes with the official checkers")
    sub.add_argument("--episodes", type=Path, nargs="+", required=True, metavar="FILE")
    sub.add_argument("--tasks", type=Path, nargs="+", required=True, metavar="FILE")
    sub.add_argument("--output", type=Path, nargs="+", required=True, metavar="FILE")

    sub = command(attention, "read where the replies of a planner workflow look while they are decoded")
    sub.add_argument("--agent", required=True)
    sub.add_argument("--tasks", type=Path, required=True, metavar="FILE")
    sub.add_argument("--episodes", type=Path, required=True, metavar="FILE")
    sub.add_argument("--model", nargs="+", default=[], type=_assignment, metavar="BACKBONE=DIR", help="checkpoints of its roles")
    sub.add_argument("--output", type=Path, required=True, metavar="FILE")

    sub = command(classify_failures, "name the failures in episodes, with evidence")
    sub.add_argument("--episodes", type=Path, nargs="+", required=True, metavar="FILE")
    sub.add_argument("--scores", type=Path, nargs="+", required=True, metavar="FILE")
    sub.add_argument("--tasks", type=Path, nargs="+", required=True, metavar="FILE", help="the tasks, for the tools they offer")
    sub.add_argument("--output", type=Path, nargs="+", required=True, metavar="FILE")

    for function, help_text in ((tabulate, "make a table from scores and failures"), (plot, "make a figure from scores and failures")):
        sub = command(function, help_text)
        sub.add_argument("name")
        sub.add_argument("--results", type=Path, required=True, metavar="DIR", help="results/<scale>")
        sub.add_argument("--output", type=Path, required=True, metavar="BASE", help="path without ending")

    for function, help_text in (
        (browse, "make the page that shows every episode"),
        (paper, "build the manuscript from tables and figures"),
    ):
        sub = command(function, help_text)
        sub.add_argument("--results", type=Path, required=True, metavar="DIR", help="results/<scale>")
        sub.add_argument("--output", type=Path, required=True, metavar="FILE")

    command(status, "tell what of a run is done, running, missing or stale, and why")

    sub = command(provenance, "record where a finished run came from: provenance.json and an RO-Crate beside its results")
    sub.add_argument("--results", type=Path, required=True, metavar="DIR", help="results/<scale>")

    sub = command(verify, "recompute the checksums of a run's inputs and outputs, and name what changed", config=False)
    sub.add_argument("--results", type=Path, required=True, metavar="DIR", help="results/<scale>")

    sub = command(export, "write the episodes for inspect_ai's viewer, or as a folder that Hugging Face datasets loads")
    sub.add_argument("--format", choices=["inspect", "datasets"], required=True)
    sub.add_argument("--results", type=Path, required=True, metavar="DIR", help="results/<scale>")
    sub.add_argument("--output", type=Path, required=True, metavar="DIR")

    sub = command(show, "print what a run says at first sight, and where its tables and its report lie")
    sub.add_argument("--all", action="store_true", help="print every table in full")
    sub.add_argument("--where", action="store_true", help="print the results folder instead")

    sub = command(schema, "write the JSON Schemas and the table of configuration defaults", config=False)
    sub.add_argument("--root", type=Path, default=Path())
    return top


def main(argv: Sequence[str] | None = None) -> None:
    """Run a subcommand; a StageError becomes its one line and exit status 1."""
    args = parser().parse_args(argv)
    # A job that is asked to end must run its clean-up: servers and simulators go with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lifeline.hide_keys()
    lifeline.follow()
    try:
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
        _say(line)
    sys.stdout.flush()
    os._exit(status)


def _assignment(text: str) -> str:
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text!r}: write BACKBONE=DIR")
    return text


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("-of-")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part such as 2-of-8")
    return int(index), int(count)


def _config(args: argparse.Namespace) -> Any:
    from dllm_agents.config import load

    return load(args.config)


def _together(*lists: list[Path]) -> list[tuple[Path, ...]]:
    """The files of several options that belong together. Raises StageError when they are not equally many."""
    if len({len(items) for items in lists}) != 1:
        raise StageError("give equally many files to every option, in the same order")
    return list(zip(*lists, strict=True))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
