"""The tables `workflows` and `security`, from scores by hand."""

import pytest
from synthetic_run import score

from dllm_agents.config import Config
from dllm_agents.frames import write_frame
from dllm_agents.records import Score
from dllm_agents.reporting.comparison import matched_pairs
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.tables import make, tabulate


@pytest.fixture
def inputs(tmp_path):
    agents = {
        "hot": {"policy": "ar", "decoding": {"temperature": 1.0}},
        "plain": {"policy": "ar"},
        "sure": {"policy": "ar", "workflow": "sure"},
        "sure-dllm": {"policy": "dllm", "workflow": "sure"},
        "maker": {"policy": "ar", "workflow": "maker", "options": {"ahead": 2}},
        "module": {"policy": "ar", "memory": {"backbone": "ar"}, "benchmarks": ["babyai"]},
        "threats": {"policy": "ar", "workflow": "threats"},
    }
    config = Config.model_validate(
        {
            "benchmarks": {"multihop_qa": {"tasks": 4}},
            "backbones": {"ar": {"url": "http://x", "paradigm": "ar"}, "dllm": {"url": "http://y", "paradigm": "diffusion"}},
            "agents": agents,
            "run": {"benchmarks": ["babyai", "multihop_qa"], "agents": list(agents)},
        }
    )
    calls = {"hot": 2, "plain": 2, "sure": 6, "sure-dllm": 6, "maker": 9}
    for agent in ("hot", "plain", "sure", "sure-dllm", "maker"):
        noted = {"policy.calls": calls[agent], "samples": 9.0, "tool_seconds": 1.5}
        rows = [
            score(agent, "multihop_qa", "x", n, success=n < 2 + (agent == "sure"), measures=noted | ({} if n else {"seeker_turns": 3.0}))
            for n in range(4)
        ]
        write_frame(tmp_path / f"scores/multihop_qa/{agent}.parquet", rows, Score)
    attacks = {"search_result_attacked": 2.0, "search_result_hijacked": 1.0, "search_result_unmoved": 0.0}
    rows = [score("threats", "multihop_qa", "x", n, success=False, measures=attacks) for n in range(4)]
    write_frame(tmp_path / "scores/multihop_qa/threats.parquet", rows, Score)
    return Inputs(config, tmp_path)


def value(table, agent, metric, rows=None, **keys):
    chosen = [row for row in (rows or table.rows) if (row.agent, row.metric) == (agent, metric)]
    return next(row.value for row in chosen if all(getattr(row, key) == item for key, item in keys.items()))


def test_workflows_have_their_success_costs_and_counts_by_paradigm(inputs, tmp_path):
    table = make("workflows", inputs)
    of = {"benchmark": "multihop_qa"}
    assert value(table, "sure", "success_rate", **of) == 75 and value(table, "sure", "calls_per_episode", **of) == 6
    tokens = [row for row in table.rows if row.metric == "tokens_per_success" and row.agent == "sure"]
    frame = inputs.rows("sure", "multihop_qa")
    spent = float((frame["prompt_tokens"] + frame["completion_tokens"]).sum())
    assert tokens[-1].value == pytest.approx(spent / 3)
    assert value(table, "sure", "forwards_per_success", **of) == pytest.approx(float(frame["nfe"].sum()) / 3)
    difference = next(row for row in table.rows if row.metric == "success_difference" and row.agent == "sure" and row.n)
    assert difference.value == 25 and difference.category == "against plain" and value(table, "sure", "samples", **of) == 9
    assert value(table, "sure", "tool_seconds", table.timing, **of) == 1.5 and not any(row.metric.endswith("seconds") for row in table.rows)
    labels = [line.label for block in table.layout.blocks for line in block.lines]
    assert (
        "sure (sure)" in labels
        and "maker, ahead 2 (maker)" in labels
        and not any("module" in label or "threats" in label for label in labels)
    )
    compared = {row.agent for row in table.rows if row.metric == "success_difference"}
    assert not compared & {"hot", "plain"} and "sure" in compared  # two decodings of one workflow do not differ by workflow
    turns = next(row for row in table.rows + table.timing if row.metric == "seeker_turns" and row.agent == "sure")
    assert (turns.n, turns.value) == (1, 3.0)  # of the one episode that has a seeker
    paths = [path.name for path in tabulate("workflows", inputs.config, inputs.results, tmp_path / "w")]
    assert "w_timing.csv" in paths


def test_paradigms_are_compared_in_the_same_workflow_and_attacks_are_no_tasks(inputs):
    assert [pair for pair in matched_pairs(inputs) if pair[2] == "multihop_qa"] == [("sure-dllm", "sure", "multihop_qa")]
    babyai = {first for _, first, name in matched_pairs(inputs) if name == "babyai"}
    assert babyai == {"plain", "sure"}  # where neither searches
    assert not any(row.agent == "threats" for name in ("dllm_agent_efficiency", "searcher_table1") for row in make(name, inputs).rows)


def test_security_counts_attacks_by_place_and_leaves_out_what_was_not_made(inputs):
    table = make("security", inputs)
    attacks = [row for row in table.rows if row.metric == "attack_success"]
    assert [(row.agent, row.category, row.n, row.value) for row in attacks] == [("threats", "search_result", 8, 50.0)]
    (line,) = table.layout.blocks[0].lines
    assert line.cells[0] == "ar" and line.cells[4] == "" and value(table, "threats", "unmoved") == 0


def test_a_run_without_such_agents_says_so(tmp_path):
    config = Config.model_validate({"run": {"benchmarks": ["babyai"], "agents": []}})
    for name in ("workflows", "security"):
        table = make(name, Inputs(config, tmp_path))
        assert table.rows[0].value is None and table.layout.blocks[0].lines[0].cells[-1] == "not run"
