"""What is no answer is no result: refused settings, dead servers, broken environments and prompts that do not fit, from the rollout to the
cells of the tables."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from small_run import Run, configuration

from dllm_agents.analysis.metrics import ERROR_SHARE, Errors
from dllm_agents.benchmarks.babyai import BabyAI
from dllm_agents.benchmarks.base import Environment
from dllm_agents.client.client import Client
from dllm_agents.errors import StageError
from dllm_agents.frames import read_frame
from dllm_agents.records import Score, Task
from dllm_agents.reporting.claims import Claim
from dllm_agents.reporting.figures import plot
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.judging import evaluate

Start = Callable[[Callable[[str], Any]], str]
GO = "Thought: on.\nAction: move forward"
REFUSED = 400, {"message": "strategy: ar needs a causal model, this one is block_causal", "param": "strategy"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "for_backbone", classmethod(lambda cls, endpoint, backbone: cls(endpoint, attempts=2, backoff=0.01)))


@pytest.fixture
def run(tmp_path: Path, said_by_prompt: Start) -> Iterator[Callable[..., Run]]:
    yield lambda says, **agent: Run(configuration(said_by_prompt(says), **agent), tmp_path / "results")


@pytest.mark.parametrize(
    ("refusal", "agent", "key"),
    [
        (REFUSED, {}, "backbones.mine.decoding.strategy"),
        (REFUSED, {"decoding": {"strategy": "ar"}}, "agents.mine.decoding.strategy"),
        ((422, {"message": "max_tokens is too large", "param": "max_tokens"}), {}, "backbones.mine.decoding.max_new_tokens"),
        ((404, {"message": "model 'mine' is not served here"}), {}, "backbones.mine.served_name"),
        ((400, {"message": "I do not like it"}), {}, "backbones.mine.decoding;"),
    ],
)
def test_a_server_that_refuses_a_setting_stops_the_rollout_with_its_key(
    run: Callable[..., Run], refusal: Any, agent: Any, key: str
) -> None:
    small = run(lambda prompt: refusal, **agent)
    small.play("random", "babyai")
    for benchmark in ("babyai", "bfcl"):
        with pytest.raises(StageError, match=f"change {key}") as caught:
            small.play("mine", benchmark)
        assert refusal[1]["message"] in str(caught.value) and "\n" not in str(caught.value) and "again" not in str(caught.value)
        assert not small.path("episodes", benchmark, "mine").exists()
    success = {"agent": "mine", "benchmark": "babyai", "metric": "success_rate"}
    assert small.cells("diffuagent_table1", **success) == [("0", "not run")]


def test_a_refusal_after_answers_to_the_same_settings_is_of_that_prompt_alone(run: Callable[..., Run]) -> None:
    said: list[str] = []
    small = run(lambda prompt: (said.append(prompt), REFUSED if len(said) == 8 else GO)[1])
    episodes = small.play("mine", "babyai")
    assert [episode.ended for episode in episodes].count("error") == 1 and "RequestRefused" not in {episode.ended for episode in episodes}
    row = {"agent": "mine", "benchmark": "babyai"}
    assert small.cells("diffuagent_table1", **row, metric="errors") == [("20", "1")]
    assert small.cells("diffuagent_table1", **row, metric="success_rate")[0][0] == "19"
    assert "19 (+ 1 error)" in small.table("diffuagent_table1")[1]


def test_finished_episodes_outlive_a_server_that_changes_its_mind(run: Callable[..., Run]) -> None:
    said: list[str] = []
    small = run(lambda prompt: (said.append(prompt), (404, {"message": "not served here"}) if len(said) > 7 else GO)[1])
    with pytest.raises(StageError, match="served_name"):
        small.play("mine", "babyai")
    (journal,) = small.results.rglob("*.journal")
    assert len(journal.read_text().splitlines()) == 1 + 2  # two episodes of three steps were over


def test_a_server_that_dies_leaves_no_table_of_zeros(run: Callable[..., Run]) -> None:
    said: list[str] = []
    small = run(lambda prompt: (said.append(prompt), 500 if len(said) > 10 else GO)[1])
    with pytest.raises(StageError, match=r"does not answer after 2 attempts .*; finished episodes are kept"):
        small.play("mine", "babyai")
    assert small.cells("diffuagent_table1", agent="mine", benchmark="babyai", metric="success_rate") == [("0", "not run")]


@pytest.mark.parametrize("broken", [2, 3, 20])
def test_episodes_of_a_broken_environment_are_counted_beside_n(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    """With 2 of 20 errors, the stated share, the rate is that of the 18 others; with more there is no number, in no table."""
    small = run(lambda prompt: GO)
    small.play("random", "babyai")
    working = BabyAI.environment

    def environment(self: BabyAI, task: Task) -> Environment:
        if int(task.id.rpartition("/")[2]) < broken:
            raise OSError("the simulator broke")
        return working(self, task)

    monkeypatch.setattr(BabyAI, "environment", environment)
    assert [episode.ended for episode in small.play("mine", "babyai")].count("error") == broken
    row = {"agent": "mine", "benchmark": "babyai"}
    assert small.cells("diffuagent_table1", **row, metric="errors") == [("20", str(broken))]
    assert small.cells("failures", **row, category="server", metric="episodes_with_failure") == [("20", str(5 * broken))]
    lines = {
        name: next(line for line in small.table(name)[1].splitlines() if line.startswith("| mine"))
        for name in ("diffuagent_table1", "failures", "dllm_agent_efficiency", "comparisons")
    }
    success, difference = ({**row, "metric": metric} for metric in ("success_rate", "success_difference"))
    if broken == 2:
        assert small.cells("diffuagent_table1", **success) == [("18", "0")] and small.cells("comparisons", **difference)[0][0] == "18"
        assert all("18 (+ 2 errors)" in line for name, line in lines.items() if name != "comparisons")
        return
    text = f"{broken} of 20 errors"
    assert small.cells("diffuagent_table1", **success) == [("0", text)]
    assert small.cells("comparisons", **difference) == [("0", f"mine on babyai: {text}")]
    assert all(text in line and "[" not in line for line in lines.values()), lines


def test_a_claim_about_an_agent_of_errors_cannot_be_told(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    small = run(lambda prompt: GO)
    small.play("random", "babyai")
    monkeypatch.setattr(BabyAI, "environment", lambda self, task: 1 / 0)
    small.play("mine", "babyai")
    test = {"metric": "success", "benchmarks": ["babyai"], "of": {"agents": ["mine"]}, "expect": "at_most", "bound": 50}
    verdict, (finding,) = evaluate(
        Claim.model_validate({"source": "s", "statement": "t", "tests": [test]}), Inputs(small.config, small.results)
    )
    assert (verdict, finding.value, finding.why) == ("cannot tell", None, "mine on babyai: 20 of 20 errors")


def test_a_bar_of_errors_says_so(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    small = run(lambda prompt: GO)
    monkeypatch.setattr(BabyAI, "environment", lambda self, task: 1 / 0)
    small.play("mine", "babyai")
    drawn: list[str] = []
    text = Axes.text
    monkeypatch.setattr(Axes, "text", lambda *arguments, **options: (drawn.append(arguments[3]), text(*arguments, **options))[1])
    plot("diffuagent_figure3", small.config, small.results, small.results / "figure3")
    assert drawn.count("20 of 20 errors") == 1


def test_a_prompt_that_does_not_fit_is_a_failure_of_the_agent_with_a_name(run: Callable[..., Run]) -> None:
    """Also where saying nothing would have been right."""
    small = run(lambda prompt: 400)  # the stand-in's way to say that the prompt does not fit
    for benchmark, tasks in (("babyai", 20), ("bfcl", 8)):
        assert {episode.ended for episode in small.play("mine", benchmark)} == {"prompt_too_long"}
        row = {"agent": "mine", "benchmark": benchmark}
        named = {"category": "prompt_too_long", "metric": "episodes_with_failure"}
        assert small.cells("failures", **row, **named) == [(str(tasks), "100")]
        assert small.cells("failures", **row, category="schema", metric="episodes_with_failure") == [(str(tasks), "0")]
    assert small.cells("diffuagent_table1", agent="mine", benchmark="babyai", metric="success_rate") == [("20", "0")]
    assert not read_frame(small.path("scores", "bfcl", "mine", "parquet"), Score)["success"].any()
    assert not small.cells("diffuagent_table1", metric="errors") and not small.cells("diffuagent_table2", metric="errors")


def test_the_share_of_errors_that_a_number_bears() -> None:
    assert ERROR_SHARE == 0.1
    assert [Errors(number, 20).too_many for number in (0, 2, 3, 20)] == [False, False, True, True]
    assert not Errors(0, 0).too_many and str(Errors(128, 128)) == "128 of 128 errors"
