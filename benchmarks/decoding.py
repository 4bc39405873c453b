"""How fast the decoders and the engine are, as ratios that hold on any machine.

`python benchmarks/decoding.py` builds a random LLaDA-shaped model of about 60 million parameters (fp32, two threads), decodes a prompt of
512 tokens into 128, block 32, and prints medians of interleaved runs beside the ratio that is asked for. `--only NAME ...` picks
sections, `--repeats N` the runs of each. With `--device cuda` it builds the 8B shape in bf16 and prints what a forward costs beside the
time to read the weights once.
"""

from __future__ import annotations

import argparse
import gc
import queue
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers

from dllm_agents.decoding import Decoding, ToolPrefill, generate
from dllm_agents.models.attention import IMPLEMENTATION, Segment, Slot, forward
from dllm_agents.models.loading import Model
from dllm_agents.serving.engine import Engine, Failed, Finished, Settled

SMALL = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8, "vocab_size": 32000}
LLADA_8B = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 126464}
PROMPT, NEW, BLOCK = 512, 128, 32


def random_model(
    shape: dict[str, int], attention: Any, device: str = "cpu", dtype: torch.dtype = torch.float32, block: int | None = None
) -> Model:
    """A model of random weights; the mask id is the last of the vocabulary, and nothing stops a generation."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**shape, max_position_embeddings=8192, tie_word_embeddings=False)
    config._attn_implementation = IMPLEMENTATION
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            network = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)
    mask_id = None if attention == "causal" else shape["vocab_size"] - 1
    return Model(
        network, Path("random"), attention, "ar" if attention == "causal" else "llada", mask_id, (), attention == "causal", block, 8192, {}
    )


def draw_prompt(length: int, vocabulary: int, seed: int = 0) -> list[int]:
    return torch.randint(0, vocabulary - 2, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each run, taken in turns so that a busy machine disturbs all alike."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def report(what: str, value: float, wanted: str, met: bool, note: str = "") -> None:
    print(f"{what:58s} {value:8.2f}  wanted {wanted:8s} {'ok' if met else 'MISSED'}  {note}", flush=True)


def caches(repeats: int) -> None:
    """Prefix and dual cache against the uncached loop, and what P-ReAct with tracing costs."""
    model = random_model(SMALL, "full")
    ids = draw_prompt(PROMPT, SMALL["vocab_size"])

    def run(steps: int, cache: Any) -> Callable[[], object]:
        return lambda: generate(
            model, ids, Decoding(strategy="fast_dllm", max_new_tokens=NEW, block_length=BLOCK, steps=steps, cache=cache)
        )

    run(4, "dual")()
    seconds = interleaved({f"{cache} {steps}": run(steps, cache) for steps in (32, 128) for cache in ("none", "prefix", "dual")}, repeats)
    print("seconds:", {name: round(value, 2) for name, value in seconds.items()})
    for cache, steps, wanted in (("dual", 32, 3.0), ("dual", 128, 4.5), ("prefix", 32, 2.2)):
        ratio = seconds[f"none {steps}"] / seconds[f"{cache} {steps}"]
        report(f"{cache} cache at {steps} steps, times the uncached loop", ratio, f">= {wanted}", ratio >= wanted)

    plain = Decoding(strategy="fast_dllm", max_new_tokens=NEW, block_length=NEW, steps=63, cache="dual")
    biased = plain.model_copy(update={"tool_prefill": ToolPrefill(open_id=5, close_id=6)})
    trace: list[Any] = []
    seconds = interleaved(
        {
            "plain": lambda: generate(model, ids, plain),
            "p-react": lambda: generate(model, ids, biased, on_settled=lambda *news: trace.append(news)),
        },
        repeats,
    )
    cost = 100 * (seconds["p-react"] / seconds["plain"] - 1)
    report("P-ReAct bias and tracing, % of the plain run", cost, "< 3", cost < 3)


def wait_all(engine: Engine, requests: Sequence[tuple[list[int], Decoding]]) -> None:
    """Submit all requests and wait for the last answer."""
    events: queue.Queue[Any] = queue.Queue()
    for ids, decoding in requests:
        engine.submit(ids, decoding, events.put)
    left = len(requests)
    while left:
        event = events.get()
        assert not isinstance(event, Failed), event
        left -= isinstance(event, Finished)


def concurrency(repeats: int) -> None:
    """Eight requests together against one after another, and what is not forward or token selection."""
    vocabulary = SMALL["vocab_size"]
    for name, attention, decoding, wanted in (
        ("AR", "causal", Decoding(strategy="ar", max_new_tokens=NEW), 2.0),
        ("dual cache at 128 steps", "full", _dual(128), 1.8),
        ("dual cache at 32 steps", "full", _dual(32), 1.3),
    ):
        engine = Engine(random_model(SMALL, attention), reuse_prefixes=False)
        requests = [(draw_prompt(PROMPT, vocabulary, seed), decoding) for seed in range(8)]
        wait_all(engine, requests[:1])
        started = engine.stats()
        together: list[float] = []

        def one_by_one(engine: Engine = engine, requests: Any = requests) -> None:
            for request in requests:
                wait_all(engine, [request])

        def all_at_once(engine: Engine = engine, requests: Any = requests, together: list[float] = together) -> None:
            before = engine.stats()
            wait_all(engine, requests)
            time.sleep(0.005)  # the engine counts a step after it has told of it
            after = engine.stats()
            busy = after.busy_seconds - before.busy_seconds
            computing = after.forward_seconds - before.forward_seconds + after.selection_seconds - before.selection_seconds
            together.append(100 * (1 - computing / busy))

        seconds = interleaved({"one by one": one_by_one, "together": all_at_once}, repeats)
        ratio = seconds["one by one"] / seconds["together"]
        report(f"{name}: 8 together, times one after another", ratio, f">= {wanted}", ratio >= wanted)
        overhead = statistics.median(together)
        report(
            f"{name}: scheduling and passing on, % of wall time",
            overhead,
            "< 5",
            overhead < 5,
            f"{engine.stats().batches - started.batches} batches",
        )
        engine.close()


def _dual(steps: int) -> Decoding:
    return Decoding(strategy="fast_dllm", max_new_tokens=NEW, block_length=BLOCK, steps=steps, cache="dual")


def prefixes(repeats: int) -> None:
    """How much sooner a second turn starts that extends a history of 2,000 tokens."""
    vocabulary = SMALL["vocab_size"]
    for name, attention, block, decoding in (
        ("AR", "causal", None, Decoding(strategy="ar", max_new_tokens=4)),
        ("block-causal", "block_causal", 4, Decoding(strategy="sdar", max_new_tokens=4, threshold=0.0)),
    ):
        model = random_model(SMALL, attention, block=block)
        history, turn = draw_prompt(2000, vocabulary), draw_prompt(40, vocabulary, 1)
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(repeats):
            for reuse in (False, True):
                engine = Engine(model, reuse_prefixes=reuse)
                wait_all(engine, [(history, decoding)])
                seconds[reuse].append(first_token(engine, history + turn, decoding))
                engine.close()
        ratio = statistics.median(seconds[False]) / statistics.median(seconds[True])
        report(f"{name}: second turn on 2,000 tokens, times sooner", ratio, ">= 5", ratio >= 5)


def first_token(engine: Engine, ids: list[int], decoding: Decoding) -> float:
    """Seconds until the first token of a request settles."""
    events: queue.Queue[Any] = queue.Queue()
    started = time.perf_counter()
    engine.submit(ids, decoding, events.put)
    assert isinstance(events.get(), Settled)
    seconds = time.perf_counter() - started
    while isinstance(events.get(), Settled):
        pass
    return seconds


def soak(requests: int) -> None:
    """Many requests of mixed length, a third of them cancelled at a random moment: all end, and memory stays flat."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512}
    model, process, draw = random_model(shape, "block_causal", block=4), psutil.Process(), random.Random(0)
    engine = Engine(model, max_waiting=64)
    events: queue.Queue[Any] = queue.Queue()
    sizes = []
    for number in range(requests):
        while engine.stats().waiting >= 64:
            time.sleep(0.001)
        ids = draw_prompt(draw.randint(1, 300), shape["vocab_size"], draw.randrange(10))
        handle = engine.submit(ids, Decoding(strategy="sdar", max_new_tokens=draw.choice([8, 16, 64])), events.put)
        if number % 3 == 0:
            time.sleep(draw.random() * 0.01)
            handle.cancel()
        if number % 100 == 99:
            gc.collect()
            sizes.append(process.memory_info().rss)
    deadline = time.monotonic() + 120
    while (stats := engine.stats()).waiting + stats.running and time.monotonic() < deadline:
        time.sleep(0.01)
    half = len(sizes) // 2
    growth = 100 * (sizes[-1] / sizes[half] - 1) if half else 0.0
    ended = stats.finished + stats.cancelled + stats.failed
    report(f"soak: memory growth over the second half, % ({requests} requests)", growth, "< 2", growth < 2)
    report(
        "soak: requests that never ended",
        requests - ended,
        "== 0",
        ended == requests,
        f"{stats.cancelled} cancelled, {stats.failed} failed",
    )
    engine.close()


def gpu(repeats: int) -> None:
    """The 8B shape in bf16 on a GPU: a dual-cache block call at batch 1, and many calls together, beside their bounds."""
    model = random_model(LLADA_8B, "full", "cuda", torch.bfloat16)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.network.parameters())
    bandwidth, compute = _bandwidth(), _compute()
    print(f"{torch.cuda.get_device_name()}: reads {bandwidth / 1e12:.2f} TB/s, multiplies {compute / 1e12:.0f} TFLOP/s in bf16 (measured)")
    tokens = torch.tensor(draw_prompt(1024 + NEW, LLADA_8B["vocab_size"]))
    for batch in (1, 8, 32):
        slots = [Slot(model, len(tokens)) for _ in range(batch)]
        for slot in slots:
            forward(model, [Segment(tokens, 0, len(tokens), "full", None, torch.arange(0), slot)])
        rows = torch.arange(1024, 1024 + BLOCK)
        segments = [Segment(tokens[1024 : 1024 + BLOCK], 1024, len(tokens), "full", None, rows, slot) for slot in slots]

        def call(segments: list[Segment] = segments) -> None:
            forward(model, segments)
            torch.cuda.synchronize()

        call()
        seconds = interleaved({"call": call}, max(20, repeats))["call"]
        moved = weights + batch * slots[0].bytes
        flops = 2 * batch * BLOCK * weights / 2
        bound = max(moved / bandwidth, flops / compute)
        report(
            f"dual-cache block call, batch {batch}, times its bound",
            seconds / bound,
            "<= 1.5",
            seconds / bound <= 1.5,
            f"{seconds * 1e3:.1f} ms",
        )


def _bandwidth() -> float:
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / _timed(lambda: target.copy_(source))


def _compute() -> float:
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / _timed(lambda: a @ a)


def _timed(run: Callable[[], object]) -> float:
    def once() -> None:
        run()
        torch.cuda.synchronize()

    once()
    return interleaved({"run": once}, 20)["run"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections: dict[str, Callable[[int], None]] = {"caches": caches, "concurrency": concurrency, "prefixes": prefixes}
    parser.add_argument("--only", nargs="+", choices=[*sections, "soak"], default=[*sections, "soak"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--requests", type=int, default=2000, help="of the soak")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.device == "cuda":
        gpu(arguments.repeats)
        return
    for name in arguments.only:
        if name == "soak":
            soak(arguments.requests)
        else:
            sections[name](arguments.repeats)


if __name__ == "__main__":
    main()
