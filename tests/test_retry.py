"""Requests that are made again: how often, after which pauses, and what is raised in the end."""

import pytest

from dllm_agents import retry
from dllm_agents.retry import PassingFault, retried


@pytest.fixture
def pauses(monkeypatch):
    taken = []
    monkeypatch.setattr(retry.time, "sleep", taken.append)
    return taken


def asking(*outcomes):
    """A function that yields its next outcome, or raises it where it is a fault."""
    left = list(outcomes)

    def ask():
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        yield outcome

    return ask


def test_pauses_double_give_or_take_a_quarter(pauses):
    faults = [PassingFault(str(number)) for number in range(5)]
    assert list(retried(asking(*faults, "answer"), attempts=6, backoff=0.5)) == ["answer"]
    assert len(pauses) == 5
    for number, pause in enumerate(pauses):
        assert 0.75 * 0.5 * 2**number <= pause <= 1.25 * 0.5 * 2**number


@pytest.mark.parametrize(("after", "least"), [("7", 7), ("86400", 60), ("", 0), ("soon", 0), ("-3", 0), ("1.5", 0), ("9" * 400, 60)])
def test_a_server_may_ask_for_a_pause_of_up_to_a_minute(pauses, after, least):
    assert list(retried(asking(PassingFault("busy", after), "answer"), attempts=2, backoff=0.001)) == ["answer"]
    assert pauses[0] == (least or pytest.approx(0.001, rel=0.25))


def test_the_last_fault_is_raised_and_any_other_at_once(pauses):
    with pytest.raises(PassingFault, match="second"):
        list(retried(asking(PassingFault("first"), PassingFault("second"), "never"), attempts=2, backoff=1))
    assert len(pauses) == 1
    with pytest.raises(KeyError):
        list(retried(asking(KeyError("no fault that passes"), "never"), attempts=2, backoff=1))
    assert len(pauses) == 1


def test_what_was_yielded_before_a_fault_stays(pauses):
    answers = iter([["a", PassingFault("broken")], ["a", "b"]])

    def ask():
        for part in next(answers):
            if isinstance(part, Exception):
                raise part
            yield part

    assert list(retried(ask, attempts=2, backoff=0)) == ["a", "a", "b"]
