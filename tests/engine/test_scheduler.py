"""What runs next: small beside large, nobody for ever behind another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dllm_agents.engine.scheduler import PASSED_OVER, PATIENCE, SHORT, Pending, admissible, plan

calls = st.builds(
    lambda start, rows, unit, waited: Pending(start * 4, start * 4 + rows, unit, waited),
    st.integers(0, 50),
    st.integers(1, 3000),
    st.sampled_from([None, 1, 4]),
    st.integers(0, 12),
)


@given(st.lists(calls, min_size=1, max_size=40), st.integers(1, 2048))
def test_something_always_runs_and_the_budget_holds(pending: list[Pending], budget: int) -> None:
    steps = dict(plan(pending, budget))
    assert steps
    long = {number: stop - pending[number].start for number, stop in steps.items() if pending[number].rows > SHORT}
    whole = {number for number in long if pending[number].unit is None or long[number] == pending[number].unit}
    assert sum(long.values()) <= budget or (len(long) == 1 and whole)
    for number, stop in steps.items():
        call = pending[number]
        assert call.start < stop <= call.stop
        assert stop == call.stop or (call.unit is not None and (stop - call.start) % call.unit == 0)
        assert call.rows > SHORT or stop == call.stop


def test_short_calls_wait_for_company_but_not_for_ever() -> None:
    refreshes = [Pending(0, 1152, None)] * 20
    blocks = [Pending(1024, 1056, None)] * 12
    assert [number for number, _ in plan(refreshes + blocks, 1024)] == [0]
    blocks[3] = Pending(1024, 1056, None, waited=PATIENCE)
    assert [number for number, _ in plan(refreshes + blocks, 1024)] == [0, *range(20, 32)]
    assert [number for number, _ in plan(refreshes[:8] + blocks + blocks, 1024)] == [0, *range(8, 32)]


def test_a_long_prompt_is_cut_and_does_not_stop_the_others() -> None:
    steps = plan([Pending(0, 30_000, 1), *[Pending(200, 201, 1)] * 15], 1024)
    assert steps == [(0, 1024), *((number, 201) for number in range(1, 16))]
    assert plan([Pending(0, 4000, None), Pending(0, 500, 1)], 1024) == [(0, 4000)]
    assert plan([Pending(0, 500, 1), Pending(0, 4000, None), Pending(0, 300, 4)], 1024) == [(0, 500), (2, 300)]


def test_everyone_gets_a_turn() -> None:
    """Whoever ran stands last; 40 long calls that each need a step of their own all run within 40 steps."""
    queue = list(range(40))
    seen = set()
    for _ in range(40):
        ran = {queue[number] for number, _ in plan([Pending(0, 1152, None)] * 40, 1024)}
        seen |= ran
        queue = sorted(queue, key=lambda request: request in ran)
    assert len(seen) == 40


def test_a_large_request_is_passed_over_but_not_starved() -> None:
    free, lengths = 10, [50, 3, 4, 5]

    def fits(number: int) -> bool:
        nonlocal free
        if lengths[number] > free:
            return False
        free -= lengths[number]
        return True

    assert admissible([0] * 4, fits, 64) == [1, 2]
    free = 10
    assert admissible([0] * 4, fits, 1) == [1]
    assert admissible([PASSED_OVER, 0, 0, 0], fits, 64) == []
