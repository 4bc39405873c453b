"""This engine and server against those of an earlier commit, on the same weights and requests: processor and wall seconds.

`git worktree add /tmp/before 9be3c05; python benchmarks/compare.py --before /tmp/before` draws small random checkpoints, starts one process
for each of the two checkouts and has them answer the same requests in turns, so that a busy machine disturbs both alike; with
`--served DIR ...`, checkpoints with a tokenizer, each checkout's server answers over HTTP instead. Ratios, now / before, are medians of
the rounds' with their 95 % intervals (order statistics). One thread; seconds of the processor are the answering process's own.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from scipy.stats import binom

# What one round of a case costs and says: (processor seconds, wall seconds, answers, forwards).
Round = tuple[float, float, Any, int]

DEMO = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
SIZES = {"demo": {**DEMO, "head_dim": 32, "vocab_size": 1500}}
SIZES["60M"] = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8, "vocab_size": 32000}
SIZES["60M"] |= {"num_key_value_heads": 8, "head_dim": 64}
BLOCK = {"strategy": "sdar", "remasking": "low_confidence_dynamic", "block_length": 8}
# Name -> attention of the checkpoint, settings, requests together, whether answers end early, size, rounds.
CASES: dict[str, tuple[str, dict[str, Any], int, bool, str, int]] = {
    "AR, 1": ("causal", {"strategy": "ar", "max_new_tokens": 24}, 1, False, "demo", 25),
    "AR, 8": ("causal", {"strategy": "ar", "max_new_tokens": 24}, 8, False, "demo", 25),
    "block 8, 1": ("block_causal", {**BLOCK, "threshold": 0.02, "max_new_tokens": 24}, 1, False, "demo", 25),
    "block 8, 8": ("block_causal", {**BLOCK, "threshold": 0.02, "max_new_tokens": 24}, 8, False, "demo", 25),
    "LLaDA, 8": ("full", {"strategy": "llada", "block_length": 16, "steps": 32, "max_new_tokens": 64}, 8, False, "demo", 5),
    "LLaDA, 8, stops early": ("full", {"strategy": "llada", "block_length": 16, "steps": 32, "max_new_tokens": 64}, 8, True, "demo", 5),
    "dual cache, 8": (
        "full",
        {"strategy": "fast_dllm", "cache": "dual", "block_length": 16, "threshold": 0.9, "max_new_tokens": 64},
        8,
        False,
        "demo",
        9,
    ),
    "AR, 8, 60M": ("causal", {"strategy": "ar", "max_new_tokens": 24}, 8, False, "60M", 5),
    "block 8, 8, 60M": ("block_causal", {**BLOCK, "threshold": 0.02, "max_new_tokens": 24}, 8, False, "60M", 5),
}

HTTP_SETTINGS = {
    "causal": {"max_tokens": 24},
    "block_causal": {**BLOCK, "threshold": 0.9, "max_tokens": 24},
    "full": {"strategy": "llada", "block_length": 16, "steps": 16, "max_tokens": 32},
}
REQUESTS = 4  # a round over HTTP
WORDS = ["you", "see", "a", "red", "ball", "two", "steps", "forward", "pick", "up", "the", "key", "go", "to", "grey", "door"]


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
        started = time.process_time(), time.perf_counter()
        for ids, decoding in zip(prompts, plans, strict=True):
            engine.submit(ids, decoding, events.put)
        ended: list[Any] = []
        while len(ended) < count:
            event = events.get(timeout=600)
            ended += [event.generation] if isinstance(event, Finished) else []
        spent = time.process_time() - started[0], time.perf_counter() - started[1]
        print(json.dumps([*spent, sorted(answer.token_ids for answer in ended), sum(answer.nfe for answer in ended)]), flush=True)


def environment(checkout: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(checkout / "workflow"), "OMP_NUM_THREADS": "1"}


@contextmanager
def engine_of(checkout: Path) -> Iterator[Callable[[Any], Round]]:
    """A process with the checkout's engine that answers cases."""
    command = [sys.executable, __file__, "--serve"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(checkout))

    def ask(case: Any) -> Round:
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(case) + "\n")
        process.stdin.flush()
        return tuple(json.loads(process.stdout.readline()))

    try:
        yield ask
    finally:
        process.terminate()


@contextmanager
def server_of(checkout: Path, directory: Path) -> Iterator[Callable[[Any], Round]]:
    """The checkout's server of a checkpoint, asked over one connection."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dllm_agents", "serve", "--model", str(directory), "--port", str(port)]
    process = subprocess.Popen(command, env=environment(checkout), stderr=subprocess.DEVNULL)
    clock = (~process.pid << 3) | 2  # its processor clock, as clock_getcpuclockid gives it

    def ask(case: Any) -> Round:
        settings, streamed, seed = case
        draw = random.Random(seed)
        texts, forwards = [], 0
        started = time.clock_gettime(clock), time.perf_counter()
        for _ in range(REQUESTS):
            message = {"role": "user", "content": " ".join(draw.choice(WORDS) for _ in range(60))}
            body = {"model": directory.name, "messages": [message], "temperature": 0.0, "stream": streamed, **settings}
            response = http.post("/v1/chat/completions", json=body)
            if streamed:
                events = [json.loads(line[6:]) for line in response.text.split("\n") if line.startswith("data: {")]
                texts.append("".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"]))
            else:
                texts.append(response.json()["choices"][0]["message"]["content"])
                forwards += response.json()["usage"]["nfe"]
        return time.clock_gettime(clock) - started[0], time.perf_counter() - started[1], texts, forwards

    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as http:
            while process.poll() is None:
                with suppress(httpx.HTTPError):
                    if http.get("/health").is_success:
                        break
                time.sleep(0.2)
            yield ask
    finally:
        process.terminate()


def measure(name: str, ask: Mapping[str, Callable[[Any], Round]], case: Any, rounds: int) -> None:
    """Ask both in turns and print the ratio of their seconds. Every round has prompts of its own, so that no cache of keys holds them."""
    results: dict[str, list[Round]] = {who: [] for who in ask}
    for number in range(rounds + 1):
        for who in sorted(ask, reverse=bool(number % 2)):
            results[who].append(ask[who]([*case, number]))
    before, now = (results[who][1:] for who in ("before", "now"))
    same = "equal" if [row[2] for row in before] == [row[2] for row in now] else "DIFFERENT"
    seconds = [f"{statistics.median(row[0] for row in rows):.3f}" for rows in (before, now)]
    ratios = [ratio([new[place] / old[place] for old, new in zip(before, now, strict=True)]) for place in (0, 1)]
    forwards = f"{before[-1][3]} -> {now[-1][3]} forwards"
    print(
        f"{name:28s} {' -> '.join(seconds)} s; processor {ratios[0]}, wall {ratios[1]}; answers {same}, {forwards}, n={rounds}", flush=True
    )


def ratio(values: list[float]) -> str:
    """The median with its 95 % interval, or the range of fewer than six values."""
    outside = int(binom.ppf(0.025, len(values), 0.5)) - 1 if len(values) > 5 else 0
    ordered = sorted(values)
    return f"{statistics.median(values):.3f} [{ordered[max(outside, 0)]:.3f}, {ordered[-1 - max(outside, 0)]:.3f}]"


def compare_engines(checkouts: Mapping[str, Path], names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ask = {who: stack.enter_context(engine_of(checkout)) for who, checkout in checkouts.items()}
        directories: dict[tuple[str, str], str] = {}
        for name in names:
            attention, settings, count, stops, size, rounds = CASES[name]
            if (size, attention) not in directories:
                directories[size, attention] = checkpoint(Path(folder) / f"{size}-{attention}", SIZES[size], attention)
            measure(name, ask, [directories[size, attention], settings, count, stops], rounds)


def compare_servers(checkouts: Mapping[str, Path], directories: list[Path], rounds: int) -> None:
    for directory in directories:
        attention = json.loads((directory / "config.json").read_text()).get("dllm", {}).get("attention", "causal")
        with ExitStack() as stack:
            ask = {who: stack.enter_context(server_of(checkout, directory)) for who, checkout in checkouts.items()}
            for streamed in (False, True):
                name = f"{directory.parent.name}, {'streamed' if streamed else 'whole'}"
                measure(name, ask, [HTTP_SETTINGS[attention], streamed], rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of the commit to compare with")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--served", nargs="+", type=Path, default=[], metavar="DIR", help="checkpoints to serve over HTTP instead")
    parser.add_argument("--rounds", type=int, default=40, help="over HTTP")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    if not arguments.before:
        parser.error("--before CHECKOUT is missing")
    checkouts = {"before": arguments.before.resolve(), "now": Path(__file__).parents[1]}
    if arguments.served:
        compare_servers(checkouts, [directory.resolve() for directory in arguments.served], arguments.rounds)
    else:
        compare_engines(checkouts, arguments.only)


if __name__ == "__main__":
    main()
