"""The pool's book against slow ones: a bitmap for who holds what, a linear scan for the longest shared prefix."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dllm_agents.engine.pool import Extents, Holder, Memory

KIND = ("causal", None)


def test_extents_are_those_of_a_bitmap() -> None:
    draw = random.Random(0)
    extents, bitmap, held = Extents(100), [False] * 100, []
    for _ in range(3000):
        if held and draw.random() < 0.5:
            start, length = held.pop(draw.randrange(len(held)))
            extents.give_back(start, length)
            bitmap[start : start + length] = [False] * length
        else:
            length = draw.randint(1, 30)
            first = next((at for at in range(101 - length) if not any(bitmap[at : at + length])), None)
            assert extents.take(length) == first
            if first is not None:
                bitmap[first : first + length] = [True] * length
                held.append((first, length))
    for start, length in held:
        extents.give_back(start, length)
    assert extents.holes == [(0, 100)]


def shared(first: list[int], second: list[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))


@pytest.mark.parametrize("unit", [1, 4])
def test_the_longest_prefix_is_that_of_a_linear_scan(unit: int) -> None:
    draw = random.Random(unit)
    memory, live, kept = Memory(3000), {}, {}
    stems = [[draw.randrange(3) for _ in range(200)] for _ in range(4)]
    for _ in range(1500):
        stem = draw.choice(stems)
        tokens = [*stem[: draw.randint(0, 200)], *(draw.randrange(3) for _ in range(draw.randint(1, 60)))]
        most = draw.randint(0, len(tokens))
        source, length = memory.longest_prefix(KIND, np.array(tokens), most, unit)
        everyone = {**live, **kept}
        assert length == max((min(shared(other, tokens), most) // unit * unit for other in everyone.values()), default=0)
        assert (source is None) == (length == 0)
        assert source is None or everyone[source][:length] == tokens[:length]
        holder = memory.admit(len(tokens) + 20, KIND)
        kept = {other: value for other, value in kept.items() if other.path}
        if holder is not None:
            memory.offer(holder, np.array(tokens[: len(tokens) // 2]))
            memory.offer(holder, np.array(tokens))
            live[holder] = tokens
        if live and (holder is None or draw.random() < 0.7):
            ended = draw.choice(list(live))
            tokens = live.pop(ended)
            keep = draw.choice([0, len(tokens)])
            memory.release(ended, keep)
            if keep:
                kept[ended] = tokens
            kept = {other: value for other, value in kept.items() if other.path}
    for ended in list(live):
        memory.release(ended, 0)
    while memory._kept:
        memory._drop(next(iter(memory._kept)))
    assert memory._extents.holes == [(0, 3000)] and not any(root.children or root.holders for root in memory._roots.values())


def test_kept_prefixes_give_way_oldest_first_and_running_requests_do_not() -> None:
    memory = Memory(100)
    holders = [memory.admit(40, KIND) for _ in range(2)]
    for number, holder in enumerate(holders):
        assert holder is not None
        memory.offer(holder, np.full(32, number))
        memory.release(holder, 32)
    memory.longest_prefix(KIND, np.full(40, 0), 40, 1)  # used again
    third = memory.admit(60, KIND)
    assert third is not None
    assert memory.longest_prefix(KIND, np.full(40, 0), 40, 1)[1] == 32
    assert memory.longest_prefix(KIND, np.full(40, 1), 40, 1)[1] == 0
    assert memory.admit(50, KIND) is None


def test_what_is_kept_is_trimmed_to_what_is_clean() -> None:
    memory = Memory(100)
    holder = memory.admit(100, KIND)
    assert isinstance(holder, Holder)
    memory.offer(holder, np.arange(48))
    memory.release(holder, 48)
    assert memory._extents.holes == [(48, 52)]


def test_keys_of_another_kind_are_not_shared() -> None:
    memory = Memory(100)
    holder = memory.admit(40, ("block_causal", 4))
    assert holder is not None
    memory.offer(holder, np.arange(32))
    assert memory.longest_prefix(("block_causal", 8), np.arange(32), 32, 8) == (None, 0)
    assert memory.longest_prefix(("block_causal", 4), np.arange(32), 32, 4) == (holder, 32)
