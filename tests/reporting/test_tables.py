"""Tables from a synthetic run: tidy rows, the paper's layout, "not run" exactly where scores are missing, equal bytes."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from synthetic_run import LEVELS, configuration, score

from dllm_agents.catalogue import FIGURES, TABLES
from dllm_agents.config import Editor, Memory
from dllm_agents.errors import StageError
from dllm_agents.frames import read_frame, write_frame
from dllm_agents.records import Score, TableRow
from dllm_agents.reporting.cells import Rows
from dllm_agents.reporting.comparison import family_name, seed_families
from dllm_agents.reporting.failures import FIGURE4_SETS
from dllm_agents.reporting.inputs import Inputs, check_scores
from dllm_agents.reporting.layout import Block, Layout, Line, Text, to_csv, to_html, to_latex, to_markdown
from dllm_agents.reporting.tables import function, tabulate

COLUMNS = ["agent", "benchmark", "category", "metric", "n", "value", "low", "high", "published"]


def rows(path):
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


def find(rows, **values):
    matching = [row for row in rows if all(row[key] == value for key, value in values.items())]
    assert len(matching) == 1, (values, len(matching))
    return matching[0]


@pytest.fixture(scope="module")
def tables_folder(finished, tmp_path_factory):
    """Every table of the finished run."""
    folder = tmp_path_factory.mktemp("tables")
    for name in TABLES:
        tabulate(name, configuration(), finished, folder / name)
    return folder


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_table_has_tidy_csv_markdown_and_booktabs(tables_folder, name):
    with open(tables_folder / f"{name}.csv", newline="") as handle:
        assert csv.DictReader(handle).fieldnames == COLUMNS
    records = rows(tables_folder / f"{name}.csv")
    assert records and all(row["value"] for row in records)
    markdown = (tables_folder / f"{name}.md").read_text().splitlines()
    table = [line for line in markdown if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in table}) == 1
    latex = (tables_folder / f"{name}.tex").read_text()
    assert all(word in latex for word in ("\\toprule", "\\midrule", "\\bottomrule", f"\\label{{tab:{name}}}"))
    assert latex.count("{") == latex.count("}")


@pytest.mark.parametrize("name", sorted(set(TABLES) - {"serving"}))
def test_rates_are_percentages_inside_their_intervals(tables_folder, name):
    for row in rows(tables_folder / f"{name}.csv"):
        if row["value"] != "not run" and row["low"]:
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"]), row
            assert (
                name in ("dllm_agent_efficiency", "workflows")
                or row["metric"] in ("loops_per_episode", "steps")
                or abs(float(row["value"])) <= 100
            )


def test_a_mean_over_what_a_server_did_not_count_is_unknown():
    row = Rows("a", "babyai", 42).mean("forwards_per_episode", [1.0, float("nan")])
    assert row.value is None and (row.n, row.missing) == (2, "unknown")


def test_every_table_and_figure_of_the_catalogue_has_its_function():
    for entry in (*TABLES.values(), *FIGURES.values()):
        assert function(entry).__doc__, entry.name


def test_success_and_progress_are_those_of_the_scores(tables_folder, finished):
    frame = pd.read_parquet(finished / "scores/babyai/tiny-ar.parquet")
    records = rows(tables_folder / "diffuagent_table1.csv")
    success = find(records, agent="tiny-ar", benchmark="babyai", metric="success_rate")
    progress = find(records, agent="tiny-ar", benchmark="babyai", metric="progress_rate")
    assert (int(success["n"]), float(success["value"])) == (96, pytest.approx(100 * frame["success"].mean(), rel=1e-5))
    assert float(progress["value"]) == pytest.approx(100 * frame["progress"].mean(), rel=1e-5)


def test_published_rows_are_there_whatever_was_run(tables_folder):
    records = rows(tables_folder / "diffuagent_table1.csv")
    qwen = find(records, agent="Qwen-8B", benchmark="alfworld", metric="success_rate")
    assert (qwen["value"], qwen["published"], qwen["n"]) == ("not run", "76.1", "134")
    assert "| Qwen-8B | 134 | 76.1 | 85.6 |" in (tables_folder / "diffuagent_table1.md").read_text()


def test_baselines_stand_in_every_results_table(tables_folder):
    for name in ("diffuagent_table1", "diffuagent_table2"):
        assert {"random", "empty", "teacher"} <= {row["agent"] for row in rows(tables_folder / f"{name}.csv")}


def test_benchmarks_outside_the_run_and_their_average_are_not_run(tables_folder):
    records = rows(tables_folder / "diffuagent_table1.csv")
    for benchmark in ("alfworld", "scienceworld", "average"):
        row = find(records, agent="tiny-ar", benchmark=benchmark, metric="success_rate")
        assert (row["value"], row["n"], row["low"]) == ("not run", "0", "")


def test_captions_state_how_the_run_differs_from_the_paper(tables_folder):
    text = (tables_folder / "diffuagent_table1.md").read_text()
    assert "not the published 112 tasks" in text and "at most 8 steps" in text and "GoToRedBall" in text


def test_an_unbroken_row_of_zeros_still_has_an_interval(tables_folder):
    row = find(rows(tables_folder / "diffuagent_table2.csv"), agent="empty", category="overall")
    assert (float(row["value"]), float(row["low"])) == (0, 0) and float(row["high"]) > 1


@pytest.mark.parametrize("name", ["diffuagent_table1", "diffuagent_table2", "failures", "dllm_agent_efficiency", "dllm_agent_tool_errors"])
def test_missing_scores_make_exactly_their_cells_not_run(tables_folder, finished, tmp_path, name):
    results = tmp_path / "results"
    shutil.copytree(finished, results)
    for kind in ("scores", "failures"):
        for benchmark in ("babyai", "bfcl"):
            (results / kind / benchmark / "tiny-block.parquet").unlink()
    tabulate(name, configuration(), results, tmp_path / name)
    before = {tuple(row[key] for key in COLUMNS[:4]): row["value"] for row in rows(tables_folder / f"{name}.csv")}
    after = {tuple(row[key] for key in COLUMNS[:4]): row["value"] for row in rows(tmp_path / f"{name}.csv")}
    assert {key: value for key, value in after.items() if key[0] != "tiny-block"} == {
        k: v for k, v in before.items() if k[0] != "tiny-block"
    }
    assert {value for key, value in after.items() if key[0] == "tiny-block"} == {"not run"}


def test_a_missing_probe_makes_exactly_its_cells_not_run(tables_folder, finished, tmp_path):
    shutil.copytree(finished / "serving", tmp_path / "serving")
    (tmp_path / "serving/tiny-block.json").unlink()
    tabulate("serving", configuration(), tmp_path, tmp_path / "t")
    before, after = (
        [row for row in rows(path) if row["agent"] != "tiny-block"] for path in (tables_folder / "serving.csv", tmp_path / "t.csv")
    )
    assert before == after
    assert [row["value"] for row in rows(tmp_path / "t.csv") if row["agent"] == "tiny-block"] == ["not run"]


def test_a_run_without_any_score_has_published_rows_and_not_run(tmp_path):
    for name in TABLES:
        tabulate(name, configuration(), tmp_path / "none", tmp_path / name)
    assert {row["value"] for row in rows(tmp_path / "diffuagent_table2.csv")} == {"not run"}


def test_an_average_needs_all_of_its_categories(finished, tmp_path):
    frame = read_frame(finished / "scores/bfcl/tiny-ar.parquet", Score)
    kept = [Score.model_validate(row) for row in frame.replace({float("nan"): None}).to_dict("records") if row["category"] != "javascript"]
    write_frame(tmp_path / "scores/bfcl/tiny-ar.parquet", kept, Score)
    tabulate("diffuagent_table2", configuration(), tmp_path, tmp_path / "t")
    value = {row["category"]: row["value"] for row in rows(tmp_path / "t.csv") if row["agent"] == "tiny-ar"}
    assert (value["non_live"], value["overall"]) == ("not run", "not run")
    assert float(value["live"]) > 0


def test_a_run_of_all_categories_fills_every_column_of_table_2(tables_folder):
    records = {row["category"]: row for row in rows(tables_folder / "diffuagent_table2.csv") if row["agent"] == "tiny-ar"}
    assert len(records) == 13 and all(row["value"] != "not run" for row in records.values())
    assert (records["overall"]["n"], records["multi_turn_standard"]["n"]) == ("136", "8")


def test_equal_inputs_give_equal_bytes(tables_folder, finished, tmp_path):
    for name in TABLES:
        for path in tabulate(name, configuration(), finished, tmp_path / name):
            assert path.read_bytes() == (tables_folder / path.name).read_bytes(), path.name


def test_wall_clock_stands_apart(tables_folder):
    for path in tables_folder.glob("*.csv"):
        timed = path.stem.endswith("_timing") or path.stem == "serving"
        assert any("seconds" in row["metric"] or "_s" in row["metric"][-2:] for row in rows(path)) == timed, path.name


def test_comparisons_are_paired_exact_and_corrected(tables_folder, finished):
    records = rows(tables_folder / "comparisons.csv")
    values = {"agent": "tiny-ar", "benchmark": "babyai", "category": "against random"}
    first = pd.read_parquet(finished / "scores/babyai/tiny-ar.parquet").set_index("task_id")["success"]
    second = pd.read_parquet(finished / "scores/babyai/random.parquet").set_index("task_id")["success"].reindex(first.index)
    gained, lost = int((first & ~second).sum()), int((~first & second).sum())
    from scipy.stats import binomtest

    assert float(find(records, **values, metric="only_first_solves")["value"]) == gained
    assert float(find(records, **values, metric="mcnemar_p")["value"]) == pytest.approx(binomtest(gained, gained + lost).pvalue, rel=1e-4)
    assert float(find(records, **values, metric="holm_p")["value"]) >= float(find(records, **values, metric="mcnemar_p")["value"])
    pairs = {(row["agent"], row["category"]) for row in records}
    assert ("tiny-block", "against tiny-ar") in pairs
    assert ("tiny-block", "against smollm2-135m") not in pairs  # not matched: one is trained here, the other comes ready


def seeds_config():
    """AR and block diffusion at three seeds each; full diffusion at one."""
    config = configuration()
    config.backbones["tiny-full"].training.objective = "full_diffusion"
    for name in ("tiny-ar", "tiny-block"):
        backbone, agent = config.backbones.pop(name), config.agents.pop(name)
        config.run.agents.remove(name)
        for seed in (42, 43, 44):
            settings = backbone.training.model_copy(update={"seed": seed})
            config.backbones[f"{name}-{seed}"] = backbone.model_copy(update={"training": settings})
            config.agents[f"{name}-{seed}"] = agent.model_copy(update={"policy": f"{name}-{seed}"})
            config.run.agents.append(f"{name}-{seed}")
    return config


def test_agents_that_differ_by_training_seed_are_compared_together_with_seeds_as_clusters(tmp_path):
    config = seeds_config()
    for name, shares in {"tiny-ar": (0.5, 0.5, 0.5), "tiny-block": (0.25, 0.75, 1.0)}.items():
        for seed, share in zip((42, 43, 44), shares, strict=True):
            rows_ = [score(f"{name}-{seed}", "babyai", level, i, success=i < 24 * share) for level in LEVELS for i in range(24)]
            write_frame(tmp_path / f"scores/babyai/{name}-{seed}.parquet", rows_, Score)
    tabulate("comparisons", config, tmp_path, tmp_path / "t")
    values = {"agent": "tiny-block (3 seeds)", "category": "against tiny-ar (3 seeds)", "benchmark": "babyai"}
    together = find(rows(tmp_path / "t.csv"), **values, metric="success_difference")
    assert (int(together["n"]), float(together["value"])) == (288, pytest.approx(100 / 6, rel=1e-5))
    assert (float(together["low"]), float(together["high"])) == (-25.0, 50.0)  # three seeds: their extremes
    single = [row for row in rows(tmp_path / "t.csv") if row["agent"] == "tiny-block-44" and row["metric"] == "mcnemar_p"]
    largest = find(rows(tmp_path / "t.csv"), **values, metric="mcnemar_p")
    assert float(largest["value"]) >= max(float(row["value"]) for row in single if row["category"] == "against tiny-ar-44")
    assert not any("seeds" in row["agent"] and "tiny-full" in row["agent"] for row in rows(tmp_path / "t.csv"))


def test_agents_of_several_seeds_that_also_differ_otherwise_are_no_family():
    config = seeds_config()
    assert seed_families(Inputs(config, Path("none"))) == [[f"tiny-{kind}-{seed}" for seed in (42, 43, 44)] for kind in ("ar", "block")]
    config.agents["tiny-block-43"].attempts = 1
    config.backbones["tiny-ar-44"].training.layers = 2
    kinds = [["tiny-ar-42", "tiny-ar-43"], ["tiny-block-42", "tiny-block-44"]]
    assert seed_families(Inputs(config, Path("none"))) == kinds
    assert [family_name(kind) for kind in kinds] == ["tiny-ar (2 seeds)", "tiny-block (2 seeds)"]


def test_loops_are_counted_at_both_thresholds_and_the_hazard_covers_them(tables_folder, finished):
    frame = pd.read_parquet(finished / "failures/babyai/tiny-full.parquet")
    loops = frame[frame["kind"] == "loop"]
    records = rows(tables_folder / "failures.csv")
    values = {"agent": "tiny-full", "benchmark": "babyai", "metric": "episodes_with_loop"}
    at_least, more = (float(find(records, **values, category=category)["value"]) for category in ("at least 3", "more than 3"))
    assert at_least == pytest.approx(100 * loops["task_id"].nunique() / 96, rel=1e-5)
    assert more == pytest.approx(100 * loops[loops["count"] > 3]["task_id"].nunique() / 96, rel=1e-5)
    hazard = [row for row in records if row["agent"] == "tiny-full" and row["metric"] == "first_loop_hazard"]
    events = sum(round(float(row["value"]) * int(row["n"]) / 100) for row in hazard)
    assert events == loops["task_id"].nunique() and [row["category"] for row in hazard] == [f"step {step}" for step in range(3, 9)]


def test_agreement_with_the_checkers_is_counted_episode_by_episode(tables_folder, finished):
    records = [
        row for row in rows(tables_folder / "failures.csv") if row["agent"] == "tiny-full" and row["metric"] == "agreement_with_checker"
    ]
    frame = pd.read_parquet(finished / "failures/bfcl/tiny-full.parquet")
    frame = frame[frame["category"].isin(FIGURE4_SETS)]
    checker, ours = (frame[frame["source"] == source].set_index("task_id")["kind"] for source in ("checker", "beside checker"))
    n = 8 * len(FIGURE4_SETS)
    same_class = n - len(set(checker.items()) ^ set(ours.items()))
    malformed = n - (checker == "schema").sum() + (ours == "schema").sum()
    value = {row["category"]: (int(row["n"]), float(row["value"])) for row in records}
    assert value["class"] == (n, pytest.approx(100 * same_class / n, rel=1e-5)) and 20 < value["class"][1] < 95
    assert value["well formed"] == (n, pytest.approx(100 * malformed / n, rel=1e-5))
    refused = [task in checker.index for task in ours.index]
    assert value["refused by the rules"] == (len(refused), pytest.approx(100 * sum(refused) / len(refused), rel=1e-5))
    assert value["refused steps"] == (96, 100.0) and value["outcome"] == (96, 100.0)


def test_what_the_rules_alone_see_in_a_judged_answer_is_not_counted_as_a_failure(tables_folder, finished):
    frame = pd.read_parquet(finished / "failures/bfcl/tiny-full.parquet")
    frame = frame[frame["kind"] == "parameter_value"]
    values = {"agent": "tiny-full", "benchmark": "bfcl", "category": "parameter_value", "metric": "episodes_with_failure"}
    counted = float(find(rows(tables_folder / "failures.csv"), **values)["value"])
    assert counted == pytest.approx(100 * (frame["source"] == "checker").sum() / 136, rel=1e-5) and (frame["source"] != "checker").any()


def test_an_episode_the_environment_refused_and_no_rule_explains_is_disagreement(finished, tmp_path):
    shutil.copytree(finished / "failures", tmp_path / "failures")
    for benchmark in ("babyai", "bfcl"):
        frame = pd.read_parquet(finished / f"scores/{benchmark}/tiny-ar.parquet").assign(invalid_steps=1)
        (tmp_path / f"scores/{benchmark}").mkdir(parents=True)
        frame.to_parquet(tmp_path / f"scores/{benchmark}/tiny-ar.parquet")
    tabulate("failures", configuration(), tmp_path, tmp_path / "t")
    values = {"agent": "tiny-ar", "metric": "agreement_with_checker", "category": "refused steps"}
    assert find(rows(tmp_path / "t.csv"), **values)["value"] == "0"


def test_a_users_own_backbone_gains_a_row(finished, tmp_path):
    config = configuration()
    config.backbones["mine"] = config.backbones["smollm2-135m"].model_copy(update={"model": "Qwen/Qwen3-8B", "benchmarks": None})
    config.agents["mine"] = config.agents["tiny-ar"].model_copy(update={"policy": "mine"})
    config.run.agents.append("mine")
    scores = [score("mine", "babyai", level, seed, success=True, progress=1.0) for level in LEVELS for seed in range(24)]
    write_frame(tmp_path / "scores/babyai/mine.parquet", scores, Score)
    tabulate("diffuagent_table1", config, tmp_path, tmp_path / "t")
    row = find(rows(tmp_path / "t.csv"), agent="mine", benchmark="babyai", metric="success_rate")
    assert (row["value"], row["published"]) == ("100", "32.1")  # a published checkpoint stands beside its published value


def test_mixed_versions_are_refused_naming_both_unless_allowed(tmp_path):
    frame = pd.DataFrame([score("a", "babyai", "x", 1).model_dump(), score("b", "babyai", "x", 1, version="2").model_dump()])
    with pytest.raises(StageError, match="babyai was run at versions 1 and 2"):
        check_scores(frame)
    check_scores(frame, allow_mixed=True)
    packages = pd.DataFrame([score("a", "babyai", "x", 1).model_dump(), score("b", "babyai", "x", 1, package="0.2").model_dump()])
    with pytest.raises(StageError, match="dllm-agents 0.1.0 and 0.2"):
        check_scores(packages)
    from dllm_agents.reporting.captions import caption

    assert "MIXED VERSIONS" in caption(TABLES["diffuagent_table1"], configuration(allow_mixed_versions=True))


def test_duplicates_and_impossible_progress_are_named(tmp_path):
    row = score("a", "babyai", "x", 1).model_dump()
    with pytest.raises(StageError, match="task babyai/x/1 is there twice"):
        check_scores(pd.DataFrame([row, row]))
    with pytest.raises(StageError, match="progress nan"):
        check_scores(pd.DataFrame([row | {"progress": float("nan")}]))


def test_a_file_that_holds_another_agents_rows_is_refused(finished, tmp_path):
    path = tmp_path / "scores/babyai/tiny-ar.parquet"
    path.parent.mkdir(parents=True)
    shutil.copy(finished / "scores/babyai/random.parquet", path)
    with pytest.raises(StageError, match="holds rows of random"):
        Inputs(configuration(), tmp_path).scores("babyai")


def test_an_unknown_table_names_the_known(tmp_path):
    with pytest.raises(StageError, match="unknown table 'diffuagent_table9'; did you mean diffuagent_table"):
        tabulate("diffuagent_table9", configuration(), tmp_path, tmp_path / "x")


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(StageError, match="success_rate of a on b is nan"):
        to_csv([TableRow(agent="a", benchmark="b", metric="success_rate", n=1, value=float("nan"))])


def test_hostile_names_stay_text():
    layout = Layout("Agent", [("A & B", "x_1")], [Block("", [Line("<script>|a_b%", ["5 $"])])])
    assert "<script>" not in to_markdown(layout, "")
    latex = to_latex(layout, "100 %", "t")
    assert "\\textless{}script\\textgreater{}|a\\_b\\% & 5 \\$ \\\\" in latex and "A \\& B" in latex and "100 \\%" in latex


def test_cells_link_to_the_episodes_behind_them(tables_folder):
    text = (tables_folder / "diffuagent_table1.html").read_text()
    row = next(line for line in text.splitlines() if "<td>tiny-ar</td>" in line)
    assert '<a href="../episodes.html#agent=tiny-ar&amp;benchmark=babyai">' in row and "alfworld" not in row
    assert "episodes.html" not in next(line for line in text.splitlines() if "<td>Qwen-8B</td>" in line)
    failed = (tables_folder / "failures.html").read_text()
    assert "../episodes.html#agent=tiny-full&amp;benchmark=babyai&amp;failure=loop" in failed
    cells = [Text('"5', {"agent": '<a "b'})]
    hostile = to_html(Layout("Agent", [("", "<b>")], [Block("", [Line("<script>", cells)])]), "<i>", "t")
    assert not any(text in hostile for text in ("<script>", "<b>", "<i>", '<a "')) and "agent=%3Ca+%22b" in hostile


def test_tables_load_no_model_library(tmp_path):
    code = (
        "import sys; from dllm_agents.catalogue import TABLES; from dllm_agents.reporting.tables import function\n"
        "for entry in TABLES.values(): function(entry)\n"
        "print(sorted({'torch', 'matplotlib', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_agents_with_modules_stand_in_the_module_tables(finished, tmp_path):
    config = configuration()
    config.agents["helped"] = config.agents["tiny-ar"].model_copy(
        update={"memory": Memory(backbone="tiny-block"), "editor": Editor(backbone="tiny-full")}
    )
    config.agents["remembers"] = config.agents["tiny-ar"].model_copy(update={"memory": Memory(backbone="tiny-block")})
    config.run.agents += ["helped", "remembers"]
    for agent, benchmark in (("remembers", "babyai"), ("helped", "bfcl")):
        scores = pq.read_table(finished / f"scores/{benchmark}/tiny-ar.parquet")
        path = tmp_path / f"scores/{benchmark}/{agent}.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(scores.set_column(scores.schema.get_field_index("agent"), "agent", [[agent] * len(scores)]), path)
    tabulate("diffuagent_table3", config, tmp_path, tmp_path / "t3")
    tabulate("diffuagent_table6", config, tmp_path, tmp_path / "t6")
    memory = find(rows(tmp_path / "t3.csv"), agent="remembers", benchmark="babyai", metric="success_rate")
    assert memory["category"] == "memory=tiny-block" and float(memory["value"]) > 0
    modules = find(rows(tmp_path / "t6.csv"), agent="helped", category="editor=tiny-full;multi_turn")
    assert float(modules["value"]) > 0
    assert not [row for row in rows(tmp_path / "t6.csv") if row["metric"] == "selector_saved_calls"]  # an editor has no calls to save
    # The agent without modules stands beside it, and single-turn entries have columns of their own.
    assert find(rows(tmp_path / "t6.csv"), agent="tiny-ar", category="non_live")["value"]
    assert "| tiny-ar, w/o |" in (tmp_path / "t6.md").read_text() and "Single-Turn Live" in (tmp_path / "t6.md").read_text()


def test_efficiency_is_a_ratio_of_totals_and_rounds_are_compared_where_both_solve(tables_folder, finished):
    frame = pd.read_parquet(finished / "scores/babyai/tiny-ar.parquet")
    records = rows(tables_folder / "dllm_agent_efficiency.csv")
    nfe = find(records, agent="tiny-ar", benchmark="babyai", metric="nfe_per_token")
    assert float(nfe["value"]) == pytest.approx(frame["nfe"].sum() / frame["completion_tokens"].sum(), rel=1e-5)
    other = pd.read_parquet(finished / "scores/babyai/tiny-block.parquet").set_index("task_id")
    both = frame.set_index("task_id").join(other, rsuffix="_other")
    both = both[both["success"] & both["success_other"]]
    rounds = find(records, agent="tiny-block", benchmark="babyai", metric="rounds_difference")
    assert (int(rounds["n"]), float(rounds["value"])) == (len(both), pytest.approx((both["steps_other"] - both["steps"]).mean(), rel=1e-5))
