"""The tables `workflows` and `security`, from scores by hand."""

import pytest
from synthetic_run import score

from dllm_agents.config import Config
from dllm_agents.frames import write_frame
from dllm_agents.records import Score
from dllm_agents.reporting import workflows
from dllm_agents.reporting.comparison import matched_pairs
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.tables import make, tabulate
from dllm_agents.reporting.workflows import findings


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


TASKS = 24
LEADS = {"m1": (1, 12), "m2": (2, 18), "m3": (3, 22)}
"""MAKER agent -> its lead, and how many of the tasks it solves."""


@pytest.fixture
def shown(tmp_path):
    """A run of which the papers' claims hold: function (agent -> fields of its scores that differ) -> the sentences."""
    agents = {
        "plain": {"policy": "ar", "concurrency": 1},
        **{agent: {"policy": "ar", "workflow": "maker", "options": {"ahead": lead}} for agent, (lead, _) in LEADS.items()},
        "auto": {"policy": "ar", "workflow": "autotool"},
        "dllm": {"policy": "dllm", "concurrency": 1},
        "fast": {"policy": "dllm", "acting": "p_react", "concurrency": 1},
        "compiled": {"policy": "ar", "workflow": "llm_compiler", "concurrency": 1},
    }
    backbones = {"ar": {"url": "http://x", "paradigm": "ar"}, "dllm": {"url": "http://y", "paradigm": "diffusion"}}
    names = ["babyai", "multihop_qa"]
    config = Config.model_validate(
        {
            "benchmarks": {"multihop_qa": {"tool_delay": 0.5}},
            "backbones": backbones,
            "agents": agents,
            "run": {"benchmarks": names, "agents": list(agents)},
            "report": {"margin": 20.0},
        }
    )
    known = {agent: {"right": right, "samples": 4.0 * lead} for agent, (lead, right) in LEADS.items()}
    known |= {"plain": {"calls": 8.0}, "auto": {"calls": 6.0, "threshold": 0.55}, "fast": {"seconds": 3.0}, "dllm": {"seconds": 4.0}}
    known |= {"compiled": {"seconds": 3.0, "tool_seconds": 0.5, "in_turn_tool_seconds": 1.0}}

    def sentences(**changes):
        inputs = Inputs(config, tmp_path)
        for agent in agents:
            said = {"right": 20, "calls": 4.0, "seconds": 4.0} | known.get(agent, {}) | changes.get(agent, {})
            noted = {"policy.calls": said["calls"]} | {
                key: value for key, value in said.items() if key not in ("right", "calls", "seconds")
            }
            for name in config.agent_benchmarks(agent):
                rows = [
                    score(agent, name, "x", n, success=n < said["right"], seconds=said["seconds"] + n / 99, measures=noted)
                    for n in range(TASKS)
                ]
                write_frame(tmp_path / f"scores/{name}/{agent}.parquet", rows, Score)
        return "\n".join(findings(inputs))

    return sentences


def test_the_table_says_what_holds_of_each_workflow(shown, monkeypatch):
    monkeypatch.setattr(workflows, "unequal_load", lambda agents, inputs, benchmark: "")
    maker, auto, compiled, fast = shown().splitlines()
    assert maker.startswith(
        "MAKER with ar, votes ahead by 1, 2, 3: 50.0, 75.0, 91.7 % with 4.0, 8.0, 12.0 samples, from first to last 41.7 ["
    )
    assert maker.endswith("success rises with samples.")
    assert (
        "(auto), at a threshold of 0.55" in auto
        and "saves 25.0 % [25.0, 25.0] of calls, success 0.0 [" in auto
        and "points: at least 20" in auto
    )
    assert auto.endswith("no loss beyond 20.0 points.")
    assert (
        compiled.startswith("compiled takes x 0.76 [")
        and "searches of 0.5 s: time is saved; its searches took 0.50 s, in turn 1.00" in compiled
    )
    assert fast.startswith("fast takes x 0.76 [") and " of dllm's time over the 20 questions" in fast and fast.endswith("time is saved.")


def test_the_table_says_what_does_not(shown, monkeypatch):
    monkeypatch.setattr(workflows, "unequal_load", lambda agents, inputs, benchmark: "")
    maker, auto, compiled, fast = shown(
        m3={"right": 12}, auto={"calls": 7.0, "right": 15}, compiled={"seconds": 5.0}, fast={"seconds": 4.0}
    ).splitlines()
    assert maker.endswith("that success rises with samples is not shown.")
    assert "not at least 20 %, not shown to be without a loss beyond 20.0 points" in auto
    assert "that time is saved is not shown" in compiled and "that time is saved is not shown" in fast
    monkeypatch.setattr(workflows, "unequal_load", lambda agents, inputs, benchmark: "they ran at different concurrencies")
    assert "not comparable, since they ran at different concurrencies" in shown().splitlines()[-1]


def test_a_run_without_such_agents_says_so(tmp_path):
    config = Config.model_validate({"run": {"benchmarks": ["babyai"], "agents": []}})
    for name in ("workflows", "security"):
        table = make(name, Inputs(config, tmp_path))
        assert table.rows[0].value is None and table.layout.blocks[0].lines[0].cells[-1] == "not run"
