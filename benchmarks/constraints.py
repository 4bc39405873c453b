"""What constraints cost at a large vocabulary: compiling BFCL's calls, and a step's predictions with and without one.

    python benchmarks/constraints.py VOCABULARY [TASKS]

VOCABULARY is a tokenizer.json, or a tiktoken file (base64 of a token and its rank, a line each). Seconds are processor seconds of one
thread, so that a shared machine can be measured; a step's forward is not run, its logits are random.
"""

from __future__ import annotations

import base64
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dllm_agents.benchmarks.bfcl import BFCL
from dllm_agents.benchmarks.bfcl_language import call_pattern
from dllm_agents.config import BFCLOptions
from dllm_agents.decoding.canvas import Call, Canvas
from dllm_agents.decoding.constrained import Constraint
from dllm_agents.decoding.constraints import ConstraintError, TokenAutomaton, Vocabulary, language
from dllm_agents.decoding.constraints.automata import compile_expression
from dllm_agents.decoding.predicting import predictions
from dllm_agents.decoding.selection import strictly_above
from dllm_agents.decoding.settings import Decoding
from dllm_agents.decoding.state import State

CATEGORIES = ["simple", "live_simple", "multiple", "live_multiple"]
ROWS = 32


def vocabulary(path: Path) -> Vocabulary:
    if path.suffix == ".json":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(path))
        return Vocabulary.read(tokenizer, tokenizer.get_vocab_size())
    words = [base64.b64decode(line.split()[0]) for line in path.read_bytes().splitlines()]
    return Vocabulary.of([*words, None, None])


def compile_times(words: Vocabulary, count: int) -> list[TokenAutomaton]:
    """Print how long the calls of BFCL's entries take to compile; the automata."""
    with tempfile.TemporaryDirectory() as scratch:
        tasks = BFCL(BFCLOptions(scratch=scratch, per_category=-(-count // 4), categories=CATEGORIES)).tasks("test")
    seconds, automata, refused = [], [], 0
    for task in tasks:
        started = time.thread_time()
        try:
            d = compile_expression(language({"regex": call_pattern(task.data["functions"])}))
            automata.append(TokenAutomaton(d, words, [words.size - 2], words.size - 1))
        except ConstraintError:
            refused += 1
        seconds.append(time.thread_time() - started)
    median, late = np.quantile(seconds, [0.5, 0.95])
    states = np.median([automaton.states for automaton in automata])
    print(f"compile: {len(seconds)} entries, {refused} refused; median {median:.3f} s, p95 {late:.3f} s; {states:.0f} states in the median")
    return automata


def step_seconds(automata: list[TokenAutomaton], size: int, share: float, batch: int, steps: int = 16) -> tuple[float, float]:
    """Processor seconds of a step's predictions for `batch` requests of 32 rows, without constraints and with: `share` of the places hold
    a token that may stand there, as a trained model's would."""
    rng = np.random.default_rng(0)
    decoding = Decoding(max_new_tokens=ROWS, mask_id=size - 1, stop_ids=[size - 2], constraint_rule="mask", threshold=0.9)
    times = {False: 0.0, True: 0.0}
    for step in range(steps):
        chosen = [automata[rng.integers(len(automata))] for _ in range(batch)]
        logits = torch.randn(batch * ROWS, size)
        for number, automaton in enumerate(chosen):
            for row, token in enumerate(spelled(automaton, rng)):
                if rng.random() < share:
                    logits[number * ROWS + row, token] = 30.0
        for constrained in (False, True):
            requests = []
            for automaton in chosen:
                canvas = Canvas([0], 1 + ROWS, size - 1)
                state = State(canvas, decoding, (size - 2,), False, "full")
                state.constraint = Constraint(automaton, canvas, decoding) if constrained else None
                positions = canvas.masked(1, 1 + ROWS)
                requests.append((state, Call(0, 1 + ROWS, 1 + ROWS, positions, positions, "full", rule=strictly_above(0.9))))
            started = time.thread_time()
            predictions(requests, logits)
            if step >= steps // 4:  # the memo of sets is warm, as in a run
                times[constrained] += time.thread_time() - started
    count = steps - steps // 4
    return times[False] / count, times[True] / count


def spelled(automaton: TokenAutomaton, rng: np.random.Generator) -> list[int]:
    """A random answer that fits the rows, stop ids behind it."""
    by_class = {int(kind): np.nonzero(automaton.class_of == kind)[0] for kind in np.unique(automaton.class_of)}
    state, tokens = automaton.start, []
    while len(tokens) < ROWS:
        after = automaton.table[state, : automaton.pad]
        kinds = [k for k in np.nonzero(after >= 0)[0].tolist() if k in by_class and automaton.distance[after[k]] <= ROWS - len(tokens) - 1]
        kind = int(rng.choice(kinds))
        tokens.append(int(rng.choice(by_class[kind])))
        state = int(after[kind])
    return tokens


def main() -> None:
    torch.set_num_threads(1)
    words = vocabulary(Path(sys.argv[1]))
    automata = [a for a in compile_times(words, int(sys.argv[2]) if len(sys.argv) > 2 else 160) if a.shortest <= ROWS][:8]
    for share in (1.0, 0.5):
        for batch in (1, 8):
            free, constrained = step_seconds(automata, words.size, share, batch)
            print(
                f"step of {batch} x {ROWS} rows, {words.size} tokens, {share:.0%} of them fit: predictions {1000 * free:.1f} ms, "
                f"with constraints {1000 * constrained:.1f} ms ({constrained / free:.2f} of it)"
            )


if __name__ == "__main__":
    main()
