"""What the engine makes of a GPU with models of 8B shape, section by section, beside what the card allows.

`python benchmarks/gpu.py --json FILE` draws random weights on the card and drives the engine's own pool, runner and scheduler. It needs
torch, numpy, transformers and safetensors; pydantic, FastAPI and uvicorn may be missing. `--sections a,b` picks sections, each in a try of
its own; `--seconds-per-section N` bounds their repeats, `--smoke` makes all of them short; `--tiny` runs them on a small shape, on a CPU
too. Bytes and operations of a forward are counted (`work_of`); the card's copy and product rates are measured first, on random data.
"""

# ruff: noqa: E402 - the package is found first, and pydantic stood in for

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "workflow")]

from shapes import LLADA_8B, SDAR_8B, TINY, draw_prompt, random_model, without_pydantic

without_pydantic()

import previous

from dllm_agents.decoding.predicting import predictions
from dllm_agents.decoding.selection import above
from dllm_agents.decoding.session import Session
from dllm_agents.decoding.settings import Decoding
from dllm_agents.engine.engine import Engine, Failed, Finished
from dllm_agents.engine.runner import Runner
from dllm_agents.models.attention import Batch, Inputs, Segment, Slot, _flash, _one_by_one, _views

SHORTEST_MEASUREMENT = 3


@dataclass
class Bench:
    """The card, what was measured, and the models that are loaded, one shape at a time."""

    device: torch.device
    tiny: bool
    seconds: float
    rows: list[dict[str, Any]]
    compiled: bool = True
    bandwidth: float = 0.0
    compute: float = 0.0
    _models: dict[str, Any] | None = None

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def counts(self) -> tuple[int, ...]:
        return (1, 4) if self.tiny else (1, 8, 32)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Prompt, new tokens, block."""
        return (64, 32, 8) if self.tiny else (1024, 128, 32)

    def row(self, name: str, value: float, unit: str, goal: str = "", met: bool | None = None, note: str = "") -> None:
        self.rows.append({"name": name, "value": value, "unit": unit, "goal": goal, "met": met, "note": note})
        print(line(self.rows[-1]), flush=True)

    def model(self, shape: str, attention: str) -> Any:
        """A model of LLaDA-8B's or SDAR-8B's shape; of one shape it is the same weights."""
        self._models = self._models if self._models and shape in self._models else {}
        if shape not in self._models:
            self.clear()
            sizes = {**TINY, **({"num_key_value_heads": 2, "head_dim": 16} if shape == "sdar" else {})} if self.tiny else None
            sizes = sizes or {"llada": LLADA_8B, "sdar": SDAR_8B}[shape]
            self._models[shape] = random_model(sizes, "full", str(self.device), self.dtype)
        base = self._models[shape]
        own = {"causal": "ar", "full": "llada", "block_causal": "sdar"}[attention]
        block = 4 if attention == "block_causal" else None
        mask_id = None if attention == "causal" else base.vocab_size - 1
        model = replace(base, attention=attention, strategy=own, shift=attention == "causal", block_length=block, mask_id=mask_id)
        model.__dict__["layers"] = base.layers
        return model

    def clear(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def time(self, work: Callable[[], object]) -> float:
        """Median seconds of a run, waited for."""
        for _ in range(2):
            work()
        self.wait()
        taken: list[float] = []
        ends = time.perf_counter() + self.seconds / 8
        while len(taken) < SHORTEST_MEASUREMENT or (time.perf_counter() < ends and len(taken) < 50):
            started = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)


def line(row: dict[str, Any]) -> str:
    verdict = "" if row["met"] is None else "ok" if row["met"] else "MISSED"
    return f"{row['name']:64s} {row['value']:10.3f} {row['unit']:8s} {row['goal']:9s} {verdict:6s} {row['note']}"


@dataclass(frozen=True)
class Work:
    """What a forward must at least do: bytes to move, operations to carry out."""

    bytes: float
    operations: float


def work_of(model: Any, batch: int, tokens: int, rows: int, length: int) -> Work:
    """A forward of `batch` requests, each with `tokens` queries over `length` keys and `rows` rows of logits.

    Bytes: every weight that is multiplied once, the keys and values read, and those written. Operations: two per weight and token,
    lm_head for the rows asked for, and the two products of attention.
    """
    config = model.network.config
    inner = sum(parameter.numel() for name, parameter in model.network.named_parameters() if ".layers." in name)
    head = config.vocab_size * config.hidden_size
    cell = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * tokens * length
    moved = inner + head + batch * cell * (length + tokens)
    return Work(moved * model.dtype.itemsize, batch * (2 * inner * tokens + 2 * head * rows + attention))


def weight_read(bench: Bench, model: Any) -> float:
    """Seconds to read every weight that is multiplied."""
    return work_of(model, 0, 0, 0, 0).bytes / bench.bandwidth


def ceilings(bench: Bench) -> None:
    """Copy and product rates, on random data: zeros multiply faster."""
    side = 256 if bench.tiny else 8192
    left, right = (torch.empty(side, side, device=bench.device, dtype=torch.bfloat16).normal_() for _ in range(2))
    source = torch.empty(1 << 20 if bench.tiny else 1 << 30, device=bench.device, dtype=torch.bfloat16).normal_()
    target = torch.empty_like(source)
    bench.bandwidth = 4 * source.numel() / bench.time(lambda: target.copy_(source))
    bench.compute = 2 * side**3 / bench.time(lambda: left @ right)
    bench.row("copy, read and written", bench.bandwidth / 1e12, "TB/s")
    bench.row(f"{side}^3 product in bf16", bench.compute / 1e12, "TFLOP/s")


def segments(model: Any, runner: Runner, count: int, tokens: int, length: int, ragged: int = 0) -> list[Segment]:
    """`count` requests in the middle of decoding, `tokens` queries each, over keys of `length` positions and less."""
    ids = torch.tensor(draw_prompt(tokens, model.vocab_size))
    made = []
    for number in range(count):
        own = length - number * 7 % (ragged + 1)
        start = own - tokens
        block = tokens if model.attention == "block_causal" else None
        start = start // tokens * tokens if block else start
        slot = Slot(model, own, runner.pool, number * length)
        made.append(Segment(ids, start, start + tokens, model.attention, block, torch.arange(start, start + tokens), slot))
    return made


def filled(bench: Bench, model: Any, positions: int, **options: Any) -> Runner:
    runner = Runner(model, positions, **options)
    runner.pool.keys.normal_()
    runner.pool.values.normal_()
    return runner


def attention(bench: Bench) -> None:
    """Attention over ragged slots against a float32 loop; and a graph that follows lengths and starts that change under it."""
    for shape, kind in (("llada", "full"), ("sdar", "block_causal"), ("sdar", "causal")):
        model = bench.model(shape, kind)
        runner = filled(bench, model, 8 * 400)
        for tokens in (1, 8, 32):
            batch = Batch(model, segments(model, runner, 4, tokens, 400, ragged=60))
            inputs = batch.on(bench.device)
            layers = model.layers
            queries = torch.randn(batch.tokens, layers.heads, layers.size, device=bench.device, dtype=bench.dtype)
            keys, values = runner.pool.keys[0], runner.pool.values[0]
            fast = _flash(queries, keys, values, inputs) if bench.device.type == "cuda" else _loop(queries, keys, values, inputs)
            slow = _loop(queries.float(), keys.float(), values.float(), inputs)
            error = float((fast.float() - slow).norm() / slow.norm())
            bench.row(f"attention, {kind}, {tokens} queries, ragged: relative error", error, "", "< 1e-2", error < 1e-2)
        if bench.device.type == "cuda":
            first, second = (segments(model, runner, 4, 4, 400, ragged) for ragged in (0, 60))
            runner.logits(first)
            replayed = runner.logits(list(reversed(second))).float()
            eager = Runner.logits(_eager(runner), list(reversed(second))).float()
            error = float((replayed - eager).norm() / eager.norm())
            bench.row(f"graph after lengths and starts changed, {kind}: relative error", error, "", "< 2e-2", error < 2e-2)
        del runner
        bench.clear()


def _loop(queries: Any, keys: Any, values: Any, inputs: Inputs) -> Any:
    return _one_by_one(queries, keys, values, _views(inputs.batch, queries.device))


def _eager(runner: Runner) -> Runner:
    """The same pool without graphs."""
    plain = object.__new__(Runner)
    plain.__dict__.update(runner.__dict__ | {"graphs": False})
    return plain


def syncs(bench: Bench) -> None:
    """How often one step of 8 requests, selection included, waits for the device."""
    model = bench.model("llada", "full")
    prompt, new, block = bench.sizes
    decoding = Decoding(strategy="fast_dllm", cache="dual", max_new_tokens=new, block_length=block, threshold=0.9)
    sessions = [Session(model, draw_prompt(prompt, model.vocab_size, n), decoding) for n in range(8 if not bench.tiny else 2)]
    runner = filled(bench, model, len(sessions) * (prompt + new))
    slots = [Slot(model, prompt + new, runner.pool, number * (prompt + new)) for number in range(len(sessions))]

    def step() -> None:
        logits = runner.logits([session.segment(slot) for session, slot in zip(sessions, slots, strict=True)])
        for session, prediction in zip(sessions, predictions([(s.state, s.call) for s in sessions], logits), strict=True):
            session.advance(prediction)

    for _ in range(3):
        step()
    bench.wait()
    if bench.device.type == "cuda":
        torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            step()
    finally:
        if bench.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    count = sum("synchroniz" in str(warning.message) for warning in heard)
    bench.row("waits for the device in a step of all requests", count, "", "<= 1", count <= 1)


WAYS: dict[str, dict[str, bool]] = {"eager": {"graphs": False}, "graph": {}, "compiled in graph": {"compiled": True}}


def forwards(bench: Bench, name: str, model: Any, tokens: int, length: int, goals: dict[int, float]) -> dict[int, float]:
    """Forward and selection of 1, 8 and 32 requests in every way there is, beside the roofline; returns the best seconds by count."""
    best: dict[int, float] = {}
    plain = model.layers.project, model.layers.finish
    for way in (WAYS if bench.compiled else ("eager", "graph")) if bench.device.type == "cuda" else ("eager",):
        options = WAYS[way]
        for count in bench.counts:
            runner = filled(bench, model, count * length, **options)
            batch = segments(model, runner, count, tokens, length)
            work = work_of(model, count, tokens, tokens, length)
            bound = max(work.bytes / bench.bandwidth, work.operations / bench.compute)
            taken = bench.time(lambda runner=runner, batch=batch: runner.logits(batch))
            best[count] = min(best.get(count, 9e9), taken)
            note = f"{1e3 * taken:.2f} ms; bound {1e3 * bound:.2f} ms, {work.bytes / 1e9:.1f} GB, {work.operations / 1e12:.2f} TFLOP"
            share, goal = 100 * bound / taken, goals.get(count, 0.0)
            bench.row(f"{name}, {count} requests, {way}: % of roofline", share, "%", f">= {goal:.0f}", share >= goal, note)
            if count == 1 and tokens > 1:
                times = taken / weight_read(bench, model)
                bench.row(f"{name}, 1 request, {way}: times the weight read", times, "x", "<= 1.5", times <= 1.5)
            if way != "eager" and not runner._captured:
                bench.row(f"{name}, {count} requests, {way}: graphs captured", 0, "", "== 1", False)
            del runner, batch
            bench.clear()
    model.layers.project, model.layers.finish = plain
    return best


def dual(bench: Bench) -> None:
    prompt, new, block = bench.sizes
    forwards(bench, f"DualCache {block}", bench.model("llada", "full"), block, prompt + new, {32: 60.0})


def ar(bench: Bench) -> None:
    prompt, new, _ = bench.sizes
    best = forwards(bench, "AR, GQA", bench.model("sdar", "causal"), 1, prompt + new, {})
    most = bench.counts[-1]
    times = most * best[1] / best[most]
    bench.row(f"AR: {most} requests, times the tokens of one", times, "x", ">= 10", times >= 10)


def sdar(bench: Bench) -> None:
    prompt, new, _ = bench.sizes
    forwards(bench, "SDAR block 4", bench.model("sdar", "block_causal"), 4, prompt + new, {})


def decode(bench: Bench, name: str, model: Any, decoding: Decoding, counts: tuple[int, ...], goal: float = 0.0) -> None:
    """Whole requests through the engine: prompts, refreshes, scheduling, selection; tokens a second of the decoding and of all of it."""
    prompt, new, _ = bench.sizes
    plain = model.layers.project, model.layers.finish
    positions = max(counts) * (prompt + new + 64)
    engine = Engine(model, positions=positions, share_prefixes=False, batch_tokens=64 if bench.tiny else None, compiled=bench.compiled)
    try:
        for count in counts:
            answers(engine, bench, decoding, count)  # graphs are captured and layers compiled the first time
            before, started = engine.stats(), time.perf_counter()
            generations, first = answers(engine, bench, decoding, count)
            seconds, after = time.perf_counter() - started, engine.stats()
            tokens = sum(len(generation.token_ids) for generation in generations)
            rate, whole = (tokens - count) / (seconds - first), tokens / seconds
            nfe = statistics.mean(generation.nfe for generation in generations)
            note = f"{tokens / count / nfe:.2f} tokens a forward; {after.batches - before.batches} steps in {seconds:.2f} s; "
            note += f"first token of all after {first:.2f} s; host {after.busy_seconds - before.busy_seconds:.2f} s"
            met = None if count < 32 or not goal else rate >= goal
            bench.row(f"{name}, {count} requests: tokens/s of decoding", rate, "tok/s", f">= {goal:.0f}" if goal else "", met, note)
            bench.row(f"{name}, {count} requests: tokens/s, prompts included", whole, "tok/s")
    finally:
        engine.close()
        model.layers.project, model.layers.finish = plain
        bench.clear()


def answers(engine: Engine, bench: Bench, decoding: Decoding, count: int) -> tuple[list[Any], float]:
    """The answers of `count` requests at once, and after how many seconds each of them had its first token."""
    import queue

    events: queue.Queue[Any] = queue.Queue()
    started = time.perf_counter()
    begun: dict[int, float] = {}

    def listen(event: Any, number: int) -> None:
        """As the server does for answers that are not streamed: nobody is woken before the end."""
        begun.setdefault(number, time.perf_counter() - started)
        if isinstance(event, Failed | Finished):
            events.put(event)

    for number in range(count):
        ids = draw_prompt(bench.sizes[0], engine.model.vocab_size, number)
        engine.submit(ids, decoding, lambda event, number=number: listen(event, number))
    generations: list[Any] = []
    while len(generations) < count:
        event = events.get(timeout=300)
        if isinstance(event, Failed):
            raise RuntimeError(event.message)
        generations.append(event.generation)
    return generations, max(begun.values())


def end_to_end(bench: Bench) -> None:
    """LLaDA-8B's shape with the dual cache, 8 steps a block, refreshes included."""
    _, new, block = bench.sizes
    decoding = Decoding(strategy="fast_dllm", cache="dual", max_new_tokens=new, block_length=block, steps_per_block=block // 4)
    decode(bench, "DualCache end to end", bench.model("llada", "full"), decoding, (bench.counts[0], bench.counts[-1]))


def sdar_end_to_end(bench: Bench) -> None:
    """SDAR-8B's shape, two tokens a forward."""
    model = bench.model("sdar", "block_causal")
    _, new, _ = bench.sizes
    decoding = Decoding(strategy="sdar", max_new_tokens=new, steps_per_block=2, remasking="low_confidence_static")
    decode(bench, "SDAR end to end", model, decoding, (bench.counts[0], bench.counts[-1]), 5000.0)


def ar_end_to_end(bench: Bench) -> None:
    _, new, _ = bench.sizes
    decode(bench, "AR end to end", bench.model("sdar", "causal"), Decoding(strategy="ar", max_new_tokens=new), bench.counts)


def before(bench: Bench) -> None:
    """The execution before this one on the same card, forward and selection, beside one step of this one."""
    prompt, new, block = bench.sizes
    for name, shape, kind, tokens in (("DualCache", "llada", "full", block), ("AR", "sdar", "causal", 1)):
        model = bench.model(shape, kind)
        for count in bench.counts:
            old = previous.segments(model, count, tokens, prompt, prompt + new)
            taken = bench.time(lambda old=old, model=model: previous.step(model, old, 0.9))
            del old
            runner = filled(bench, model, count * (prompt + new))
            batch = segments(model, runner, count, tokens, prompt + new)
            now = bench.time(lambda runner=runner, batch=batch, model=model: _step(model, runner, batch))
            note = f"before {1e3 * taken:.2f} ms, now {1e3 * now:.2f} ms, selection included, not compiled"
            bench.row(f"{name}, {count} requests: times as fast as before", taken / now, "x", note=note)
            del runner, batch
            bench.clear()


def _step(model: Any, runner: Runner, batch: list[Segment]) -> None:
    """A forward and the selection of what passes a threshold, over calls that belong to no session."""
    from types import SimpleNamespace

    from dllm_agents.decoding.canvas import Call

    logits = runner.logits(batch)
    state = SimpleNamespace(decoding=SimpleNamespace(mask_id=model.mask_id, dynamics=False), constraint=None)
    calls = [Call(s.start, s.limit, s.limit, s.rows.numpy(), s.rows.numpy(), s.attention, rule=above(0.9), precise=True) for s in batch]
    predictions([(state, call) for call in calls], logits)  # type: ignore[misc]


def compiled(bench: Bench) -> None:
    """That layers compile at all, for a smoke run, which leaves them out elsewhere."""
    if bench.device.type == "cuda" and not bench.compiled:
        bench.compiled = True
        prompt, new, block = bench.sizes
        model = bench.model("llada", "full")
        runner = filled(bench, model, prompt + new, compiled=True)
        batch = segments(model, runner, 1, block, prompt + new)
        started = time.perf_counter()
        runner.logits(batch)
        bench.wait()
        bench.row("compiling a layer and capturing", time.perf_counter() - started, "s")
        times = bench.time(lambda: runner.logits(batch)) / weight_read(bench, model)
        bench.row("DualCache, 1 request, compiled in graph: times the weight read", times, "x", "<= 1.5", times <= 1.5)


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "attention": attention,
    "syncs": syncs,
    "dual": dual,
    "end_to_end": end_to_end,
    "ar": ar,
    "sdar": sdar,
    "sdar_end_to_end": sdar_end_to_end,
    "ar_end_to_end": ar_end_to_end,
    "before": before,
    "compiled": compiled,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small shape, on a CPU where there is no GPU: shows that the script runs")
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"comma-separated, of {', '.join(SECTIONS)}")
    parser.add_argument("--seconds-per-section", type=float, default=8.0)
    parser.add_argument("--smoke", action="store_true", help="few repeats of everything, layers compiled in the last section alone")
    parser.add_argument("--json", type=Path, help="write all rows there, after every section")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.tiny:
        raise SystemExit("no GPU is visible; --tiny runs the script on this CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{card}, torch {torch.__version__}", flush=True)
    bench = Bench(device, arguments.tiny, 0.4 if arguments.smoke or arguments.tiny else arguments.seconds_per_section, [])
    bench.compiled = device.type == "cuda" and not arguments.smoke
    started, failed = time.perf_counter(), []
    for name, section in {"ceilings": ceilings, **{name: SECTIONS[name] for name in arguments.sections.split(",")}}.items():
        print(f"[{time.perf_counter() - started:5.0f} s] {name}", flush=True)
        try:
            with torch.inference_mode():
                section(bench)
        except Exception:
            failed.append(name)
            traceback.print_exc(limit=6)
        if arguments.json:
            record = {"card": card, "torch": torch.__version__, "command": sys.argv, "failed": failed, "rows": bench.rows}
            arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    print(
        f"\n{card}, torch {torch.__version__}, {time.perf_counter() - started:.0f} s" + (f"; FAILED: {', '.join(failed)}" if failed else "")
    )
    for row in bench.rows:
        print(line(row))
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
