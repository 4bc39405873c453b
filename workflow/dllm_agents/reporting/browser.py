"""The episode browser: a self-contained HTML page that shows every episode step by step, with its failures, and two agents side by side.

Works from file://. Episodes are gzipped JSON inside the page, unpacked a hundred at a time when one of them is opened; above
`PAGE_EPISODES` or `PAGE_BYTES` the run is split over numbered pages.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dllm_agents.benchmarks import bfcl_data
from dllm_agents.commands import add_paths, add_results, say
from dllm_agents.config import BFCL_MULTI_TURN, BFCL_SINGLE_TURN, Config, load
from dllm_agents.errors import StageError
from dllm_agents.files import write_aside
from dllm_agents.records import Task, TracedEpisode
from dllm_agents.reporting.inputs import Inputs

PAGE_EPISODES = 5000
PAGE_BYTES = 50_000_000
CHUNK_EPISODES = 100
COLUMNS = ("task", "benchmark", "category", "agent", "goal", "outcome", "success", "failures", "chunk", "offset")
ANSWER = ("nfe", "completion_tokens", "reveal_step", "tokens", "confidence")
MAX_TEXT = 4000
KEPT = (
    *("goal", "backbones", "decoding", "seed", "initial_observation", "steps"),
    *("progress", "answer", "ended", "error", "versions", "seconds"),
)


def build(config: Config, results_dir: str | Path, output: str | Path) -> list[Path]:
    """Write the episode browser to `output` (`name.html`, then `name-2.html`, ...) from a run's episodes, scores and failures; returns the
    pages. Raises StageError naming file and line of an episode that cannot be read."""
    output = Path(output)
    inputs = Inputs(config, Path(results_dir))
    pages = list(_pages(_episodes(inputs)))
    names = [output.name if number == 0 else f"{output.stem}-{number + 1}{output.suffix}" for number in range(len(pages))]
    links = [
        {"file": name, "label": f"page {number + 1}", "holds": list(dict.fromkeys((row[1], row[3]) for row in rows))}
        for number, (name, (rows, _)) in enumerate(zip(names, pages, strict=True))
        if len(pages) > 1
    ]
    tasks = {
        name: facts for benchmark in config.run.benchmarks for name, task in inputs.tasks(benchmark).items() if (facts := _facts(task))
    }
    template = (files("dllm_agents.reporting") / "browser.html").read_text(encoding="utf-8")
    written = []
    for name, (rows, chunks) in zip(names, pages, strict=True):
        about = f"{len(rows)} episodes, scale {config.scale}"
        index: dict[str, Any] = {
            "title": "Episodes",
            "about": about,
            "here": name if links else "",
            "pages": links,
            "columns": COLUMNS,
            "episodes": rows,
        }
        index["tasks"] = {row[0]: tasks[row[0]] for row in rows if tasks.get(row[0])}
        index["diffusion"] = [agent for agent in inputs.agents if inputs.paradigm(agent) == "diffusion"]
        body = "\n".join(f'<script type="text/plain" id="chunk{number}">{chunk}</script>' for number, chunk in enumerate(chunks))
        with write_aside(output.with_name(name)) as handle:
            handle.write(template.replace("@INDEX@", _pack(index)).replace("@CHUNKS@", body))
        written.append(output.with_name(name))
    return written


def _episodes(inputs: Inputs) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """(index row without its place, what the page shows) of every episode, agent by agent."""
    for benchmark in inputs.config.run.benchmarks:
        for agent in inputs.config.run.agents:
            if not inputs.has(inputs.files.episodes, agent, benchmark):
                continue
            path = inputs.files.episodes(benchmark, agent)
            solved = inputs.rows(agent, benchmark).set_index("task_id")["success"].to_dict()
            rows = inputs.failures(benchmark)
            failures = {
                str(task): part[["kind", "detail", "first_step", "last_step", "evidence"]].to_dict("records")
                for task, part in rows[rows["agent"] == agent].groupby("task_id")
            }
            for number, line in enumerate(path.open("rb"), 1):
                if line.strip():
                    try:
                        data = json.loads(line)
                        if other := data.keys() - TracedEpisode.model_fields.keys():
                            raise KeyError(*other)
                        answers = {(call["role"], call["seed"]): call for call in data["calls"] if "refused" not in call}
                        data["steps"] = [_with_answer(step, answers) for step in data["steps"]]
                        task = str(data["task_id"])
                        success = bool(solved.get(task, data["success"]))
                        row = [task, benchmark, data["category"], agent, str(data["goal"])[:200], _outcome(data["ended"], success), success]
                        row.append(sorted({failure["kind"] for failure in failures.get(task, [])}))
                    except (ValueError, KeyError, TypeError, RecursionError):
                        raise StageError(f"{path}:{number}: not an Episode record; delete the file to play it again") from None
                    yield row, {key: data[key] for key in KEPT if key in data} | {"failures": failures.get(task, [])}


def _facts(task: Task) -> dict[str, str]:
    """What a task offers and what is right beside its goal, where its benchmark has it: functions, acceptable calls, answers."""
    right = task.data.get("truth") or task.data.get("answers")
    if "functions" in task.data and not right and task.category in (*BFCL_SINGLE_TURN, *BFCL_MULTI_TURN):
        right = bfcl_data.answers(task.category).get(str(task.data.get("id")))
    facts = {"functions": task.data.get("functions"), "right answer": right}
    return {name: json.dumps(value, ensure_ascii=False, indent=1) for name, value in facts.items() if value}


def _with_answer(step: dict[str, Any], answers: dict[tuple[Any, ...], dict[str, Any]]) -> dict[str, Any]:
    """A step as the page shows it: with the answer it acts on."""
    call = answers.get(tuple(step.pop("call", ())), {})
    return step | {name: call[name] for name in ANSWER if name in call} | {"text": str(call.get("text", ""))[:MAX_TEXT]}


def _outcome(ended: str, success: bool) -> str:
    if success:
        return "success"
    return "wrong answer" if ended == "answered" else ended.replace("_", " ")


def _pages(episodes: Iterator[tuple[list[Any], dict[str, Any]]]) -> Iterator[tuple[list[list[Any]], Sequence[str]]]:
    """Episodes packed into chunks, chunks into pages: (index rows, packed chunks) of each; at least one page."""
    rows: list[list[Any]] = []
    chunks: list[str] = []
    waiting: list[dict[str, Any]] = []
    size, begun = 0, 0
    for row, episode in episodes:
        rows.append([*row, len(chunks), len(waiting)])
        waiting.append(episode)
        if len(waiting) == CHUNK_EPISODES:
            chunks.append(_pack(waiting))
            size += len(chunks[-1])
            waiting = []
            # An average chunk of room is left, and the index is small beside the episodes.
            if len(rows) >= PAGE_EPISODES or size + size / len(chunks) > 0.9 * PAGE_BYTES:
                yield rows, chunks
                rows, chunks, size, begun = [], [], 0, begun + 1
    if waiting:
        chunks.append(_pack(waiting))
    if rows or not begun:
        yield rows, chunks


def _pack(value: Any) -> str:
    """Gzipped JSON in base64, which can hold no markup; no time stamp, so that equal values are equal text."""
    return base64.b64encode(gzip.compress(json.dumps(value, ensure_ascii=False, default=str).encode(), 6, mtime=0)).decode("ascii")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_results(parser)
    add_paths(parser, output="")


def run(args: argparse.Namespace) -> None:
    for path in build(load(args.config), args.results, args.output):
        say(f"{path}: written")
