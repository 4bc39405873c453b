"""What happens around the jobs: the configuration is checked and frozen, files from the future are dated to now, and a plan says what it
asks of GPUs and of which results nobody knows the settings."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from dllm_agents import lifeline, preflight
from dllm_agents.config import Config, load
from dllm_agents.dag.resources import estimate
from dllm_agents.errors import StageError
from dllm_agents.files import write_aside
from dllm_agents.layout import Results, default_config

CLOCK_SLACK = 60.0  # seconds by which the clock of a file server may be ahead
NAMED_DIFFERENCES = 5
NOTE = "dllm-agents: note: "


def configure(files: Sequence[str], overrides: Mapping[str, Any], inside_job: bool = False) -> Config:
    """The checked configuration; ends Snakemake with one line on a mistake. Stages are found in this environment, wherever Snakemake was
    started from, and end with it. A Snakemake `inside_job` ends with what started it, and freezes the configuration where it runs."""
    try:
        config = load(files or [default_config()], overrides, () if inside_job else (preflight.check,))
    except StageError as error:
        raise SystemExit(f"dllm-agents: {error}") from None
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    lifeline.announce()
    if inside_job:
        lifeline.follow_parent()
        freeze(config)
    else:
        for note in preflight.notes(config):
            print(f"{NOTE}{note}", file=sys.stderr)
    return config


def frozen(config: Config) -> Path:
    """Where the configuration is frozen for the stages, under a name made of its content: another call on the same scale must not change
    the settings of a run."""
    digest = hashlib.sha256(_text(config).encode()).hexdigest()
    return Results(Path(config.results)).frozen_config(digest[:16])


def freeze(config: Config) -> None:
    """Write the configuration that the stages of this run read."""
    _write(frozen(config), _text(config))


def announce(config: Config, workflow: Any) -> None:
    """Say, on standard error, what the jobs of Snakemake's workflow ask of GPUs, and which results have unknown settings."""
    jobs = [
        (job.rule.name, int(job.resources.get("gpu", 0)), float(job.resources.get("runtime", 0)))
        for job in workflow.dag.needrun_jobs(exclude_finished=False)
    ]
    unknown = unknown_settings(config, len(_unrecorded(workflow)))
    for line in (estimate(jobs), f"{NOTE}{unknown}" if unknown else ""):
        if line:
            print(line, file=sys.stderr, flush=True)


def end_of_plan(config: Config, workflow: Any) -> None:
    """After a dry run: what the plan asks for."""
    if workflow.dag is not None and workflow.dryrun:
        announce(config, workflow)


def start(config: Config, workflow: Any) -> None:
    """Before the first job of a run. The configuration beside the results is left alone while some of them are made by another one."""
    announce(config, workflow)
    freeze(config)
    results = Results(Path(config.results))
    if not (_unrecorded(workflow) and differences(config)):
        _write(results.config, _text(config))
    clamp_future_times(results.root)


def _unrecorded(workflow: Any) -> list[str]:
    """Results that stand, and of whose settings Snakemake has no record."""
    dag, record = workflow.dag, workflow.persistence
    jobs = [job for job in dag.jobs if job.output and not dag.needrun(job) and not record.has_metadata(job)]
    return [str(path) for job in jobs for path in job.output]


def unknown_settings(config: Config, count: int) -> str:
    """What to say of so many results without a record: whether the configuration stored beside them differs; empty for none."""
    if not count:
        return ""
    results = Results(Path(config.results))
    line = f"{results.root}: the settings of {count} results are unknown (Snakemake's record is gone, or they were copied here)"
    if not results.config.is_file():
        return f"{line}, and so changes are not noticed; delete what is to be made again"
    changed = differences(config)
    if not changed:
        return f"{line}; {results.config} beside them says the same as the configuration"
    more = f" and {len(changed) - NAMED_DIFFERENCES} more" if len(changed) > NAMED_DIFFERENCES else ""
    named = "; ".join(changed[:NAMED_DIFFERENCES]) + more
    return f"{line}. They are not made again though {results.config} beside them differs: {named}. Delete what depends on it"


def differences(config: Config) -> list[str]:
    """`key: old -> new` of every setting in which the configuration beside the results differs, but for those that say how a run goes."""
    try:
        old = load([Results(Path(config.results)).config])
    except StageError as error:
        return [str(error)]
    before, now = dict(_flat(old.settings(*PARTS))), dict(_flat(config.settings(*PARTS)))
    unset = "default"
    return [
        f"{key}: {before.get(key, unset)} -> {now.get(key, unset)}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key, unset) != now.get(key, unset)
    ]


PARTS = ("training", "checkpoints", "evaluation", "judging")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def clamp_future_times(folder: Path) -> None:
    """Date what lies in the future to now: after a clock has jumped back, Snakemake would refuse whatever is made from such files.
    All to one moment, since a file that is newer than what was made from it would have that made again."""
    now = time.time()
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            with suppress(OSError):  # another run is at work here, or the folder cannot be written
                if path.lstat().st_mtime > now + CLOCK_SLACK:
                    os.utime(path, (now, now), follow_symlinks=False)


def _write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with write_aside(path) as handle:
            handle.write(text)


def _text(config: Config) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    dump: str = yaml.dump(config.model_dump(mode="json"), Dumper=dumper, sort_keys=False, width=120)
    return "# The configuration of a run, files merged and defaults filled in. Generated; edit config/ instead.\n" + dump
