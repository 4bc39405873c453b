"""How fast the decoders and the engine are, as ratios that hold on any machine.

`python benchmarks/decoding.py` builds a random LLaDA-shaped model of about 60 million parameters (fp32, two threads), decodes a prompt of
512 tokens into 128, block 32, and prints medians of interleaved runs beside the ratio that is asked for. `--only NAME ...` picks
sections, `--repeats N` the runs of each, `--reference PATH` compares with a checkout of Fast-dLLM v1. GPUs: `benchmarks/gpu.py`.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import queue
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import torch
import uvicorn
from shapes import SMALL, draw_prompt, random_model, spread
from torch import Tensor

from dllm_agents.decoding import Decoding, ToolPrefill, generate
from dllm_agents.engine.engine import Engine, Failed, Finished, Unmasked
from dllm_agents.models.loading import Model
from dllm_agents.provenance import hardware
from dllm_agents.serving.app import create_app
from dllm_agents.serving.server import claim_port

PROMPT, NEW, BLOCK = 512, 128, 32


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each run, taken in turns so that a busy machine disturbs all alike; prints them with their range."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - started)
    print(
        "  seconds:", "; ".join(f"{name} {statistics.median(values):.3f} ({spread(values)})" for name, values in taken.items()), flush=True
    )
    return {name: statistics.median(values) for name, values in taken.items()}


def report(what: str, value: float, wanted: str, met: bool, note: str = "") -> None:
    print(f"{what:58s} {value:8.2f}  wanted {wanted:8s} {'ok' if met else 'MISSED'}  {note}", flush=True)


CACHED = (("none", 32), ("prefix", 32), ("dual", 32), ("none", 128), ("dual", 128))


def caches(repeats: int) -> None:
    """Prefix and dual cache against the uncached loop, and what P-ReAct with tracing costs."""
    model = random_model(SMALL, "full")
    ids = draw_prompt(PROMPT, SMALL["vocab_size"])

    def run(steps: int, cache: Any) -> Callable[[], object]:
        return lambda: generate(
            model, ids, Decoding(strategy="fast_dllm", max_new_tokens=NEW, block_length=BLOCK, steps=steps, cache=cache)
        )

    run(4, "dual")()
    seconds = interleaved({f"{cache} {steps}": run(steps, cache) for cache, steps in CACHED}, repeats)
    for cache, steps, wanted in (("dual", 32, 3.0), ("dual", 128, 4.5), ("prefix", 32, 2.2)):
        ratio = seconds[f"none {steps}"] / seconds[f"{cache} {steps}"]
        report(f"{cache} cache at {steps} steps, times the uncached loop", ratio, f">= {wanted}", ratio >= wanted)

    plain = Decoding(strategy="fast_dllm", max_new_tokens=NEW, block_length=NEW, steps=63, cache="dual")
    biased = plain.model_copy(update={"tool_prefill": ToolPrefill(open_id=5, close_id=6)})
    trace: list[Any] = []
    seconds = interleaved(
        {
            "plain": lambda: generate(model, ids, plain),
            "p-react": lambda: generate(model, ids, biased, on_unmasked=lambda *news: trace.append(news)),
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
        engine = Engine(random_model(SMALL, attention), share_prefixes=False)
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


def transport(repeats: int) -> None:
    """What HTTP, JSON, text and scheduling add to eight concurrent answers: clients' wall time beside forward and selection."""
    vocabulary = SMALL["vocab_size"]
    for name, attention, decoding in (
        ("AR", "causal", Decoding(strategy="ar", max_new_tokens=NEW)),
        ("dual cache at 128 steps", "full", _dual(128)),
    ):
        engine = Engine(random_model(SMALL, attention), share_prefixes=False)
        with served(create_app(engine, _Words(), "random", decoding, 8192)) as url, httpx.Client(timeout=None) as http:
            bodies = [{"model": "random", "prompt": draw_prompt(PROMPT, vocabulary, seed)} for seed in range(8)]

            def ask(body: dict[str, Any], http: httpx.Client = http, url: str = url) -> None:
                usage = http.post(f"{url}/v1/completions", json=body).raise_for_status().json()["usage"]
                assert usage["completion_tokens"] == NEW

            shares = []
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(ask, bodies[:2]))
                for _ in range(repeats):
                    before, started = engine.stats(), time.perf_counter()
                    list(pool.map(ask, bodies))
                    wall, after = time.perf_counter() - started, engine.stats()
                    computing = after.forward_seconds - before.forward_seconds + after.selection_seconds - before.selection_seconds
                    shares.append(100 * (1 - computing / wall))
        cost = statistics.median(shares)
        report(f"{name}: scheduling, batching and transport, % of wall", cost, "< 5", cost < 5, spread(shares))
        engine.close()


class _Words:
    """A tokenizer of a random vocabulary: token n is the word `n`."""

    def decode(self, token_ids: Sequence[int], **_: Any) -> str:
        return " ".join(map(str, token_ids))

    def get_vocab(self) -> dict[str, int]:
        return {}


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The application on a free port of this machine, in a thread."""
    listener = claim_port("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def reference(repeats: int, checkout: Path) -> None:
    """Tokens, forwards and seconds of a checkout of Fast-dLLM v1 (github.com/NVlabs/Fast-dLLM) beside ours, on the same weights."""
    model = random_model({**SMALL, "initializer_range": 0.06}, "full")
    theirs = public_decoders(checkout, model)
    ids = draw_prompt(PROMPT, SMALL["vocab_size"])
    prompt = torch.tensor([ids])
    for cache, steps, threshold in (("none", 32, None), ("prefix", 32, None), ("dual", 32, None), ("dual", 128, None), ("dual", 128, 0.9)):
        decoding = Decoding(strategy="fast_dllm", max_new_tokens=NEW, block_length=BLOCK, steps=steps, cache=cache, threshold=threshold)  # type: ignore[arg-type]
        answers: dict[str, Any] = {}

        def ours(decoding: Decoding = decoding, answers: dict[str, Any] = answers) -> None:
            answers["ours"] = generate(model, ids, decoding)

        def public(cache: str = cache, steps: int = steps, threshold: float | None = threshold, answers: dict[str, Any] = answers) -> None:
            options = {"steps": steps, "gen_length": NEW, "block_length": BLOCK, "threshold": threshold, "mask_id": model.mask_id}
            answers["public"] = theirs[cache](prompt, **options)

        seconds = interleaved({"public": public, "ours": ours}, repeats)
        ratio = seconds["public"] / seconds["ours"]
        tokens, forwards = answers["public"][0][0, len(ids) :].tolist(), answers["public"][1]
        what = f"{cache} cache, {f'threshold {threshold}' if threshold else f'{steps} steps'}"
        report(f"{what}: times the public decoder", ratio, ">= 1", ratio >= 1)
        same = sum(one == other for one, other in zip(tokens, answers["ours"].token_ids, strict=True))
        note = f"forwards {answers['ours'].nfe} of {forwards}"
        report(f"{what}: equal tokens of {NEW}", same, f"== {NEW}", same == NEW and answers["ours"].nfe == forwards, note)


def public_decoders(checkout: Path, model: Model) -> dict[str, Callable[..., Any]]:
    """The checkout's three loops over its own network with our weights. Its code is run from where it lies; it imports einops."""
    folder = next((path for path in (checkout / "llada", checkout / "v1" / "llada") if (path / "generate.py").is_file()), None)
    if folder is None:
        raise SystemExit(f"{checkout}: no llada/generate.py; give a checkout of github.com/NVlabs/Fast-dLLM")
    sys.path.insert(0, str(folder))
    loops, network = importlib.import_module("generate"), importlib.import_module("model.modeling_llada")
    config = model.network.config
    sizes = {
        "d_model": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "n_layers": config.num_hidden_layers,
        "mlp_hidden_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "embedding_size": config.vocab_size,
        "max_sequence_length": config.max_position_embeddings,
        "rope_theta": config.rope_parameters["rope_theta"],
        "rms_norm_eps": config.rms_norm_eps,
    }
    kinds = {"block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms", "rope": True, "rope_full_precision": True}
    flags = {"include_bias": False, "weight_tying": False, "alibi": False, "flash_attention": False, "init_device": "cpu"}
    dropouts = {"attention_dropout": 0.0, "residual_dropout": 0.0, "embedding_dropout": 0.0}
    settings = importlib.import_module("model.configuration_llada").ModelConfig(**sizes, **kinds, **flags, **dropouts)
    inner = network.LLaDAModel(settings, init_params=False).eval()
    inner.load_state_dict({_published_key(name): value for name, value in model.network.state_dict().items()})

    def call(token_ids: Tensor, **options: Any) -> SimpleNamespace:
        out = inner(token_ids, **options)
        return SimpleNamespace(logits=out.logits, past_key_values=out.attn_key_values)

    call.device = torch.device("cpu")  # type: ignore[attr-defined]
    names = {"none": "generate", "prefix": "generate_with_prefix_cache", "dual": "generate_with_dual_cache"}
    return {cache: partial(getattr(loops, name), call) for cache, name in names.items()}


def _published_key(name: str) -> str:
    """A Llama parameter under LLaDA's own name."""
    outer = {"model.embed_tokens.weight": "wte", "model.norm.weight": "ln_f", "lm_head.weight": "ff_out"}
    if name in outer:
        return f"transformer.{outer[name]}.weight"
    _, _, layer, *path, kind = name.split(".")
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ff_norm", "o_proj": "attn_out"}
    parts |= {"gate_proj": "ff_proj", "down_proj": "ff_out"}
    return f"transformer.blocks.{layer}.{parts.get(path[-1], path[-1])}.{kind}"


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
                engine = Engine(model, share_prefixes=reuse)
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
    assert isinstance(events.get(), Unmasked)
    seconds = time.perf_counter() - started
    while isinstance(events.get(), Unmasked):
        pass
    return seconds


def soak(requests: int) -> None:
    """Many requests of mixed length, a third of them cancelled at a random moment: all end, and memory stays flat."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512}
    model, process, draw = random_model(shape, "block_causal", block=4), psutil.Process(), random.Random(0)
    # Little enough for kept prefixes that they have reached their bound long before the second half.
    engine = Engine(model, max_waiting=64, positions=4096)
    sizes = []
    for number in range(requests):
        while engine.stats().waiting >= 64:
            time.sleep(0.001)
        ids = draw_prompt(draw.randint(1, 300), shape["vocab_size"], draw.randrange(10))
        handle = engine.submit(ids, Decoding(strategy="sdar", max_new_tokens=draw.choice([8, 16, 64])), lambda event: None)
        if number % 3 == 0:
            time.sleep(draw.random() * 0.01)
            handle.cancel()
        if number % 100 == 99:
            gc.collect()
            sizes.append(process.memory_info().rss)
    deadline, ended = time.monotonic() + 120, 0
    while ended < requests and time.monotonic() < deadline:
        time.sleep(0.01)
        stats = engine.stats()
        ended = stats.finished + stats.cancelled + stats.failed
    half = len(sizes) // 2
    growth = 100 * (sizes[-1] / sizes[half] - 1) if half else 0.0
    report(f"soak: memory growth over the second half, % ({requests} requests)", growth, "< 2", growth < 2)
    report(
        "soak: requests that never ended",
        requests - ended,
        "== 0",
        ended == requests,
        f"{stats.cancelled} cancelled, {stats.failed} failed",
    )
    engine.close()


def main() -> None:
    sections: dict[str, Callable[[int], None]] = {
        "caches": caches,
        "concurrency": concurrency,
        "transport": transport,
        "prefixes": prefixes,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*sections, "soak", "reference"], default=[*sections, "soak"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--requests", type=int, default=2000, help="of the soak")
    parser.add_argument("--reference", type=Path, help="a checkout of Fast-dLLM v1: compare with its own loops (needs einops)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    print(f"{hardware()}; torch {torch.__version__}, {arguments.threads} threads, fp32, {arguments.repeats} interleaved runs")
    for name in dict.fromkeys([*arguments.only, *(["reference"] if arguments.reference else [])]):
        if name == "soak":
            soak(arguments.requests)
        elif name == "reference":
            reference(arguments.repeats, arguments.reference or parser.error("--reference PATH is missing"))
        else:
            sections[name](arguments.repeats)


if __name__ == "__main__":
    main()
