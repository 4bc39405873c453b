"""Tables and figures of the workflows beside the plain ones: search, planner, modules, verifiers, traces, from their episodes."""

import csv

import pytest
from drawn import draw, text_inside_and_apart
from workflow_run import QUESTIONS, configuration, write_run

from dllm_agents.records import TracedCall
from dllm_agents.reporting.diffuagent_figures import replays
from dllm_agents.reporting.dllm_searcher import regions
from dllm_agents.reporting.dllm_searcher_figures import call_first_pairs, savings
from dllm_agents.reporting.figures import plot
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.tables import tabulate

TABLES = ("diffuagent_table4", "diffuagent_table5", "searcher_table2", "searcher_table3", "searcher_case_study", "dllm_agent_planning")
NEW_FIGURES = ("diffuagent_figure6", "diffuagent_figure7", "searcher_figure3", "searcher_figure4", "efficiency_roofline")


@pytest.fixture(scope="session")
def played(tmp_path_factory):
    """The results folder of the run; do not write to it."""
    return write_run(tmp_path_factory.mktemp("workflows"))


@pytest.fixture(scope="module")
def made(played, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    for name in TABLES:
        tabulate(name, configuration(), played, folder / name)
    return folder


def rows(path, **wanted):
    with open(path, newline="") as handle:
        return [row for row in csv.DictReader(handle) if all(row[key] == value for key, value in wanted.items())]


def one(path, **wanted):
    found = rows(path, **wanted)
    assert len(found) == 1, (wanted, len(found))
    return found[0]


def test_example_trajectories_come_from_an_episode_of_the_run(made):
    text = (made / "diffuagent_table4.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| BabyAI"))
    assert f"| {QUESTIONS} | 112 | ar | Task: question 0" in line and "T: thought 1 A: ar 1 O: seen 1" in line
    assert "<script>" not in text and "| ALFWorld | not run | 134 | not run | not run |" in text
    assert one(made / "diffuagent_table4.csv", agent="this run", benchmark="babyai")["value"] == str(QUESTIONS)


def test_examples_link_to_their_very_episode(made):
    link = "../episodes.html#task=babyai%2FGoToObj%2F0&amp;agent=ar&amp;benchmark=babyai"
    row = next(line for line in (made / "diffuagent_table4.html").read_text().splitlines() if "<td>BabyAI</td>" in line)
    assert row.count(f'<a href="{link}">') == 2 and f"<td>{QUESTIONS}</td>" in row  # agent and trajectory, not the number of tasks
    calls = (made / "diffuagent_table5.html").read_text()
    assert 'href="../episodes.html#task=bfcl%2Flive_parallel%2F0&amp;agent=ar&amp;benchmark=bfcl"' in calls


def test_bfcl_make_up_counts_its_entries_and_shows_a_solved_call(made):
    row = one(made / "diffuagent_table5.csv", agent="this run", category="live_parallel")
    assert (row["n"], row["value"], row["published"]) == ("16", "3", "16")
    text = (made / "diffuagent_table5.md").read_text()
    assert "| 3 | 50 (400) | ar | U: question 0 \\<script\\> T: f, g TC: \\[f(x=1)\\] |" in text
    assert "| multi\\_turn\\_base | not run | 50 (200) | not run | not run |" in text


@pytest.mark.parametrize("objective, stage", [("agentic_vrpo", "SFT + VRPO"), ("just_grpo", "SFT + JustGRPO")])
def test_preference_training_is_compared_with_its_own_sft_model(played, tmp_path, objective, stage):
    config = configuration()
    config.backbones["vrpo"].training.objective = objective
    tabulate("searcher_table2", config, played, tmp_path / "t")
    gain = one(tmp_path / "t.csv", agent="vrpo", benchmark="babyai", metric="success_difference")
    assert (float(gain["value"]), gain["n"]) == (25.0, str(QUESTIONS))  # 9 against 6 of 12
    assert float(one(tmp_path / "t.csv", agent="block", benchmark="babyai", metric="success_rate")["value"]) == 50.0
    text = (tmp_path / "t.md").read_text()
    assert "ready (vanilla)" in text and "60.4 (+3.2)" in text and f"vrpo ({stage})" in text


def test_format_failures_are_shares_of_questions(made):
    row = one(made / "searcher_table3.csv", agent="ready", category="no tool_call")
    assert (row["n"], float(row["value"])) == (str(QUESTIONS), 100.0)
    assert float(one(made / "searcher_table3.csv", agent="block", category="none")["value"]) == 100.0
    assert float(one(made / "searcher_table3.csv", agent="SDAR", category="empty output")["published"]) == 31.2


def test_the_case_study_shows_which_tokens_stand(made):
    text = (made / "searcher_case_study.md").read_text()
    assert "| 32 of 45 | " + "\\<think\\>" + "▒" * 4 in text.replace("▒▒▒▒ ", "▒▒▒▒")
    shares = one(made / "searcher_case_study.csv", agent="parallel", metric="settled_at_step_32", category="tool_call")
    thought = one(made / "searcher_case_study.csv", agent="parallel", metric="settled_at_step_32", category="think")
    assert (float(shares["value"]), float(thought["value"])) == (100.0, 20.0)
    when = {row["agent"]: float(row["value"]) for row in rows(made / "searcher_case_study.csv", metric="settled_when_call_is_complete")}
    assert when == {"block": 100.0, "ready": 100.0, "parallel": 20.0}


def test_regions_follow_the_tags_even_inside_tokens():
    call = TracedCall(role="r", seed=1, reveal_step=[0, 1, 2, 3], tokens=["<thi", "nk>a</think> <tool", "_call>x", "</tool_call>"])
    assert [(part.kind, part.first, part.last) for part in regions(call)] == [("think", 0, 0), ("tool_call", 1, 3)]
    assert regions(TracedCall(role="r", seed=1, reveal_step=[0])) == []


def test_plans_are_judged_by_the_measures_of_their_episodes(made):
    found = {row["metric"]: row for row in rows(made / "dllm_agent_planning.csv", agent="team")}
    assert {name: float(row["value"]) for name, row in found.items()} == {
        **{"acc_r": pytest.approx(100 / 3, rel=1e-5), "planner_hit_rate": 50.0, "hop_recall": 75.0, "full_coverage": 50.0},
        **{"first_full_coverage_round": 1.0, "backtracks_per_question": 1.0, "rounds": 2.0, "tool_calls": 3.0},
    }
    assert (found["rounds"]["n"], found["first_full_coverage_round"]["n"]) == ("4", "6")


def test_verifiers_are_compared_per_prompt(played):
    shown = {(replay.verifier, replay.prompt): replay.rows for replay in replays(Inputs(configuration(), played))}
    strict = shown["block", "strict"]
    assert strict["redundant_steps_saved"].value == 1.5 and strict["progress_lost"].value == 25.0
    assert strict["early_exits"].value == 50.0 and shown["ar", "modest"]["early_exits"].value == 0.0


def test_the_saving_of_p_react_is_split_into_its_parts(played):
    (saving,) = savings(Inputs(configuration(), played))
    assert (saving.parallel, saving.sequential, saving.n) == ("parallel", "block", QUESTIONS)
    assert saving.reduction == pytest.approx(100 / 3) and saving.saved == pytest.approx(1.0)
    assert (saving.overlap, saving.decoding, saving.tool) == pytest.approx((0.8, 0.5, 0.5))


def test_calling_first_is_paired_with_the_same_weights(played):
    inputs = Inputs(configuration(), played)
    assert call_first_pairs(inputs, "tool_first") == [("first", "ar")]
    assert call_first_pairs(inputs, "p_react") == [("parallel", "block")]
    tagged = inputs.config.agents["block"].model_copy(update={"dialect": "search_r1"})
    inputs.config.agents["tagged"] = tagged
    inputs.config.run.agents.insert(0, "tagged")
    assert call_first_pairs(inputs, "p_react") == [("parallel", "block")]  # not with one that speaks in other tags


@pytest.mark.parametrize("name", NEW_FIGURES)
def test_figures_are_the_same_bytes_twice_and_hold_their_text(played, tmp_path, name, monkeypatch):
    config = configuration(style={name: {"dpi": 100}})
    first = [path.read_bytes() for path in plot(name, config, played, tmp_path / "a")]
    assert first == [path.read_bytes() for path in plot(name, config, played, tmp_path / "b")]
    figure = draw(name, Inputs(configuration(), played))
    assert text_inside_and_apart(figure, monkeypatch) > 8


@pytest.mark.parametrize("name", [*TABLES, *NEW_FIGURES])
def test_a_run_without_them_says_not_run(tmp_path, name):
    from matplotlib.text import Text

    if name in TABLES:
        tabulate(name, configuration(), tmp_path / "none", tmp_path / name)
        assert {row["value"] for row in rows(tmp_path / f"{name}.csv")} == {"not run"}
        assert "not run" in (tmp_path / f"{name}.md").read_text()
    else:
        figure = draw(name, Inputs(configuration(), tmp_path))
        assert any("not run" in text.get_text() for text in figure.findobj(Text))
