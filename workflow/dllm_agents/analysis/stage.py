"""The score and classify-failures stages: files in, files out."""

from __future__ import annotations

import argparse
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from dllm_agents import benchmarks
from dllm_agents.analysis.failures import classify
from dllm_agents.analysis.layouts import plain_layout
from dllm_agents.analysis.metrics import score
from dllm_agents.benchmarks.base import Benchmark, Verdict
from dllm_agents.commands import add_paths, say
from dllm_agents.config import Config, load
from dllm_agents.errors import StageError
from dllm_agents.files import iter_jsonl
from dllm_agents.frames import read_table, write_frame
from dllm_agents.records import Episode, Failure, Score, Task

UNREAD = ("ast_decoder:decoder_failed", "ast_decoder:decoder_wrong_output_format", "relevance_error:decoder_failed")
"""What BFCL's checker says of an answer without a call that its decoder can read."""


def score_file(config: Config, episodes_path: Path, tasks_path: Path, output: Path) -> int:
    """Score an episode file; single answers are judged here, by the official checker. Returns how many scores were written.

    Raises StageError when an episode's task is not in the task file.
    """
    tasks = {task.id: task for task in iter_jsonl(tasks_path, Task)}
    episodes = list(_episodes_of(tasks, episodes_path, tasks_path))
    if not episodes:
        return write_frame(output, [], Score)
    benchmark = benchmarks.load(episodes[0].benchmark, config)
    # Without an answer there is nothing to judge: saying nothing is right for some tasks, failing to answer for none.
    answers = {
        episode.task_id: episode.answer
        for episode in episodes
        if episode.answer is not None and not benchmark.interactive(tasks[episode.task_id])
    }
    verdicts = _verdicts(benchmark, answers, tasks)
    any_layout = _in_any_layout(benchmark, answers, verdicts, tasks) if benchmark.name == "bfcl" else None
    scores = score(episodes, verdicts, _judged(config, episodes, tasks), tasks, any_layout)
    return write_frame(output, _graded(config, episodes, tasks, scores), Score)


def _episodes_of(tasks: Container[str], path: Path, tasks_path: Path) -> Iterator[Episode]:
    """The episodes of a file, each of one of the tasks."""
    for episode in iter_jsonl(path, Episode):
        if episode.task_id not in tasks:
            raise StageError(f"{path}: task {episode.task_id} is not in {tasks_path}; run the rollout again with these tasks")
        yield episode


def _verdicts(benchmark: Benchmark, answers: Mapping[str, str], tasks: Mapping[str, Task]) -> dict[str, Verdict]:
    verdicts = benchmark.judge_many([(tasks[name], answer) for name, answer in answers.items()])
    return dict(zip(answers, verdicts, strict=True))


def _in_any_layout(
    benchmark: Benchmark, answers: Mapping[str, str], verdicts: Mapping[str, Verdict], tasks: Mapping[str, Task]
) -> dict[str, bool]:
    """Task id -> whether an answer's calls are right, where the official decoder reads none those in another layout: what the official
    checker says of them laid out as its prompt asks. A call that is found where none is right is a mistake here too."""
    rewritten: dict[str, str] = {}
    for name, answer in answers.items():
        if verdicts[name].error_type in UNREAD or (verdicts[name].valid and tasks[name].category.endswith("irrelevance")):
            plain = plain_layout(answer, tasks[name].data.get("language", "Python") == "Python")
            if plain is not None:
                rewritten[name] = plain
    again = {**verdicts, **_verdicts(benchmark, rewritten, tasks)}
    return {name: verdict.valid for name, verdict in again.items()}


def _judged(config: Config, episodes: list[Episode], tasks: dict[str, Task]) -> dict[str, list[str]]:
    """Task id -> what the configured LLM judges say of the answer (ACC_L); empty without judges."""
    if not episodes or episodes[0].benchmark != "multihop_qa":
        return {}
    from dllm_agents.client.judge import judges

    panel = judges(config.benchmarks.multihop_qa)
    if not panel:
        return {}
    return {
        episode.task_id: [judge.verdict(episode.goal, tasks[episode.task_id].data["answers"], episode.answer or "") for judge in panel]
        for episode in episodes
    }


def _graded(config: Config, episodes: list[Episode], tasks: dict[str, Task], scores: Iterator[Score]) -> Iterator[Score]:
    """Scores of BrowseComp-ZH with the verdict of its judge as success, and the confidence that a response states; others, and without a
    judge all, as they are."""
    if not episodes or episodes[0].benchmark != "browsecomp_zh":
        yield from scores
        return
    from dllm_agents.client.judge import chinese_judge

    judge = chinese_judge(config.benchmarks.browsecomp_zh)
    for episode, row in zip(episodes, scores, strict=True):
        if judge is None or episode.ended == "error":
            yield row
            continue
        data = tasks[episode.task_id].data
        grade = judge.grade(data["question"], data["answers"][0], episode.answer or "")
        right = grade.verdict == "correct"
        noted = row.measures | {"confidence": grade.confidence}
        yield row.model_copy(update={"judge": grade.verdict, "success": right, "progress": float(right), "measures": noted})


def classify_file(config: Config, episodes_path: Path, scores_path: Path, tasks_path: Path, output: Path) -> int:
    """Classify the failures of an episode file, with what the official checker said (scores) and the tools offered (tasks); returns how
    many were found. Episodes are read one at a time. Raises StageError when an episode's task is not in the task file."""
    rows = read_table(scores_path, Score).select(["task_id", "seed", "error_type"])
    errors = {(row["task_id"], row["seed"]): row["error_type"] for row in rows.to_pylist()}
    tasks = {task.id: task for task in iter_jsonl(tasks_path, Task)}

    def failures() -> Iterator[Failure]:
        for episode in _episodes_of(tasks, episodes_path, tasks_path):
            tools = offered_tools(tasks[episode.task_id], episode)
            yield from classify(episode, errors.get((episode.task_id, episode.seed)), config.report.loop_length, tools)

    return write_frame(output, failures(), Failure)


def offered_tools(task: Task, episode: Episode) -> list[dict[str, Any]] | None:
    """The function documents an agent could call on a task: those its selector kept of a single answer, all of a conversation's turns.
    None where calls are not Python's, whose types the documents name, and where a benchmark offers none."""
    functions = task.data.get("functions")
    if functions is None or task.data.get("language", "Python") != "Python":
        return None
    if episode.answer is None:
        return [*functions, *(function for held in task.data.get("held_back", {}).values() for function in held)]
    if episode.tools is None or not episode.tools.selected_tools:
        return list(functions)
    return [function for function in functions if function["name"] in episode.tools.selected_tools[0]]


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    add_paths(parser, episodes="", tasks="what was played", output="")


def run_score(args: argparse.Namespace) -> None:
    say(f"{args.output}: {score_file(load(args.config), args.episodes, args.tasks, args.output)} scores")


def add_classify_arguments(parser: argparse.ArgumentParser) -> None:
    add_paths(parser, episodes="", scores="", tasks="the tasks, for the tools they offer", output="")


def run_classify(args: argparse.Namespace) -> None:
    say(f"{args.output}: {classify_file(load(args.config), args.episodes, args.scores, args.tasks, args.output)} failures")
