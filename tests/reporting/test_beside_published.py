"""Our rows beside the published ones: averages, twins, and who stands in which table, at paper scale's agents with scores of ours."""

import csv

import pytest
from drawn import draw
from synthetic_run import LEVELS, score

from dllm_agents.config import BFCL_MULTI_TURN, BFCL_SINGLE_TURN, Agent, Config
from dllm_agents.frames import write_frame
from dllm_agents.records import Score, TableRow
from dllm_agents.reporting import published
from dllm_agents.reporting.cells import bare
from dllm_agents.reporting.diffuagent_figures import _speed
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.tables import make, tabulate

SDAR = "JetLM/SDAR-8B-Chat-b64"
SETS = ("hotpotqa", "2wiki", "bamboogle", "musique")


@pytest.fixture
def config() -> Config:
    trained = {"training": {"objective": "block_diffusion", "base": SDAR}}
    further = {"training": {"objective": "agentic_vrpo", "base": "sft"}}
    prefill = {"tool_prefill": {"open": 3, "close": 9}}
    return Config.model_validate(
        {
            "benchmarks": {"multihop_qa": {"sets": dict.fromkeys(SETS, "x.jsonl")}},
            "backbones": {
                "qwen": {"model": "Qwen/Qwen3-8B"},
                "llada": {"model": "GSAI-ML/LLaDA-8B-Instruct", "decoding": {"strategy": "llada"}},
                "sdar": {"model": SDAR, "decoding": {"strategy": "sdar"}},
                "sft": trained,
                "vrpo": further,
            },
            "agents": {
                "qwen": {"policy": "qwen", "benchmarks": ["babyai", "bfcl"]},
                "qwen-recent": {"policy": "qwen", "history": "recent", "benchmarks": ["babyai"]},
                "qwen-llada": {"policy": "qwen", "memory": {"backbone": "llada"}, "benchmarks": ["babyai"]},
                "qwen-selector": {"policy": "qwen", "selector": {"backbone": "llada"}, "benchmarks": ["bfcl"]},
                "sdar": {"policy": "sdar", "benchmarks": ["multihop_qa"]},
                "sft": {"policy": "sft", "acting": "p_react", "decoding": prefill, "benchmarks": ["multihop_qa"]},
                "vrpo": {"policy": "vrpo", "acting": "p_react", "decoding": prefill, "benchmarks": ["multihop_qa"]},
                "vrpo-react": {"policy": "vrpo", "benchmarks": ["multihop_qa"]},
            },
            "run": {
                "benchmarks": ["babyai", "bfcl", "multihop_qa"],
                "agents": ["qwen", "qwen-recent", "qwen-llada", "qwen-selector", "sdar", "sft", "vrpo", "vrpo-react"],
            },
        }
    )


@pytest.fixture
def inputs(config, tmp_path) -> Inputs:
    for agent in config.run.agents:
        for benchmark in config.agent_benchmarks(agent):
            cells = {
                "babyai": [(level, n) for level in LEVELS for n in range(4)],
                "bfcl": [(category, n) for category in BFCL_SINGLE_TURN + BFCL_MULTI_TURN for n in range(2)],
                # Sets of different sizes: an average over questions is not the average over sets.
                "multihop_qa": [(name, n) for size, name in zip((8, 4, 4, 4), SETS, strict=True) for n in range(size)],
            }[benchmark]
            solves = {"hotpotqa": 1.0, "musique": 0.0}
            rows = [
                score(
                    agent, benchmark, category, n, success=n % 4 < 4 * solves.get(category, 0.5), judge="correct" if n % 2 else "incorrect"
                )
                for category, n in cells
            ]
            write_frame(tmp_path / f"scores/{benchmark}/{agent}.parquet", rows, Score)
    return Inputs(config, tmp_path)


def row(table, **values):
    rows = [row for row in table.rows if all(getattr(row, key) == value for key, value in values.items())]
    assert len(rows) == 1, (values, len(rows))
    return rows[0]


def test_the_average_of_our_search_agents_is_the_mean_of_four_sets(inputs):
    table = make("searcher_table1", inputs)
    average = row(table, agent="sdar", category="average", metric="acc_r")
    assert (average.value, average.n) == (50.0, 20) and average.low < 50 < average.high  # (100 + 50 + 50 + 0) / 4, not 12 of 20
    assert row(table, agent="sdar", category="average", metric="acc_l").value == 50.0
    (inputs.results / "scores/multihop_qa/sdar.parquet").unlink()
    assert (
        row(make("searcher_table1", Inputs(inputs.config, inputs.results)), agent="sdar", category="average", metric="acc_r").value is None
    )


def test_agents_that_see_recent_steps_alone_stand_in_table_3_only(inputs):
    assert inputs.alone("qwen") and not inputs.alone("qwen-recent")
    assert not [row for row in make("diffuagent_table1", inputs).rows if row.agent == "qwen-recent"]
    recent = row(make("diffuagent_table3", inputs), agent="qwen-recent", benchmark="babyai", metric="success_rate")
    assert recent.published == 28.6, "that of Table 3 without memory, not of Table 1"


def test_figure_7_has_a_bar_of_the_agent_alone(inputs):
    axis = draw("diffuagent_figure7", inputs).axes[0]
    place = [text.get_text() for text in axis.get_yticklabels()].index("qwen alone")
    notes = [text.get_text() for text in axis.texts if abs(text.get_position()[1] - axis.get_yticks()[place]) < 0.01]
    assert notes == ["100.0"]


def test_published_numbers_stand_beside_ours_in_tables_3_and_6(inputs):
    memory = row(make("diffuagent_table3", inputs), agent="qwen-llada", benchmark="babyai", metric="progress_rate")
    theirs = [
        value
        for value in published.values("diffuagent_table3")
        if value.agent == "Qwen-8B" and value.modules == {"memory": "Llada-8B"} and value.metric == "progress_rate"
    ]
    assert memory.published == next(value.value for value in theirs if value.benchmark == "babyai")
    table = make("diffuagent_table6", inputs)
    selector = row(table, agent="qwen-selector", category="selector=llada;multi_turn")
    alone = row(table, agent="qwen", category="multi_turn")
    assert (selector.published, alone.published) == (12.5, 12.5)


def test_published_numbers_stand_beside_ours_in_the_searcher_tables(inputs):
    assert [published.searcher_name(inputs.config, agent) for agent in ("sdar", "sft", "vrpo", "vrpo-react", "qwen")] == [
        *("SDAR", "SFT", "DLLM-Searcher"),
        *(None, None),
    ]
    table = make("searcher_table1", inputs)
    assert row(table, agent="vrpo", category="hotpotqa", metric="acc_r").published == 60.4
    assert row(table, agent="vrpo", category="average", metric="acc_l").published == 56.6
    stages = make("searcher_table2", inputs)
    assert row(stages, agent="sft", category="SFT;hotpotqa", metric="acc_r").published == 57.2
    assert row(stages, agent="vrpo", category="SFT + VRPO;hotpotqa", metric="acc_r").published == 60.4
    assert [row.agent for row in stages.rows if row.category == "vanilla"] == ["sdar"]


def test_what_the_paper_leaves_out_reads_as_it_prints(inputs, tmp_path):
    path = tabulate("searcher_table1", inputs.config, tmp_path, tmp_path / "t")[1]
    line = next(line for line in path.read_text().splitlines() if line.startswith("| SDAR"))
    assert line.count("| / ") == 10


def test_a_row_of_preference_training_has_its_success_and_its_gain(inputs):
    line = next(line for block in make("searcher_table2", inputs).layout.blocks for line in block.lines if line.label.startswith("vrpo"))
    assert line.cells[-1].text == "60.0 (+0.0 [-16.8, 16.8])"


def test_throughput_of_figure_1_is_that_on_the_tasks(inputs):
    assert _speed(inputs, "qwen", ["babyai"]) == 20 / 0.25
    assert _speed(inputs, "qwen", ["alfworld"]) is None


def test_word_cover_stands_beside_containment(inputs):
    rows = [score("sdar", "multihop_qa", name, n, measures={"acc_r_words": float(n == 0)}) for name in SETS for n in range(4)]
    write_frame(inputs.results / "scores/multihop_qa/sdar.parquet", rows, Score)
    with open(tabulate("searcher_table1", inputs.config, inputs.results, inputs.results / "t")[0], newline="") as handle:
        words = [row for row in csv.DictReader(handle) if row["metric"] == "acc_r_words" and row["category"] == "2wiki"]
    assert [(row["agent"], row["value"]) for row in words] == [("sdar", "25")]


def test_the_systems_of_table_1_stand_as_the_run_plays_them_by_paradigm(config, tmp_path):
    config.backbones["qwen"].paradigm = "ar"
    config.agents["sure-ar"] = Agent(policy="qwen", workflow="sure", benchmarks=["multihop_qa"])
    config.agents["sure-dllm"] = Agent(policy="sdar", workflow="sure", benchmarks=["multihop_qa"])
    config.agents["r1"] = Agent(policy="qwen", dialect="search_r1", benchmarks=["multihop_qa"])
    config.run.agents += ["sure-ar", "sure-dllm", "r1"]
    for agent, solved in (("sure-ar", 3), ("sure-dllm", 1)):
        rows = [score(agent, "multihop_qa", "hotpotqa", n, success=n < solved) for n in range(4)]
        write_frame(tmp_path / f"scores/multihop_qa/{agent}.parquet", rows, Score)
    table = make("searcher_table1", Inputs(config, tmp_path))
    assert [group for group, _ in table.layout.columns[-4:]] == ["AR here", "AR here", "dLLM here", "dLLM here"]
    shown = {line.label: line.cells[-4:] for line in table.layout.blocks[0].lines}
    lines = {name: [bare(cell) if isinstance(cell, TableRow) else cell for cell in cells] for name, cells in shown.items()}
    assert lines["SuRe"][0] == "75.0" and lines["SuRe"][2] == "25.0" and lines["IRCoT"] == ["not run"] * 4
    assert lines["ReARTeR"] == lines["CR-Planner"] == ["not run: critics not public"] * 4 and lines["LLaDA"] == [""] * 4
    assert row(table, agent="sure-ar", category="hotpotqa", metric="acc_r").published == 32.4
    assert row(table, agent="r1", category="hotpotqa", metric="acc_r").published == 49.6
    assert set(published.SYSTEMS.values()) | set(published.absent("searcher_table1")) <= {
        value.agent for value in published.values("searcher_table1")
    }
