"""Multi-hop QA: oracle and random searchers on generated questions, what one search can find, and BM25 queries over 100k paragraphs.

python benchmarks/multihop_qa_rates.py [folder of published question files] [--hybrid]
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dllm_agents.benchmarks import load, multihop_corpus
from dllm_agents.benchmarks.search import BM25, Passage
from dllm_agents.benchmarks.search_reply import answer_text

PUBLISHED = {"hotpotqa": "hotpotqa_500", "2wiki": "2wiki_500", "musique": "musique_500", "bamboogle": "bamboogle"}


def success(section: dict[str, Any], choose: Callable[[Any], str]) -> str:
    """Success of a policy on the test tasks, as a line."""
    benchmark = load("multihop_qa", section)
    tasks, solved, turns = benchmark.tasks("test"), 0, 0
    for task in tasks:
        environment = benchmark.environment(task)
        environment.reset()
        for _ in range(benchmark.max_steps):
            turns += 1
            if environment.step(choose(environment)).done:
                break
        solved += environment.success
    return f"{solved}/{len(tasks)} = {100 * solved / len(tasks):.1f} %, {turns / len(tasks):.2f} turns each"


def one_search(section: dict[str, Any]) -> str:
    """How often the whole question, searched for once, shows every hop, as a line."""
    benchmark: Any = load("multihop_qa", section)
    found = [
        {hop["text"] for hop in task.data["hops"]} <= {passage.text for passage in benchmark._engine(task).search(task.goal, 10)}
        for task in benchmark.tasks("test")
    ]
    return f"{sum(found)}/{len(found)} questions"


def query_seconds(paragraphs: int, queries: int = 1000) -> tuple[float, list[float]]:
    """CPU seconds to index that many generated paragraphs, and the sorted CPU seconds of each query for one of their facts."""
    worlds = -(-paragraphs // len(multihop_corpus.facts(42, 0)))
    corpus = [Passage(*pair) for world in range(worlds) for pair in multihop_corpus.paragraphs(42, world)][:paragraphs]
    started = time.process_time()
    engine = BM25(corpus)
    built = time.process_time() - started
    generator, seconds = random.Random(0), []
    wanted = [fact.query for fact in multihop_corpus.facts(42, 0).values()]
    for _ in range(queries):
        query = generator.choice(wanted)
        started = time.process_time()
        engine.search(query, 10)
        seconds.append(time.process_time() - started)
    return built, sorted(seconds)


def main() -> None:
    generator = random.Random(0)
    oracle: Callable[[Any], str] = lambda environment: environment.expert_action()[1]  # noqa: E731
    chance: Callable[[Any], str] = lambda environment: generator.choice(environment.valid_actions())  # noqa: E731
    print("oracle, 50 sampled questions:      ", success({"tasks": 50}, oracle))
    print("oracle, 500 generated questions:   ", success({}, oracle))
    print("random valid actions, the same 500:", success({}, chance))
    print("one search of the whole question:  ", one_search({}))
    if "--hybrid" in sys.argv:
        with tempfile.TemporaryDirectory() as cache:
            print("the same, hybrid search:           ", one_search({"search": "hybrid", "cache": cache}))
    folders = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    if folders:
        benchmark = load("multihop_qa", {"sets": {name: str(Path(folders[0]) / f"{file}.jsonl") for name, file in PUBLISHED.items()}})
        tasks = benchmark.tasks("test")
        right = sum(benchmark.judge(task, answer_text(task.data["answers"][0])).valid for task in tasks)
        print("gold answers to published questions:", f"{right}/{len(tasks)} count as right")
    built, seconds = query_seconds(100_000)
    mean, p95 = 1e3 * statistics.mean(seconds), 1e3 * seconds[int(0.95 * len(seconds))]
    print(f"BM25 over 100,000 paragraphs:       {mean:.2f} ms of CPU a query, 95 % within {p95:.2f} ms; indexed in {built:.1f} s")


if __name__ == "__main__":
    main()
