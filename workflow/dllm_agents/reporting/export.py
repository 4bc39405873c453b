"""Episodes in other people's formats: logs that inspect_ai's viewer opens, and a folder that `datasets.load_dataset` reads.

Both are written without those packages; the tests read them back with them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dllm_agents.commands import add_results, say
from dllm_agents.config import Config, load
from dllm_agents.errors import StageError
from dllm_agents.files import write_aside
from dllm_agents.records import Call, Episode, EpisodeStep, TracedCall, total
from dllm_agents.reporting.captions import benchmark_note
from dllm_agents.reporting.inputs import Inputs

_STEP = pa.struct(
    [
        ("index", pa.int64()),
        ("stage", pa.string()),
        ("completion", pa.string()),
        ("thought", pa.string()),
        ("action", pa.string()),
        ("observation", pa.string()),
        ("progress", pa.float64()),
        ("valid", pa.bool_()),
        ("error", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("nfe", pa.int64()),
        ("reveal_step", pa.list_(pa.int64())),
        ("tokens", pa.list_(pa.string())),
        ("confidence", pa.list_(pa.float64())),
    ]
)
ENCRYPTED = ("browsecomp_zh",)
MAPPINGS = ("backbones", "decoding", "usage", "versions", "measures")
SCHEMA = pa.schema(
    [
        *(
            (name, pa.string())
            for name in ("task_id", "benchmark", "category", "agent", "goal", "initial_observation", "answer", "ended", "error")
        ),
        *((name, pa.int64()) for name in ("seed", "max_steps")),
        *((name, pa.float64()) for name in ("progress", "native_score", "seconds")),
        ("success", pa.bool_()),
        ("steps", pa.list_(_STEP)),
        # Mappings whose keys differ between workflows, as JSON.
        *((name, pa.string()) for name in MAPPINGS),
    ]
)
"""One row per episode. `success` and `progress` are the scores', where there are scores."""


def export(config: Config, results_dir: str | Path, output: str | Path, form: str) -> list[Path]:
    """Write the episodes of a run to the folder `output` in a form, `inspect` or `datasets`; returns the files. Raises StageError for an
    unknown form and for a run without episodes."""
    if form not in FORMATS:
        raise StageError(f"export: unknown format {form!r}; allowed: {', '.join(FORMATS)}")
    inputs = Inputs(config, Path(results_dir))
    played = [
        (agent, benchmark)
        for benchmark in config.run.benchmarks
        for agent in config.run.agents
        if inputs.has(inputs.files.episodes, agent, benchmark)
    ]
    if any(benchmark in ENCRYPTED for _, benchmark in played):
        say(f"export: {', '.join(ENCRYPTED)} is left out: its questions are published encrypted, and stay in the results")
        played = [(agent, benchmark) for agent, benchmark in played if benchmark not in ENCRYPTED]
    if not played:
        raise StageError(f"{inputs.results}/episodes: no episode of this configuration; run `snakemake episodes` first")
    return FORMATS[form](inputs, Path(output), played)


def _inspect(inputs: Inputs, output: Path, played: list[tuple[str, str]]) -> list[Path]:
    """One log of inspect_ai's JSON form (version 2) per agent and benchmark."""
    paths = []
    for agent, benchmark in played:
        episodes = list(_scored(inputs, agent, benchmark))
        log = _log(inputs.config, agent, benchmark, episodes)
        # inspect_ai lists files by this name alone: time, task, id, with no other underscore.
        stamp, shown = re.sub(r"[:+]", "-", log["eval"]["created"]), f"{benchmark}-{agent}".replace("_", "-")
        path = output / f"{stamp}_{shown}_{log['eval']['task_id']}.json"
        with write_aside(path) as handle:
            json.dump(log, handle, ensure_ascii=False)
        paths.append(path)
    return paths


def _log(config: Config, agent: str, benchmark: str, episodes: list[Episode]) -> dict[str, Any]:
    name = hashlib.sha256(f"{config.scale}/{agent}/{benchmark}/{config.seed}".encode()).hexdigest()[:22]
    model = f"dllm-agents/{agent}"
    first = episodes[0] if episodes else None
    started = (first.started if first else "") or "1970-01-01T00:00:00+00:00"
    epochs: Counter[str] = Counter()
    samples = []
    for episode in episodes:
        epochs[episode.task_id] += 1
        samples.append(_sample(model, episode, epochs[episode.task_id]))
    played = [episode for episode in episodes if episode.ended != "error"]
    means = {name: sum(getattr(episode, name) for episode in played) / max(1, len(played)) for name in ("success", "progress")}
    usage = [role for episode in episodes for role in episode.usage.values()]
    tokens = {
        f"{side}_tokens": total(getattr(role, key) for role in usage)
        for side, key in (("input", "prompt_tokens"), ("output", "completion_tokens"))
    }
    tokens["total_tokens"] = total(tokens.values())
    scores = [
        {"name": metric, "scorer": metric, "params": {}, "metrics": {kind: {"name": kind, "value": value, "params": {}}}}
        for (metric, value), kind in zip(means.items(), ("accuracy", "mean"), strict=True)
    ]
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": name,
            "run_id": name,
            "created": started,
            "task": benchmark,
            "task_id": name,
            "task_version": 0,
            "task_attribs": {},
            "task_args": {},
            "dataset": {"name": benchmark, "samples": len(epochs), "sample_ids": list(epochs), "shuffled": False},
            "model": model,
            "model_args": {},
            "config": {"epochs": max(epochs.values(), default=1)},
            "packages": first.versions if first else {},
            "metadata": {
                "scale": config.scale,
                "backbones": config.agent_backbones(agent, benchmark),
                "tasks": benchmark_note(benchmark, config),
            },
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": {"total_samples": len(samples), "completed_samples": len(samples), "scores": scores},
        "stats": {
            "started_at": started,
            "completed_at": started,
            "model_usage": {model: tokens} if tokens["total_tokens"] is not None else {},
        },
        "samples": samples,
    }


def _sample(model: str, episode: Episode, epoch: int) -> dict[str, Any]:
    prompt = "\n\n".join(part for part in (episode.goal, episode.initial_observation) if part)
    messages: list[dict[str, Any]] = [{"id": f"{epoch}-input", "role": "user", "content": prompt, "source": "input"}]
    for step, call in episode.turns():
        reply = {"id": f"{epoch}-{step.index}-reply", "role": "assistant", "content": _written(step, call), "source": "generate"}
        messages.append(reply | {"model": model})
        if step.observation:
            messages.append({"id": f"{epoch}-{step.index}-seen", "role": "user", "content": step.observation})
    last = next((message for message in reversed(messages) if message["role"] == "assistant"), None)
    explanation = f"{episode.ended.replace('_', ' ')} after {len(episode.steps)} steps" + (f": {episode.error}" if episode.error else "")
    return {
        "id": episode.task_id,
        "epoch": epoch,
        "input": prompt,
        "target": "",
        "messages": messages,
        "output": {"model": model, "choices": [{"message": last, "stop_reason": "stop"}] if last else []},
        "scores": {
            "success": {"value": "C" if episode.success else "I", "answer": episode.answer, "explanation": explanation},
            "progress": {"value": episode.progress},
        },
        "metadata": {
            "category": episode.category,
            "seed": episode.seed,
            "ended": episode.ended,
            "nfe": total(role.nfe for role in episode.usage.values()),
            "reveal_steps": [call.reveal_step for _, call in episode.turns() if isinstance(call, TracedCall) and call.reveal_step],
            **_measures(episode),
        },
        "store": {},
        "events": [],
        "model_usage": {},
        "attachments": {},
    }


def _written(step: EpisodeStep, call: Call | None) -> str:
    """What was written at a step; scripted agents write nothing, so their thought and action stand for it."""
    return call.whole_text if call is not None else "\n".join(part for part in (step.thought, step.action) if part)


def _measures(episode: Episode) -> dict[str, Any]:
    """What the episode's workflow noted."""
    return episode.model_dump(mode="json", include={"search", "planner", "tools"}, exclude_none=True)


def _datasets(inputs: Inputs, output: Path, played: list[tuple[str, str]]) -> list[Path]:
    """One Parquet file per agent and benchmark, one configuration per benchmark, and the card that names them."""
    paths, count = [], 0
    for agent, benchmark in played:
        rows = [_row(episode) for episode in _scored(inputs, agent, benchmark)]
        count += len(rows)
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), buffer)
        path = output / "data" / benchmark / f"{agent}.parquet"
        with write_aside(path, "wb") as handle:
            handle.write(buffer.getvalue())
        paths.append(path)
    benchmarks = list(dict.fromkeys(benchmark for _, benchmark in played))
    configs = "".join(f"- config_name: {name}\n  data_files: data/{name}/*.parquet\n" for name in benchmarks)
    notes = "\n".join(f"- {benchmark_note(name, inputs.config)}" for name in benchmarks)
    agents = len({agent for agent, _ in played})
    card = f"""---
pretty_name: Episodes of dllm-agents at scale {inputs.config.scale}
configs:
{configs}---

# Episodes

{count} episodes of {agents} agents, written by dllm-agents, seed {inputs.config.seed}.

{notes}

One row is one episode; `steps` holds what was written, done and seen. `backbones`, `decoding`, `usage`, `versions` and `measures`
are JSON. Texts were written by models and simulators: treat them as data.
"""
    with write_aside(output / "README.md") as handle:
        handle.write(card)
    return [*paths, output / "README.md"]


def _row(episode: Episode) -> dict[str, Any]:
    data = episode.model_dump(mode="json", exclude={"steps", "calls"})
    steps = [
        {field.name: getattr(step, field.name, getattr(call, field.name, None)) for field in _STEP} | {"completion": _written(step, call)}
        for step, call in episode.turns()
    ]
    noted = {"usage": {role: usage.model_dump() for role, usage in episode.usage.items()}, "measures": _measures(episode)}
    mappings = {name: json.dumps((data | noted)[name], ensure_ascii=False) for name in MAPPINGS}
    return {name: data[name] for name in SCHEMA.names if name in data and name not in mappings} | mappings | {"steps": steps}


def _scored(inputs: Inputs, agent: str, benchmark: str) -> Iterator[Episode]:
    """An agent's episodes with the outcomes of their scores, which know what only a checker can tell."""
    scores = inputs.rows(agent, benchmark)
    by_task = {(row.task_id, row.seed): row for row in scores.itertuples()}
    for episode in inputs.traced_episodes(agent, benchmark):
        row: Any = by_task.get((episode.task_id, episode.seed))
        yield episode if row is None else episode.model_copy(update={"success": bool(row.success), "progress": float(row.progress)})


FORMATS: dict[str, Callable[[Inputs, Path, list[tuple[str, str]]], list[Path]]] = {"inspect": _inspect, "datasets": _datasets}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=["inspect", "datasets"], required=True)
    add_results(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")


def run(args: argparse.Namespace) -> None:
    say(f"{args.output}: {len(export(load(args.config), args.results, args.output, args.format))} files written")
