"""What faster decoding does to a backbone's tokens: forwards, and agreement with one token a forward, on prompts of its benchmark.

`python benchmarks/agreement.py --config config/demo.yaml --backbone tiny-block --benchmark babyai --model DIR --trajectories FILE` decodes
the prompts of evenly spaced trajectory steps: with the backbone's own settings, forwards as run beside those of the published loop; then
for thresholds from high to low the share of answers' tokens that are those of one-token decoding, and the lowest threshold that keeps 99 %
of them; and, for cached full attention, the same with the prompt refreshed in fewer blocks (`refresh_prompt`).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dllm_agents import benchmarks
from dllm_agents.config import load as load_config
from dllm_agents.decoding import Decoding, Generation, generate
from dllm_agents.files import read_jsonl
from dllm_agents.models import load
from dllm_agents.records import Trajectory
from dllm_agents.training.data import exchanges

THRESHOLDS = (0.99, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.3)
WANTED = 0.99


def agreement(answers: Sequence[Generation], references: Sequence[Generation]) -> float:
    """The share of the reference answers' tokens that stand in the same place."""
    pairs = [(a.token_ids, r.token_ids) for a, r in zip(answers, references, strict=True)]
    return sum(x == y for one, other in pairs for x, y in zip(one, other, strict=False)) / max(1, sum(len(other) for _, other in pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("config", "backbone", "benchmark", "model", "trajectories"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--limit", type=int, default=60, help="prompts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config([Path(arguments.config)])
    backbone = config.backbones[arguments.backbone]
    decoding = backbone.benchmark_decoding.get(arguments.benchmark, backbone.decoding)
    model = load(arguments.model)
    benchmark = benchmarks.load(arguments.benchmark, config)
    steps = [
        exchange
        for trajectory in read_jsonl(Path(arguments.trajectories), Trajectory)
        for exchange in exchanges(benchmark, trajectory, backbone.prompt)
    ]
    chosen = steps[:: max(1, len(steps) // arguments.limit)][: arguments.limit]
    prompts = [model.tokenizer.apply_chat_template(e.messages, add_generation_prompt=True, return_dict=False) for e in chosen]

    def answers(**changes: Any) -> list[Generation]:
        settings = Decoding.model_validate(decoding.model_dump(exclude_none=True) | changes)
        return [generate(model, ids, settings) for ids in prompts]

    own = answers()
    published = answers(merge_stores=False, stop_early=False)
    same = sum(one.token_ids == other.token_ids for one, other in zip(own, published, strict=True))
    forwards, counted = (statistics.mean(answer.nfe for answer in run) for run in (own, published))
    print(f"{arguments.backbone} on {arguments.benchmark}, n={len(prompts)} prompts, settings {decoding.model_dump(exclude_none=True)}")
    print(f"forwards an answer: {counted:.2f} in the published loop, {forwards:.2f} as run; the same tokens in {same} of {len(prompts)}")
    if "threshold" in decoding.model_fields_set or decoding.resolved(model).threshold is not None:
        references, kept = answers(threshold=1.0), None
        for threshold in THRESHOLDS:
            run = answers(threshold=threshold)
            share = agreement(run, references)
            kept = threshold if share >= WANTED else kept
            tokens = sum(len(answer.token_ids) for answer in run) / sum(answer.nfe for answer in run)
            print(f"threshold {threshold:4.2f}: {100 * share:6.2f} % of one-token decoding's tokens, {tokens:.2f} tokens a forward")
            if share < WANTED:
                break
        print(f"lowest threshold with {100 * WANTED:.0f} % agreement: {kept}")
    if decoding.resolved(model).cache in ("prefix", "dual"):
        for every in (2, 4, 1 << 16):
            run = answers(refresh_prompt=every)
            print(f"prompt refreshed in every {every}th block: {100 * agreement(run, own):.2f} % of the exact cache's tokens")


if __name__ == "__main__":
    main()
