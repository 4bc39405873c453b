"""ReAct turn by turn, with a scripted environment and a scripted backend."""

from collections.abc import Sequence

import pytest

from dllm_agents import prompts
from dllm_agents.agents import react
from dllm_agents.benchmarks.base import Environment, Step
from dllm_agents.client.client import PromptTooLong
from dllm_agents.records import Call, Outcome, Task

TASK = Task(id="babyai/L/1", benchmark="babyai", split="test", category="L", seed=1, version="v", goal="reach the end")


class Corridor(Environment):
    """Solved by going forward three times; anything else is invalid."""

    def reset(self) -> str:
        self.place, self.success = 0, False
        return "You are at 0."

    def step(self, action: str) -> Step:
        valid = action == "forward"
        self.place += valid
        self.success = self.place == 3
        return Step(f"You are at {self.place}.", self.place / 3, self.success, valid)


class Backend:
    """Answers from a list, and remembers what it was asked."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers, self.asked, self.seeds = list(answers), [], []

    def __call__(self, messages: Sequence[dict[str, str]], *, seed: int, constraint: object = None) -> Call:
        self.asked.append(messages[-1]["content"])
        self.seeds.append(seed)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Call(role="policy", seed=seed, text=answer, finish_reason="stop")


GO = prompts.react_completion("I walk.", "forward")


def play(backend: Backend, **settings: object) -> Outcome:
    return react.play(Corridor(), TASK, backend, style="react", max_steps=5, **settings)  # type: ignore[arg-type]


def test_success_ends_the_episode_and_every_step_points_at_its_answer() -> None:
    backend = Backend(GO, GO, GO)
    played = play(backend)
    assert (played.ended, played.success, len(played.steps)) == ("success", True, 3)
    assert [step.call for step in played.steps] == [("policy", seed) for seed in backend.seeds]
    assert played.steps[0].thought == "I walk." and played.steps[2].progress == 1.0


def test_three_attempts_then_the_step_is_lost() -> None:
    backend = Backend("hm", "hm", GO, "hm", "hm", "hm", GO, GO)
    played = play(backend)
    assert [step.attempts for step in played.steps] == [3, 3, 1, 1]
    assert [step.action for step in played.steps] == ["forward", None, "forward", "forward"]
    assert not played.steps[1].valid and played.steps[1].action is None
    assert len(set(backend.seeds)) == len(backend.seeds)


def test_step_limit() -> None:
    played = play(Backend(*[prompts.react_completion("I wait.", "wait")] * 5))
    assert played.ended == "step_limit" and not played.success and not any(step.valid for step in played.steps)


def test_history_full_and_recent() -> None:
    backend = Backend(GO, GO, GO)
    play(backend)
    assert "You are at 0." in backend.asked[2] and "You are at 1." in backend.asked[2]
    backend = Backend(*[prompts.react_completion(f"Thought {n}.", "wait") for n in range(5)])
    play(backend, history="recent")
    assert "Thought 3." in backend.asked[4] and "Thought 2." in backend.asked[4] and "Thought 1." not in backend.asked[4]


def test_a_prompt_too_long_loses_its_oldest_interactions_whole() -> None:
    wait = [prompts.react_completion(f"Thought {n}.", "wait") for n in range(4)]
    backend = Backend(wait[0], wait[1], PromptTooLong("too long"), wait[2], wait[3], GO)
    played = play(backend)
    assert "Thought 0." in backend.asked[2] and "Thought 0." not in backend.asked[3] and "Thought 1." in backend.asked[3]
    assert len(played.steps) == 5


def test_a_list_of_actions_that_does_not_fit_is_left_out_last() -> None:
    class Listed(Corridor):
        def valid_actions(self) -> list[str]:
            return ["forward", "wait"]

    backend = Backend(PromptTooLong("too long"), GO, GO, GO)
    played = react.play(Listed(), TASK, backend, style="react", max_steps=5, list_actions=True)
    assert played.success
    assert "Valid actions now: forward, wait" in backend.asked[0] and "Valid actions now" not in backend.asked[1]
    assert "Valid actions now" in backend.asked[2]


def test_a_prompt_that_never_fits_ends_the_episode_by_its_name_and_keeps_what_was_played() -> None:
    assert play(Backend(PromptTooLong("too long"))).ended == "prompt_too_long"
    wait = prompts.react_completion("Wait.", "wait")
    played = play(Backend(wait, *[PromptTooLong("too long")] * 2))
    assert (played.ended, played.success, len(played.steps)) == ("prompt_too_long", False, 1)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("Thought: a\nAction: b", ("a", "b")),
        ("noise Thought: a Action:  go to red ball 1 \nmore", ("a", "go to red ball 1")),
        ("Action: b", None),
        ("Thought: a\nAction:", None),
        ("", None),
        ("Thought:" * 20000, None),
    ],
)
def test_parse_react(text: str, parsed: tuple[str, str] | None) -> None:
    assert prompts.parse_react(text) == parsed
