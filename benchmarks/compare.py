"""This engine against that of an earlier commit, on the same weights and requests: CPU seconds, tokens, forwards.

`git worktree add /tmp/before 9be3c05; python benchmarks/compare.py --before /tmp/before` draws small random checkpoints, starts one process
for each of the two checkouts and has them answer the same requests in turns, so that a busy machine disturbs both alike. Seconds are the
process's own CPU time, one thread; ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DEMO = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
SIZES = {"demo": {**DEMO, "head_dim": 32, "vocab_size": 1500}}
SIZES["60M"] = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8, "vocab_size": 32000}
SIZES["60M"] |= {"num_key_value_heads": 8, "head_dim": 64}
BLOCK = {"strategy": "sdar", "remasking": "low_confidence_dynamic", "block_length": 8}
# Name -> attention of the checkpoint, settings, requests together, whether answers end early, size, rounds.
CASES: dict[str, tuple[str, dict[str, Any], int, bool, str, int]] = {
    "AR, 1": ("causal", {"strategy": "ar", "max_new_tokens": 24}, 1, False, "demo", 9),
    "AR, 8": ("causal", {"strategy": "ar", "max_new_tokens": 24}, 8, False, "demo", 9),
    "block 8, 1": ("block_causal", {**BLOCK, "threshold": 0.02, "max_new_tokens": 24}, 1, False, "demo", 9),
    "block 8, 8": ("block_causal", {**BLOCK, "threshold": 0.02, "max_new_tokens": 24}, 8, False, "demo", 9),
    "LLaDA, 8": ("full", {"strategy": "llada", "block_length": 16, "steps": 32, "max_new_tokens": 64}, 8, False, "demo", 3),
    "LLaDA, 8, stops early": ("full", {"strategy": "llada", "block_length": 16, "steps": 32, "max_new_tokens": 64}, 8, True, "demo", 3),
    "dual cache, 8": (
        "full",
        {"strategy": "fast_dllm", "cache": "dual", "block_length": 16, "threshold": 0.9, "max_new_tokens": 64},
        8,
        False,
        "demo",
        5,
    ),
    "AR, 8, 60M": ("causal", {"strategy": "ar", "max_new_tokens": 24}, 8, False, "60M", 3),
    "block 8, 8, 60M": ("block_causal", {**BLOCK, "threshold": 0.02, "max_new_tokens": 24}, 8, False, "60M", 3),
}


def checkpoint(folder: Path, size: dict[str, int], attention: str) -> str:
    """A random Qwen3 checkpoint that says how it attends."""
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder.mkdir()
    torch.manual_seed(0)
    config = Qwen3Config(**size, max_position_embeddings=4096, tie_word_embeddings=False, initializer_range=0.09)
    save_file(Qwen3ForCausalLM(config).state_dict(), folder / "model.safetensors")
    own = {"attention": attention} | ({} if attention == "causal" else {"mask_token_id": size["vocab_size"] - 1})
    own |= {"block_length": 8} if attention == "block_causal" else {}
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), "model_type": "qwen3", "dllm": own}))
    return str(folder)


def serve() -> None:
    """A worker: reads a case a line, answers with CPU seconds, tokens and forwards."""
    import torch

    from dllm_agents.decoding import Decoding, generate
    from dllm_agents.models import load

    try:
        from dllm_agents.engine.engine import Engine, Finished
    except ModuleNotFoundError:
        from dllm_agents.serving.engine import Engine, Finished  # type: ignore[import-not-found,no-redef]

    torch.set_num_threads(1)
    engines: dict[str, Any] = {}
    for line in sys.stdin:
        directory, settings, count, stops, seed = json.loads(line)
        engine = engines[directory] = engines.get(directory) or Engine(load(directory))
        draw = torch.Generator().manual_seed(seed)
        prompts = [torch.randint(0, engine.model.vocab_size - 2, (150 + 9 * n,), generator=draw).tolist() for n in range(count)]
        plans = [Decoding(**settings, stop_ids=[])] * count
        if stops:
            answers = [generate(engine.model, ids, plans[0]).token_ids for ids in prompts]
            plans = [Decoding(**settings, stop_ids=[answer[6 + n]]) for n, answer in enumerate(answers)]
        events: queue.Queue[Any] = queue.Queue()
        started = time.process_time()
        for ids, decoding in zip(prompts, plans, strict=True):
            engine.submit(ids, decoding, events.put)
        ended: list[Any] = []
        while len(ended) < count:
            event = events.get(timeout=600)
            ended += [event.generation] if isinstance(event, Finished) else []
        seconds = time.process_time() - started
        print(json.dumps([seconds, sorted(answer.token_ids for answer in ended), sum(answer.nfe for answer in ended)]), flush=True)


class Worker:
    def __init__(self, checkout: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(checkout / "workflow"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--serve"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, case: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of the commit to compare with")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    if not arguments.before:
        parser.error("--before CHECKOUT is missing")
    workers = {"before": Worker(arguments.before.resolve()), "now": Worker(Path(__file__).parents[1])}
    with tempfile.TemporaryDirectory() as folder:
        directories: dict[tuple[str, str], str] = {}
        for name in arguments.only:
            attention, settings, count, stops, size, rounds = CASES[name]
            if (size, attention) not in directories:
                directories[size, attention] = checkpoint(Path(folder) / f"{size}-{attention}", SIZES[size], attention)
            case = [directories[size, attention], settings, count, stops]
            seconds: dict[str, list[float]] = {"before": [], "now": []}
            # Every round has prompts of its own, so that nothing is found in a cache of keys.
            answers: dict[str, Any] = {who: worker.ask([*case, 0]) for who, worker in workers.items()}
            for number in range(rounds):
                for who, worker in workers.items():
                    answers[who] = worker.ask([*case, number + 1])
                    seconds[who].append(answers[who][0])
            before, now = (statistics.median(seconds[who]) for who in ("before", "now"))
            same = "equal" if answers["before"][1] == answers["now"][1] else "DIFFERENT"
            forwards = f"{answers['before'][2]} -> {answers['now'][2]} forwards"
            print(
                f"{name:24s} {before:7.3f} s -> {now:7.3f} s: {before / now:5.2f} times, tokens {same}, {forwards}, n={rounds}", flush=True
            )
    for worker in workers.values():
        worker.process.terminate()


if __name__ == "__main__":
    main()
