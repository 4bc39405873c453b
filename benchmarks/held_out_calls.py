"""How many function calls that it has not been taught a checkpoint gets right, by BFCL's own checker.

    python benchmarks/held_out_calls.py --config config/small.yaml --backbone NAME [--model DIR] [--constrain] [--json FILE]

The published single-turn entries none of whose functions stands in a training entry are answered with the backbone's prompt and decoding,
freely or (`--constrain`) with nothing but calls of the offered functions to be written where one in Python is wanted. Calls and irrelevance
are told apart: an answer that does not parse is right where nothing is to be called.
"""

from __future__ import annotations

import argparse
import json
import queue
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dllm_agents import benchmarks, models, prompts
from dllm_agents.agents.tool_calling import held_to
from dllm_agents.benchmarks.bfcl import BFCL
from dllm_agents.config import Config, load
from dllm_agents.engine.engine import Engine, Failed, Finished, Unmasked
from dllm_agents.models.checkpoints import resolve_model
from dllm_agents.records import Task

Line = dict[str, Any]
RUNNING = 8  # answers that are decoded together


def unseen(config: Config, per_category: int) -> tuple[BFCL, list[Task]]:
    """BFCL and its evaluated entries of functions that no training entry of this configuration offers."""
    bfcl = benchmarks.load("bfcl", config)
    assert isinstance(bfcl, BFCL)
    seen = {function["name"] for task in bfcl.tasks("train") for function in task.data["functions"]}
    left: Counter[str] = Counter()
    chosen = []
    for task in bfcl.tasks("test"):
        fresh = task.data["functions"] and not seen & {function["name"] for function in task.data["functions"]}
        if fresh and not bfcl.interactive(task) and left[task.category] < per_category:
            left[task.category] += 1
            chosen.append(task)
    return bfcl, chosen


def answer(config: Config, backbone: str, directory: Path, bfcl: BFCL, tasks: list[Task], dtype: str, constrain: bool) -> list[Line]:
    """One line an entry: what was answered, in how many forwards, and the verdict."""
    entry = config.backbones[backbone]
    decoding = entry.benchmark_decoding.get("bfcl", entry.decoding)
    model = models.load(directory, dtype, "cuda" if torch.cuda.is_available() else "cpu")
    engine = Engine(model, positions=16_384, max_running=RUNNING)
    ends: queue.Queue[tuple[int, Finished | Failed]] = queue.Queue()

    def listener(number: int, event: Unmasked | Finished | Failed) -> None:
        if not isinstance(event, Unmasked):
            ends.put((number, event))

    prompt_ids = []
    for number, task in enumerate(tasks):
        messages = prompts.tool_messages(entry.prompt, bfcl, task)
        prompt_ids.append(model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False))
        held = decoding.model_copy(update={"constraint": held_to(task)}) if constrain else decoding
        engine.submit(prompt_ids[number], held, partial(listener, number))
    lines: dict[int, Line] = {}
    while len(lines) < len(tasks):
        number, event = ends.get()
        assert isinstance(event, Finished), event
        out = event.generation
        lines[number] = {
            "task": tasks[number].id,
            "category": tasks[number].category,
            "prompt_tokens": len(prompt_ids[number]),
            "tokens": len(out.token_ids),
            "forwards": out.nfe,
            "answer": model.tokenizer.decode(out.token_ids),
        }
    engine.close()
    ordered = [lines[number] for number in range(len(tasks))]
    verdicts = bfcl.judge_many([(task, line["answer"]) for task, line in zip(tasks, ordered, strict=True)])
    return [line | {"valid": verdict.valid, "error": verdict.error_type} for line, verdict in zip(ordered, verdicts, strict=True)]


def told(name: str, lines: list[Line]) -> str:
    """Right of asked, calls (of Python and of other languages) and irrelevance apart, what wrong calls fail by, tokens a forward."""

    def rate(part: list[Line]) -> str:
        return f"{sum(line['valid'] for line in part)} of {len(part)}"

    calls = [line for line in lines if not line["category"].endswith("relevance")]
    foreign = [line for line in calls if line["category"] in ("java", "javascript")]
    python = [line for line in calls if line not in foreign]
    errors = Counter(str(line["error"]).split(":")[0] for line in calls if not line["valid"])
    pace = sum(line["tokens"] for line in lines) / max(1, sum(line["forwards"] for line in lines))
    irrelevant = rate([line for line in lines if line["category"].endswith("irrelevance")])
    rates = f"Python calls {rate(python)}, Java and JavaScript {rate(foreign)}, irrelevance {irrelevant}"
    return f"{name}: {rates}; {pace:.2f} tokens a forward; wrong calls: {dict(errors.most_common())}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="config/small.yaml")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--model", type=Path, help="checkpoint directory; default: the backbone's own")
    parser.add_argument("--per-category", type=int, default=50)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--constrain", action="store_true")
    parser.add_argument("--json", type=Path, help="where every answer is written")
    args = parser.parse_args()
    config = load([args.config])
    directory = args.model or resolve_model(config.backbones[args.backbone])
    bfcl, tasks = unseen(config, args.per_category)
    lines = answer(config, args.backbone, directory, bfcl, tasks, args.dtype, args.constrain)
    bfcl.checker.close()
    print(told(args.backbone, lines))
    if args.json:
        args.json.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
