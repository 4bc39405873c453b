"""The real DAG at scale `test`: run, run again, edited. What breaks it is in tests/faults."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import yaml
from pipeline import TEST_SCALE, snakemake_command

pytestmark = pytest.mark.workflow


def snakemake(workdir: Path, *arguments: str, config: Sequence[Path] = (TEST_SCALE,)) -> str:
    done = subprocess.run(
        snakemake_command(workdir, "--cores", "2", *arguments, config=config), capture_output=True, text=True, cwd=workdir
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


def planned(workdir: Path, *arguments: str, config: Sequence[Path] = (TEST_SCALE,)) -> dict[str, int]:
    """Rule -> number of jobs a dry run would start."""
    text = snakemake(workdir, "--dry-run", *arguments, config=config)
    table = text.partition("Job stats:")[2].partition("\n\n")[0]
    jobs = {name: int(count) for name, count in re.findall(r"^([\w.-]+) +(\d+)$", table, re.MULTILINE) if name != "total"}
    return {name: count for name, count in jobs.items() if name != "report"}


@pytest.fixture(scope="module")
def finished(finished_run: Path) -> Path:
    return finished_run


def test_every_result_stands(finished: Path) -> None:
    results = finished / "results" / "test"
    config = yaml.safe_load((results / "config.yaml").read_text())
    for name in config["report"]["tables"]:
        table = pd.read_csv(results / "tables" / f"{name}.csv")
        assert len(table), name
        assert (results / "tables" / f"{name}.md").read_text().strip()
        assert "\\toprule" in (results / "tables" / f"{name}.tex").read_text()
    for name in config["report"]["figures"]:
        assert (results / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (results / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert not list(results.rglob("*.part")) and not list(results.rglob(".*.journal"))


def test_the_teacher_is_an_upper_bound_and_the_empty_agent_a_lower_one(finished: Path) -> None:
    table = pd.read_csv(finished / "results/test/tables/diffuagent_table1.csv", na_values=["not run"])
    success = table[(table.metric == "success_rate") & (table.benchmark == "babyai")].dropna(subset=["value"]).set_index("agent")["value"]
    assert success["teacher"] == 100 and success["empty"] == 0
    assert success.between(0, 100).all()


def test_training_and_evaluation_tasks_are_disjoint(finished: Path) -> None:
    for benchmark in ("babyai", "bfcl"):
        lines = [(finished / f"results/test/tasks/{part}{benchmark}.jsonl").read_text().splitlines() for part in ("", "train/")]
        evaluated, trained = ({yaml.safe_load(line)["id"] for line in part} for part in lines)
        assert evaluated and trained and not evaluated & trained


def test_too_few_pairs_make_rows_that_say_not_run(finished: Path) -> None:
    results = finished / "results/test"
    assert len((results / "pairs/tiny-block-vrpo.jsonl").read_text().splitlines()) == 8
    made = {path.name for path in (results / "models/tiny-block-vrpo/babyai").iterdir()}
    assert made - {".snakemake_timestamp"} == {"not_run.json"}
    table = pd.read_csv(results / "tables/diffuagent_table1.csv", keep_default_na=False)
    assert set(table[(table.agent == "tiny-block-vrpo") & (table.benchmark == "babyai")]["value"]) == {"not run"}


def test_nothing_to_do_for_an_unchanged_run(finished: Path) -> None:
    assert "Nothing to be done" in snakemake(finished, "--dry-run", "report", "episodes", "serving")


def test_html_report(finished: Path) -> None:
    snakemake(finished, "report", "--report", "results/test/report.html")
    text = (finished / "results/test/report.html").read_text()
    assert "diffuagent_figure3" in text and "Retry loops" in text
    opening = re.findall(r"var workflow_desc = (.*)", text)
    assert len(opening) == 1 and "dLLMs fall into retry loops more often" in opening[0]


def edited(tmp_path: Path, change: dict[str, object]) -> list[Path]:
    path = tmp_path / "change.yaml"
    path.write_text(yaml.safe_dump(change))
    return [TEST_SCALE, path]


def test_a_figures_style_reruns_that_figure_alone(finished: Path, tmp_path: Path) -> None:
    change = edited(tmp_path, {"report": {"style": {"diffuagent_figure3": {"dpi": 80}}}})
    assert planned(finished, "report", config=change) == {"figure": 1}


def test_one_agents_setting_reruns_only_what_depends_on_it(finished: Path, tmp_path: Path) -> None:
    change = edited(tmp_path, {"agents": {"tiny-ar": {"attempts": 2}}})
    jobs = planned(finished, "report", config=change)
    assert [jobs.pop(f"{rule}_tiny-ar") for rule in ("rollout", "score", "classify_failures")] == [1, 1, 1]
    assert set(jobs) <= {"table", "figure", "browser"}


def test_a_backbone_of_ones_own_runs_only_its_stages(finished: Path, tmp_path: Path) -> None:
    model = finished / "results/test/models/tiny-ar/babyai"
    change = edited(tmp_path, {"add": {"mine": {"model": str(model), "prompt": "compact"}}})
    jobs = planned(finished, "report", config=change)
    assert jobs["rollout_mine"] == 1 and jobs["probe"] == 1 and "train" not in jobs and "sample_tasks" not in jobs


def test_agents_that_share_a_job_play_the_same_in_parts(finished: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir, symlinks=True)
    place = "results/test/episodes/babyai"
    (workdir / place / "tiny-ar.jsonl").unlink()
    agents = {"agents": {"again": {"policy": "tiny-ar"}}, "run": {"agents": ["tiny-ar", "again"], "benchmarks": ["babyai"], "shards": 2}}
    said = snakemake(workdir, f"{place}/tiny-ar.jsonl", f"{place}/again.jsonl", config=edited(tmp_path, agents))
    assert said.count("localrule rollout_parts_tiny-ar:") == 2 and said.count("localrule merge_tiny-ar:") == 1
    played = [said_and_done(workdir / place / f"{name}.jsonl") for name in ("tiny-ar", "again")]
    assert played == [said_and_done(finished / place / "tiny-ar.jsonl")] * 2


def said_and_done(episodes: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    found = map(json.loads, episodes.read_text().splitlines())
    return [(episode["task_id"], [(step["completion"], step["observation"]) for step in episode["steps"]]) for episode in found]


def test_a_wrong_configuration_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(f"extends: {TEST_SCALE}\nrun: {{agentz: []}}\n")
    done = subprocess.run(
        snakemake_command(tmp_path, "--cores", "2", "--dry-run", config=[tmp_path / "wrong.yaml"]), capture_output=True, text=True
    )
    assert done.returncode != 0
    line = next(line for line in (done.stdout + done.stderr).splitlines() if "agentz" in line)
    assert "wrong.yaml" in line and "unknown key" in line and "Traceback" not in done.stdout + done.stderr
