"""Where a run came from: `provenance.json`, the same as an RO-Crate, and the check that nothing has changed since.

The crate follows RO-Crate 1.1 (https://w3id.org/ro/crate/1.1) in the shape of a process run crate: one CreateAction, what it read
(`object`), what it wrote (`result`) and what ran it (`instrument`).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import platform
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from dllm_agents import __version__
from dllm_agents.commands import add_results, say
from dllm_agents.config import Config, load
from dllm_agents.dag import resources
from dllm_agents.errors import StageError
from dllm_agents.files import write_json
from dllm_agents.layout import DATA, SNAKEFILE, WORKFLOW
from dllm_agents.provenance import file_sha256, git_revision, hardware

NAME, CRATE = "provenance.json", "ro-crate-metadata.json"
# Not what a run computed: logs, timings, the copies of its configuration, and these files themselves.
ASIDE = {"logs", "benchmarks", NAME, CRATE}
HASHED_TREES = ("config", "envs", "workflow/rules")


def write(config: Config, files: list[str], results: Path) -> list[Path]:
    """Record a finished run; returns the two files written. Raises StageError when there is no result yet."""
    outputs = {path.relative_to(results).as_posix(): _described(path) for path in _outputs(results)}
    if not outputs:
        raise StageError(f"{results}: holds no result yet; run the workflow first")
    record = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "scale": config.scale,
        "package": __version__,
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": hardware(),
        "configuration": {"files": files, "sha256": hashlib.sha256(config.model_dump_json().encode()).hexdigest()},
        "seeds": seeds(config),
        "packages": {
            item.metadata["Name"]: item.version for item in sorted(distributions(), key=lambda item: item.metadata["Name"].lower())
        },
        "stages": stages(config, results),
        "inputs": {_shown(path): _described(path) for path in _inputs(config, files)},
        "outputs": outputs,
    }
    write_json(results / NAME, record)
    write_json(results / CRATE, crate(record))
    return [results / NAME, results / CRATE]


def changes(results: Path) -> list[str]:
    """One line for every recorded input or output that is gone or differs, and for every output that was not recorded."""
    try:
        record = json.loads((results / NAME).read_text(encoding="utf-8"))
        recorded = {results / name: entry for name, entry in record["outputs"].items()}
        inputs = {WORKFLOW / name: entry for name, entry in record["inputs"].items()}
    except OSError as error:
        raise StageError(f"{results / NAME}: {error.strerror}; run `dllm-agents provenance` after a run") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise StageError(f"{results / NAME}: not a provenance record; run `dllm-agents provenance` again") from None
    lines = []
    for path, entry in (recorded | inputs).items():
        kind = "output" if path in recorded else "input"
        if not path.is_file():
            lines.append(f"{path}: {kind} is gone")
        elif file_sha256(path) != entry["sha256"]:
            lines.append(f"{path}: {kind} has changed")
    return lines + [f"{path}: output is new" for path in _outputs(results) if path not in recorded]


def seeds(config: Config) -> dict[str, Any]:
    """Every seed of a run: its own, and those that agents and trainings set for themselves."""
    agents = {name: config.agents[name].seed for name in config.run.agents if config.agents[name].seed is not None}
    trainings = {
        name: entry.training.seed
        for name, entry in config.backbones.items()
        if entry.training and entry.training.seed is not None and name in config.used_backbones()
    }
    return {"run": config.seed, "agents": agents, "trainings": trainings}


def stages(config: Config, results: Path) -> dict[str, dict[str, Any]]:
    """Stage -> jobs timed, their wall and GPU seconds, and the hardware their results name."""
    summary = {}
    for folder in sorted((results / "benchmarks").glob("*")):
        walls = {path.stem: _wall_seconds(path) for path in sorted(folder.glob("*.tsv"))}
        gpu = sum(seconds * _gpus(config, folder.name, job) for job, seconds in walls.items())
        summary[folder.name] = {
            "jobs": len(walls),
            "wall_seconds": round(sum(walls.values()), 1),
            "gpu_seconds": round(gpu, 1),
            "hardware": sorted(_hardware(results, folder.name)),
        }
    return summary


def _gpus(config: Config, stage: str, job: str) -> int:
    """GPUs of a timed job, whose file is named after what it made: `sdar-8b.bfcl`, or `sdar-8b.bfcl.3-of-8` for a part."""
    if stage == "rollout":
        played = [(agent, benchmark) for agent in config.run.agents for benchmark in config.agent_benchmarks(agent)]
        named = [pair for pair in played if f"{job}.".startswith(f"{'.'.join(pair)}.")]
        return resources.rollout_gpus(config, *named[0]) if named else 0
    if stage == "replay_verifiers":
        return resources.verification_gpus(config)
    if stage == "train" and (backbone := job.rpartition(".")[0]) in config.backbones:
        return config.backbones[backbone].training_gpus
    return resources.pair_gpus(config, job) if stage == "sample_pairs" and job in config.backbones else 0


def _wall_seconds(path: Path) -> float:
    with open(path, encoding="utf-8", newline="") as file:
        return sum(float(row["s"]) for row in csv.DictReader(file, delimiter="\t") if row["s"] not in ("", "NA"))


def _hardware(results: Path, stage: str) -> set[str]:
    """The hardware that a stage's own records name."""
    names: set[str] = set()
    if stage == "train":
        for path in results.glob("models/*/*/training.json"):
            names.add(json.loads(path.read_text(encoding="utf-8")).get("hardware", ""))
    if stage == "rollout":
        for path in results.glob("episodes/*/*.jsonl"):
            with open(path, encoding="utf-8") as file:
                names |= {json.loads(line).get("hardware", "") for line in file if line.strip()}
    return names - {""}


def _outputs(results: Path) -> Iterator[Path]:
    for path in sorted(results.rglob("*")):
        parts = path.relative_to(results).parts
        if path.is_file() and parts[0] not in ASIDE and not any(part.startswith(".") for part in parts):
            yield path


def _inputs(config: Config, files: list[str]) -> Iterator[Path]:
    """Configuration, prompts, published values, environments and rules; and the data files that the configuration names."""
    named = [Path(name) for name in files] + [SNAKEFILE]
    for tree in (*(WORKFLOW / tree for tree in HASHED_TREES), DATA):
        named += sorted(path for path in tree.rglob("*") if path.is_file())
    for name in config.run.benchmarks:
        named += [Path(value) for value in config.benchmark_options(name).files.values() if Path(value).is_file()]
    yield from dict.fromkeys(path.resolve() for path in named)


def _described(path: Path) -> dict[str, Any]:
    return {"sha256": file_sha256(path), "bytes": path.stat().st_size}


def _shown(path: Path) -> str:
    """A path as the record names it: relative to the checkout where it lies in it."""
    return path.relative_to(WORKFLOW).as_posix() if path.is_relative_to(WORKFLOW) else path.as_posix()


MEDIA_TYPES = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".tex": "application/x-tex",
    ".yaml": "application/yaml",
}


def crate(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as RO-Crate 1.1 metadata (JSON-LD)."""
    outputs = [_file(name, entry) for name, entry in record["outputs"].items()]
    # What was read lies outside the crate, so it is described and no part of it; equal files are one.
    read = {f"urn:sha256:{entry['sha256']}": (name, entry) for name, entry in record["inputs"].items()}
    inputs = [_file(identifier, entry, name) | {"@type": "CreativeWork"} for identifier, (name, entry) in read.items()]
    revision = re.sub(r"\+changes$", "", record["git_revision"]) or record["package"]
    software = {
        "@id": "#dllm-agents",
        "@type": "SoftwareApplication",
        "name": "dllm-agents",
        "version": record["package"],
        "softwareVersion": record["git_revision"] or record["package"],
        "identifier": revision,
    }
    action = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Scale {record['scale']}",
        "endTime": record["made"],
        "instrument": {"@id": software["@id"]},
        "object": [{"@id": entry["@id"]} for entry in inputs],
        "result": [{"@id": entry["@id"]} for entry in outputs],
    }
    about = _file(NAME, {"bytes": None, "sha256": None}, "git revision, packages, configuration, seeds, hardware, times, checksums")
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"dllm-agents, scale {record['scale']}",
        "description": "Results of one run: tasks, trajectories, models, episodes, scores, tables and figures.",
        "datePublished": record["made"],
        "license": {"@id": "https://spdx.org/licenses/Apache-2.0"},
        "hasPart": [{"@id": entry["@id"]} for entry in [*outputs, about]],
        "mentions": {"@id": action["@id"]},
    }
    descriptor = {
        "@id": CRATE,
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
    }
    graph = [descriptor, root, software, action, about, *outputs, *inputs]
    return {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": graph}


def _file(identifier: str, entry: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    shown = name or identifier
    described = {
        "@id": identifier,
        "@type": "File",
        "name": shown,
        "encodingFormat": MEDIA_TYPES.get(Path(shown).suffix, "application/octet-stream"),
        "contentSize": None if entry["bytes"] is None else str(entry["bytes"]),
        "sha256": entry["sha256"],
    }
    return {key: value for key, value in described.items() if value is not None}


add_provenance_arguments = add_verify_arguments = add_results


def run_provenance(args: argparse.Namespace) -> None:
    for path in write(load(args.config), args.config, args.results):
        say(f"{path}: written")


def run_verify(args: argparse.Namespace) -> None:
    lines = changes(args.results)
    for line in lines:
        print(line)
    if lines:
        raise StageError(f"{args.results}: {len(lines)} files are not what provenance.json says; see the lines above")
    say(f"{args.results}: every file is as it was recorded")
