"""What constraints cost at a large vocabulary: compiling BFCL's calls, and what a step of the 60M model takes longer with one.

    python benchmarks/constraints.py VOCABULARY [TASKS] [--threads N] [--temperature T] [--rule RULE]

VOCABULARY is a tokenizer.json, or a tiktoken file (base64 of a token and its rank, a line each). Seconds are a thread's processor seconds,
so that a shared machine can be measured, of several threads those of the clock. A step is a dual-cache call of 32 rows a request behind a
prompt of 512, by the engine's runner, and its predictions; on the same logits these are made once without constraints and once with
them, which of the two first in turns.
"""

from __future__ import annotations

import argparse
import base64
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from shapes import SMALL, draw_prompt, random_model

from dllm_agents.benchmarks.bfcl import BFCL
from dllm_agents.benchmarks.bfcl_language import call_pattern
from dllm_agents.config import BFCLOptions
from dllm_agents.decoding.constrained import Constraint
from dllm_agents.decoding.constraints import ConstraintError, TokenAutomaton, Vocabulary, language
from dllm_agents.decoding.constraints.automata import compile_expression
from dllm_agents.decoding.predicting import predictions
from dllm_agents.decoding.session import Session
from dllm_agents.decoding.settings import Decoding
from dllm_agents.engine.runner import Runner
from dllm_agents.models.attention import Slot
from dllm_agents.models.loading import Model

CATEGORIES = ["simple", "live_simple", "multiple", "live_multiple"]
PROMPT, ROWS, STEPS = 512, 32, 12


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


@torch.inference_mode()
def step_seconds(
    model: Model, automata: list[TokenAutomaton], share: float, batch: int, decoding: Decoding
) -> list[tuple[float, float, float]]:
    """For each step of `batch` requests its seconds without constraints, with them, and in the forward: `share` of the places hold a
    token that may stand there, as a trained model's would, the others one drawn from the vocabulary."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    rng = np.random.default_rng(0)
    runner, sessions = Runner(model, batch * (PROMPT + ROWS)), []
    for number in range(batch):
        session = Session(model, draw_prompt(PROMPT, 32000, number), decoding)
        session.state.constraint = Constraint(automata[number % len(automata)], session.canvas, decoding)
        sessions.append((session, Slot(model, PROMPT + ROWS, runner.pool, number * (PROMPT + ROWS))))
    likely = [spelled(session.state.constraint.lattice.automaton, rng) for session, _ in sessions]
    likely = [[token if rng.random() < share else int(rng.integers(len(automata[0].class_of))) for token in tokens] for tokens in likely]
    seconds = []
    for step in range(STEPS + 1):  # the first one reads the prompts
        started = clock()
        logits = runner.logits([session.segment(slot) for session, slot in sessions])
        forward, row = clock() - started, 0
        for (session, _), tokens in zip(sessions, likely, strict=True):
            for place in session.call.positions:
                logits[row, tokens[place - PROMPT]] = 30.0
                row += 1
        ways = {False: [(replace(s.state, constraint=None), s.call) for s, _ in sessions], True: [(s.state, s.call) for s, _ in sessions]}
        times, predicted = {}, {}
        for constrained in random.Random(step).sample([False, True], 2):
            started = clock()
            predicted[constrained] = predictions(ways[constrained], logits)
            times[constrained] = clock() - started
        for (session, _), prediction in zip(sessions, predicted[True], strict=True):
            session.advance(prediction)
        if step:
            seconds.append((forward + times[False], forward + times[True], forward))
    return seconds


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vocabulary", type=Path)
    parser.add_argument("tasks", type=int, nargs="?", default=160)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--rule", default="mask")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    words = vocabulary(options.vocabulary)
    automata = [a for a in compile_times(words, options.tasks) if a.shortest <= ROWS][:8]
    model = random_model({**SMALL, "vocab_size": words.size}, "full")
    decoding = Decoding(
        strategy="fast_dllm",
        cache="dual",
        steps=16,
        block_length=ROWS,
        max_new_tokens=ROWS,
        stop_early=False,
        mask_id=words.size - 1,
        stop_ids=[words.size - 2],
        constraint_rule=options.rule,
        temperature=options.temperature,
    )
    for share in (1.0, 0.5):
        for batch in (1, 8):
            seconds = np.array(step_seconds(model, automata, share, batch, decoding))
            extra = 100 * (seconds[:, 1] - seconds[:, 0]) / seconds[:, 0].mean()
            draws = np.random.default_rng(0).choice(extra, (2000, len(extra))).mean(axis=1)
            low, high = np.quantile(draws, [0.025, 0.975])
            print(
                f"step of {batch} x {ROWS} rows, {words.size} tokens, {share:.0%} of them fit: {1000 * seconds[:, 0].mean():.0f} ms "
                f"({1000 * seconds[:, 2].mean():.0f} forward); a constraint adds {extra.mean():.1f} % [{low:.1f}, {high:.1f}], "
                f"{extra.max():.1f} at most, n = {len(extra)} steps",
                flush=True,
            )


if __name__ == "__main__":
    main()
