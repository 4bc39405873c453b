"""What the 8B shape costs on a GPU, beside what the card allows.

`python benchmarks/gpu.py` builds random weights of LLaDA-8B's shape in bf16 and times, over the engine's own forward: a DualCache block
call at batch 1 (prompt 1,024, block 32), eagerly, under torch.compile and as a CUDA graph, beside the time to read the weights once; and
DualCache block calls and AR steps of 1, 8 and 32 requests beside their roofline bound, for which bytes and operations are counted here and
the card's bandwidth and bf16 rate are measured first. `--tiny` runs all of it on a small shape, on a CPU too (fp32, no graph).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from decoding import draw_prompt, random_model, report, spread
from torch import Tensor

from dllm_agents.models.attention import Batch, Segment, Slot, forward, run
from dllm_agents.models.loading import Model
from dllm_agents.provenance import hardware

LLADA_8B = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 126464}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512}
PROMPT, NEW, BLOCK = 1024, 128, 32
BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Card:
    """A device and what it does at best, measured: bytes read per second, bf16 operations per second."""

    device: torch.device
    bandwidth: float
    compute: float

    @staticmethod
    def measure(device: torch.device, size: int) -> Card:
        """`size` is the side of the matrices; a copy moves four times as many bytes as one of them has."""
        source = torch.zeros(4 * size * size, dtype=torch.bfloat16, device=device)
        target = torch.empty_like(source)
        matrix = torch.zeros(size, size, dtype=torch.bfloat16, device=device)
        copied = timed(device, lambda: target.copy_(source))
        multiplied = timed(device, lambda: matrix @ matrix)
        return Card(device, 2 * source.numel() * source.element_size() / min(copied), 2 * size**3 / min(multiplied))


@dataclass(frozen=True)
class Work:
    """What a forward must at least do: bytes to move, operations to carry out."""

    bytes: float
    operations: float

    def bound(self, card: Card) -> float:
        """Seconds below which the card cannot go."""
        return max(self.bytes / card.bandwidth, self.operations / card.compute)


def work_of(model: Model, batch: int, tokens: int, rows: int, length: int) -> Work:
    """A forward of `batch` requests, each with `tokens` queries over `length` keys and `rows` rows of logits.

    Bytes: every weight that is multiplied once, the keys and values read, and those written. Operations: two per weight and token,
    lm_head for the rows asked for, and the two products of attention.
    """
    config: Any = model.network.config
    inner = sum(parameter.numel() for name, parameter in model.network.named_parameters() if ".layers." in name)
    head = config.vocab_size * config.hidden_size
    cell = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * tokens * length
    moved = inner + head + batch * cell * (length + tokens)
    return Work(moved * model.dtype.itemsize, batch * (2 * inner * tokens + 2 * head * rows + attention))


def timed(device: torch.device, work: Callable[[], object], repeats: int = 20) -> list[float]:
    """Seconds of each of `repeats` runs after three to warm up."""
    seconds = []
    for number in range(repeats + 3):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= 3:
            seconds.append(time.perf_counter() - started)
    return seconds


def segments(model: Model, batch: int, decoding: str, prompt: int) -> tuple[list[Segment], int]:
    """`batch` requests in the middle of decoding, their slots filled by a forward over the whole sequence, and the sequence's length."""
    length = prompt + NEW
    ids = torch.tensor(draw_prompt(length, model.vocab_size))
    none = torch.empty(0, dtype=torch.int64)
    made = []
    for _ in range(batch):
        slot = Slot(model, length)
        if decoding == "AR":
            forward(model, [Segment(ids[:prompt], 0, prompt, "causal", None, none, slot)])
            made.append(Segment(ids[prompt : prompt + 1], prompt, prompt + 1, "causal", None, torch.tensor([prompt]), slot))
        else:
            forward(model, [Segment(ids, 0, length, "full", None, none, slot)])
            rows = torch.arange(prompt, prompt + BLOCK)
            made.append(Segment(ids[prompt : prompt + BLOCK], prompt, length, "full", None, rows, slot))
    return made, length if decoding != "AR" else prompt + 1


def batches(card: Card, model: Model, prompt: int, repeats: int) -> None:
    """AR steps and DualCache block calls of several requests together."""
    for decoding, tokens in (("AR", 1), ("DualCache", BLOCK)):
        rate: dict[int, float] = {}
        for batch in BATCHES:
            calls, length = segments(model, batch, decoding, prompt)
            seconds = timed(card.device, lambda calls=calls: forward(model, calls), repeats)
            work = work_of(model, batch, tokens, tokens, length)
            taken, bound = statistics.median(seconds), work.bound(card)
            rate[batch] = batch / taken
            range_ = spread([1e3 * value for value in seconds])
            note = f"{1e3 * taken:.2f} ms ({range_}); {work.bytes / 1e9:.2f} GB, {work.operations / 1e9:.0f} GFLOP, "
            wanted = 60.0 if decoding == "DualCache" and batch == 32 else 0.0
            share = 100 * bound / taken
            report(
                f"{decoding}, batch {batch}: % of the roofline bound",
                share,
                f">= {wanted:.0f}",
                share >= wanted,
                f"{note}{1e3 * bound:.2f} ms bound",
            )
        if decoding == "AR":
            report("AR: 32 concurrent, times batch 1", rate[32] / rate[1], ">= 10", rate[32] >= 10 * rate[1])


def block_call(card: Card, model: Model, prompt: int, repeats: int) -> None:
    """One DualCache block call at batch 1, run in every way there is, beside the reading of the weights."""
    calls, _ = segments(model, 1, "DualCache", prompt)
    batch = Batch.of(calls, card.device)
    limit = sum(parameter.numel() for parameter in model.network.parameters()) * model.dtype.itemsize / card.bandwidth
    ways = {"eager": lambda: run(model.network, batch)}
    if card.device.type == "cuda":
        ways["CUDA graph"] = graph(model, batch)
    ways["torch.compile"] = compiled(model, batch)
    expected = run(model.network, batch).clone()
    for name, way in ways.items():
        off = float((way() - expected).abs().max() / expected.abs().max())
        taken = timed(card.device, way, repeats)
        ratio = statistics.median(taken) / limit
        note = f"{1e3 * statistics.median(taken):.2f} ms, weights {1e3 * limit:.2f} ms; logits off by {off:.1e}"
        report(f"DualCache block call, batch 1, {name}: times reading the weights", ratio, "<= 1.5", ratio <= 1.5, note)


def compiled(model: Model, batch: Batch) -> Callable[[], Tensor]:
    """The forward with its layers under torch.compile; on a CPU traced only, so that no C++ compiler is needed."""
    backend = "inductor" if batch.token_ids.is_cuda else "eager"
    for layer in model.network.model.layers:  # type: ignore[union-attr]
        layer.compile(dynamic=False, backend=backend)
    return lambda: run(model.network, batch)


def graph(model: Model, batch: Batch) -> Callable[[], Tensor]:
    """The forward captured once as a CUDA graph; replaying it reads tokens and keys from where they lay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run(model.network, batch)
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        logits = run(model.network, batch)

    def replay() -> Tensor:
        captured.replay()
        return logits

    return replay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small shape, on a CPU where there is no GPU: shows that the script runs")
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    if not torch.cuda.is_available() and not arguments.tiny:
        raise SystemExit("no GPU is visible; --tiny runs the script on this CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    card = Card.measure(device, 512 if arguments.tiny else 8192)
    print(f"{hardware()}; torch {torch.__version__}; {card.bandwidth / 1e12:.3f} TB/s, {card.compute / 1e12:.3f} TFLOP/s in bf16, measured")
    shape, prompt = (TINY, 64) if arguments.tiny else (LLADA_8B, PROMPT)
    # Processors without bf16 units emulate it, slowly.
    model = random_model(shape, "full", str(device), torch.bfloat16 if device.type == "cuda" else torch.float32)
    batches(card, model, prompt, arguments.repeats)
    block_call(card, model, prompt, arguments.repeats)


if __name__ == "__main__":
    main()
