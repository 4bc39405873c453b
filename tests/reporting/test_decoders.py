"""One set of weights decoded in several ways: the table's numbers against counts by hand, and the figure."""

import pytest
from synthetic_run import configuration, failure, score

from dllm_agents.config import Config
from dllm_agents.frames import write_frame
from dllm_agents.records import Failure, Score
from dllm_agents.reporting.figures import plot
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.tables import make

AGENTS = {
    "ar": {"policy": "tiny-ar"},
    "plain": {"policy": "tiny-full"},
    "parallel": {"policy": "tiny-full", "decoding": {"steps": 4}},
    "held": {"policy": "tiny-full", "decoding": {"steps": 4}, "constrain": True},
    "block": {"policy": "tiny-block"},
}


@pytest.fixture
def inputs(tmp_path):
    data = configuration().model_dump(exclude_unset=True)
    data["agents"] = AGENTS
    data["run"] = {"benchmarks": ["babyai"], "agents": ["ar", "plain", "parallel", "block"]}
    inputs = Inputs(Config.model_validate(data), tmp_path)
    for agent, tasks, solved, loops, malformed, nfe in (
        ("ar", 20, 18, 0, 0, 20),
        ("plain", 10, 8, 1, 0, 10),
        ("parallel", 10, 2, 4, 3, 2),
        ("block", 10, 5, 0, 0, 5),
    ):
        scores = [score(agent, "babyai", "", index, success=index < solved, nfe=nfe, completion_tokens=20) for index in range(tasks)]
        kinds = ["loop"] * loops + ["format"] * malformed
        failures = [failure(row, kind) for row, kind in zip(reversed(scores[:10]), kinds, strict=False)]
        write_frame(inputs.files.scores("babyai", agent), scores, Score)
        write_frame(inputs.files.failures("babyai", agent), failures, Failure)
    return inputs


def test_the_table_holds_one_set_of_weights_on_shared_tasks(inputs):
    table = make("decoder_or_paradigm", inputs)
    rows = {(row.agent, row.metric): row for row in table.rows}
    assert {agent for agent, _ in rows} == {"ar", "plain", "parallel"}  # tiny-block is decoded in one way
    assert {row.n for row in table.rows} == {10}
    for (agent, metric), value in {
        ("ar", "success_rate"): 100.0,
        ("ar", "tokens_per_forward"): 1.0,
        ("plain", "success_rate"): 80.0,
        ("plain", "tokens_per_forward"): 2.0,
        ("plain", "loop"): 10.0,
        ("parallel", "success_rate"): 20.0,
        ("parallel", "tokens_per_forward"): 10.0,
        ("parallel", "loop"): 40.0,
        ("parallel", "malformed"): 30.0,
        ("parallel", "nfe"): 2.0,
    }.items():
        assert rows[agent, metric].value == pytest.approx(value), (agent, metric)
    assert all(len(line.cells) == len(table.layout.columns) for block in table.layout.blocks for line in block.lines)


def test_the_figure_is_drawn_with_and_without_agents(inputs, tmp_path):
    assert all(path.stat().st_size for path in plot("decoder_or_paradigm", inputs.config, inputs.results, tmp_path / "figure"))
    nothing = Inputs(configuration(), tmp_path / "nothing")
    assert plot("decoder_or_paradigm", nothing.config, nothing.results, tmp_path / "empty")
    assert "no two agents that differ in their decoding alone" in str(make("decoder_or_paradigm", nothing).layout)


def test_the_first_of_the_agents_may_play_elsewhere(inputs):
    inputs.config.agents["plain"].benchmarks = ["bfcl"]
    inputs.config.agents["second"] = inputs.config.agents["plain"].model_copy(update={"benchmarks": ["babyai"], "decoding": {"steps": 2}})
    inputs.config.run.agents.append("second")
    rows = [score("second", "babyai", "", index, success=True, nfe=1, completion_tokens=20) for index in range(10)]
    write_frame(inputs.files.scores("babyai", "second"), rows, Score)
    write_frame(inputs.files.failures("babyai", "second"), [], Failure)
    inputs.files.scores("babyai", "plain").unlink()
    assert {row.agent for row in make("decoder_or_paradigm", inputs).rows} == {"parallel", "second", "ar"}
