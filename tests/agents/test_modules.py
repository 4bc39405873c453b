"""Each module's trigger, state and fall-back, turn by turn, against the paper's equations (3)-(7)."""

from collections.abc import Sequence

import pytest

from dllm_agents.agents.modules.early_exit import Verifier
from dllm_agents.agents.modules.editor import Editor
from dllm_agents.agents.modules.memory import Memory
from dllm_agents.agents.modules.selector import Seen, Selector, named_tools
from dllm_agents.analysis.verification import exit_metrics, redundant_steps, replay
from dllm_agents.records import Call, Episode, EpisodeStep, Task

TASK = Task(id="babyai/L/1", benchmark="babyai", split="test", category="L", seed=1, version="v", goal="reach the end")
TOOLS = [{"name": name, "description": f"does {name}", "parameters": {"properties": {"x": {}}}} for name in ("a.b", "c", "d", "e")]


class Backend:
    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), []

    def __call__(self, messages: Sequence[dict[str, str]], *, seed: int, constraint: object = None) -> Call:
        self.asked.append(messages[-1]["content"])
        text = self.answers.pop(0)
        return Call(role="module", seed=seed, text=text)


def steps(count: int) -> list[EpisodeStep]:
    return [EpisodeStep(index=n, thought=f"secret {n}", action=f"act {n}", observation=f"seen {n}") for n in range(count)]


def test_memory_every_k_steps_over_the_last_k_interactions() -> None:
    backend = Backend("first", "second")
    memory = Memory(backend, "react", every=5)
    texts = [memory.update(TASK, "start", steps(t), seed=0) for t in range(12)]
    assert texts == [""] * 5 + ["first"] * 5 + ["second"] * 2
    assert "act 4" in backend.asked[0] and "act 5" not in backend.asked[0]
    assert "Old memory: first" in backend.asked[1] and "act 5" in backend.asked[1] and "act 4" not in backend.asked[1]
    assert "secret" not in backend.asked[1]


def test_every_interaction_is_in_the_memory_or_in_the_window() -> None:
    memory = Memory(Backend("first", " ", "third"), "react", every=5, keep=2)
    windows = []
    for t in range(17):
        memory.update(TASK, "start", steps(t), 0)
        windows.append(memory.window(t))
        assert memory.summarised + memory.window(t) >= t
    # The summary at step 10 is empty: what it should have held stays in the window, and is summarised at step 15.
    assert windows[5:] == [2, 2, 2, 3, 4, 5, 6, 7, 8, 9, 2, 2]


def test_an_empty_summary_keeps_the_old_memory() -> None:
    memory = Memory(Backend("first", "  "), "react", every=1)
    assert [memory.update(TASK, "", steps(t), 0) for t in (1, 2)] == ["first", "first"]


def test_verifier_is_asked_every_k_steps_and_exits_on_yes() -> None:
    backend = Backend("no", "NO.", "I say YES")
    verifier = Verifier(backend, "react", every=5)
    assert [t for t in range(16) if verifier.exits("babyai", "goal", "start", steps(t), 0)] == [15]
    assert len(backend.asked) == 3 and "act 14" in backend.asked[2] and "act 0" in backend.asked[2]


def test_verifier_prompts_differ_in_strength() -> None:
    strict, modest = Backend("NO"), Backend("NO")
    Verifier(strict, "react", "strict").exits("babyai", "g", "s", steps(5), 0)
    Verifier(modest, "react", "modest").exits("babyai", "g", "s", steps(5), 0)
    assert "if any one of these holds" in strict.asked[0] and "only if there is good reason" in modest.asked[0]
    assert all("turn left, turn right" in asked for asked in (strict.asked[0], modest.asked[0]))  # the agent's instruction


def test_replay_on_a_stored_episode() -> None:
    episode = Episode(
        task_id="t", benchmark="b", category="c", goal="g", agent="a", seed=1, max_steps=30, ended="step_limit", steps=steps(12)
    )
    assert replay(Verifier(Backend("NO", "YES"), "react"), episode) == 10
    assert replay(Verifier(Backend("NO", "NO"), "react"), episode) is None


def test_early_exit_metrics_by_hand() -> None:
    progress = [0.0, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0]
    assert [redundant_steps(progress, e) for e in range(1, 8)] == [1, 0, 1, 2, 3, 0, 1]
    assert exit_metrics(progress, 5) == (1 - 3, 0.5)
    assert exit_metrics(progress, 7) == (0, 0.0)
    with pytest.raises(ValueError, match="outside"):
        exit_metrics(progress, 8)


def test_selector_skips_three_tools_and_keeps_all_on_failure() -> None:
    backend = Backend('Use ["c", "ghost", "a.b"].', "none of them")
    selector = Selector(backend, "react")
    assert selector.select(Seen("do it"), TOOLS[:3], 0) == TOOLS[:3] and not backend.asked
    assert [tool["name"] for tool in selector.select(Seen("do it"), TOOLS, 0)] == ["a.b", "c"]
    assert selector.select(Seen("do it"), TOOLS, 0) == TOOLS and len(backend.asked) == 2


@pytest.mark.parametrize(
    ("reply", "names"),
    [("a.b, c", {"a.b", "c"}), ("- `c`\n- d", {"c", "d"}), ("[" * 10000, set()), ('[["c"]]', set()), ("[1, null]", set()), ("", set())],
)
def test_selector_replies(reply: str, names: set[str]) -> None:
    assert named_tools(reply, ["a.b", "c", "d"]) == names


def test_editor_keeps_or_repairs() -> None:
    backend = Backend("UNCHANGED", "NO_VALID_TOOL_CALLS", "", "[c(x=1)]")
    editor = Editor(backend, "react")
    assert [editor.edit("[c(x=1", TOOLS, 0) for _ in range(4)] == ["[c(x=1"] * 3 + ["[c(x=1)]"]
    assert len(backend.asked) == 4
