"""The real DAG at scale `test`: run, run again, edited. What breaks it is in tests/faults."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
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


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run", symlinks=True))


def outputs(dry_run: str) -> set[str]:
    """The files that a dry run would make."""
    return {path for line in re.findall(r"^ +output: (.*)$", dry_run, re.MULTILINE) for path in line.split(", ")}


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
    """`attempts` is read by embodied agents: tool calling is not played again."""
    jobs = planned(finished, "report", config=edited(tmp_path, {"agents": {"tiny-ar": {"attempts": 2}}}))
    assert [jobs.pop(rule) for rule in ("rollout", "score", "classify_failures")] == [1, 1, 1]
    assert set(jobs) <= {"table", "figure", "browser"}


def test_a_training_option_of_one_benchmark_leaves_the_others_alone(finished: Path, tmp_path: Path) -> None:
    change = edited(tmp_path, {"benchmarks": {"babyai": {"training": {"supervised_tokens": 3100}}}})
    made = outputs(snakemake(finished, "--dry-run", "report", config=change))
    assert "results/test/models/tiny-ar/babyai" in made and "results/test/tables/diffuagent_table1.csv" in made
    assert not [path for path in made if "bfcl" in path or "table2" in path or "figure4" in path]
    assert not [path for path in made if "/trajectories/" in path or "/tasks/" in path]


def test_an_option_of_one_benchmark_replays_no_other(finished: Path, tmp_path: Path) -> None:
    made = outputs(snakemake(finished, "--dry-run", "report", config=edited(tmp_path, {"benchmarks": {"bfcl": {"max_steps": 19}}})))
    assert [path for path in made if "episodes/bfcl" in path] and not [path for path in made if "/babyai" in path or "table1" in path]


def test_another_benchmark_or_fewer_agents_replay_nothing_that_stands(finished: Path, tmp_path: Path) -> None:
    more = {"run": {"benchmarks": ["babyai", "bfcl", "multihop_qa"]}, "benchmarks": {"multihop_qa": {"tasks": 2}}}
    made = outputs(snakemake(finished, "--dry-run", "report", config=edited(tmp_path, more)))
    assert {path.split("/")[3] for path in made if "/episodes/" in path} == {"multihop_qa"}
    fewer = planned(finished, "report", config=edited(tmp_path, {"run": {"agents": ["random", "tiny-ar"]}}))
    assert set(fewer) <= {"table", "figure", "browser"}


def test_how_a_run_goes_reruns_nothing(finished: Path, tmp_path: Path) -> None:
    runtime = {
        "resources": {"rollout": {"mem_mb": 9000, "cpus": 2}},
        "endpoints": {"tiny-ar": "http://127.0.0.1:1/v1"},
        "backbones": {"tiny-ar": {"gpus": 1, "training_gpus": 1}, "tiny-block": {"served_name": "other"}},
        "agents": {"tiny-ar": {"concurrency": 2}},
        "benchmarks": {"bfcl": {"scratch": "/tmp/scratch"}},
    }
    said = snakemake(finished, "--dry-run", "report", "episodes", "serving", config=edited(tmp_path, runtime))
    assert "Nothing to be done" in said


@pytest.mark.parametrize(
    "gone, rule",
    [
        ("models/tiny-ar/babyai", "train"),
        ("episodes/bfcl/tiny-ar.jsonl", "rollout"),
        ("trajectories/babyai/accepted.jsonl", "filter_trajectories"),
        ("tables/failures.csv", "table"),
        ("scores/babyai/random.parquet", "score"),
    ],
)
def test_what_is_deleted_is_made_again(run: Path, gone: str, rule: str) -> None:
    path = run / "results/test" / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert planned(run, "report")[rule] == 1


def test_results_without_a_record_are_said_to_be_so(run: Path, tmp_path: Path) -> None:
    """After the records are gone, or results were copied: the configuration beside them is compared, and stays while it is theirs."""
    stored = (run / "results/test/config.yaml").read_bytes()
    shutil.rmtree(run / ".snakemake")
    assert "says the same as the configuration" in snakemake(run, "--dry-run", "report")
    change = edited(tmp_path, {"benchmarks": {"babyai": {"training": {"supervised_tokens": 3100}}}})
    differs = "results are unknown .* differs: benchmarks.babyai.training.supervised_tokens: 3000 -> 3100"
    assert re.search(differs, snakemake(run, "--dry-run", "report", config=change))
    (run / "results/test/tables/failures.md").unlink()
    assert re.search(differs, snakemake(run, "report", config=change))
    assert (run / "results/test/config.yaml").read_bytes() == stored


def test_a_dry_run_changes_nothing(run: Path, tmp_path: Path) -> None:
    later = time.time() + 3600
    os.utime(run / "results/test/tables/failures.csv", (later, later))

    def state() -> dict[str, float]:
        return {str(path): path.stat().st_mtime for path in (run / "results").rglob("*")}

    before = state()
    snakemake(run, "--dry-run", "report", config=edited(tmp_path, {"agents": {"tiny-ar": {"attempts": 2}}}))
    assert state() == before
    (run / "results/test/tables/failures.md").unlink()
    snakemake(run, "report")
    assert (run / "results/test/tables/failures.csv").stat().st_mtime < later - 60


def test_a_printed_command_runs_when_it_is_pasted(run: Path) -> None:
    place = run / "results/test/scores/bfcl/tiny-ar.parquet"
    said = snakemake(run, "--dry-run", "--printshellcmds", "--force", "results/test/scores/bfcl/tiny-ar.parquet")
    (command,) = re.findall(r"dllm-agents score .*", said)
    before = pd.read_parquet(place)
    place.unlink()
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    subprocess.run(["bash", "-c", command], cwd=run, env=environment, check=True, capture_output=True)
    assert pd.read_parquet(place).equals(before)


def test_a_rule_is_one_stage(finished: Path) -> None:
    """Resources are set by rule, and the graph of rules fits a page."""
    said = snakemake(finished, "--dry-run", "--forceall", "report", "--set-resources", "rollout:mem_mb=1234", "score:runtime=77")
    assert "mem_mb=1234" in said and "runtime=77" in said
    rules = set(re.findall(r"^ *(?:local)?rule (\w+):", said, re.MULTILINE))
    assert {"rollout", "score", "classify_failures", "train", "table"} <= rules
    graph = snakemake(finished, "report", "--rulegraph", "dot", config=[TEST_SCALE.with_name("demo.yaml")])
    assert 10 <= len(re.findall(r"label ?= ?\"", graph)) <= 20


def test_a_backbone_of_ones_own_runs_only_its_stages(finished: Path, tmp_path: Path) -> None:
    model = finished / "results/test/models/tiny-ar/babyai"
    change = edited(tmp_path, {"add": {"mine": {"model": str(model), "prompt": "compact"}}})
    jobs = planned(finished, "report", config=change)
    assert jobs["rollout"] == 2 and jobs["probe"] == 1 and "train" not in jobs and "sample_tasks" not in jobs


def test_an_agent_plays_the_same_in_parts(run: Path, tmp_path: Path) -> None:
    place = "results/test/episodes/babyai"
    agents = {"agents": {"again": {"policy": "tiny-ar"}}, "run": {"agents": ["tiny-ar", "again"], "benchmarks": ["babyai"], "shards": 2}}
    said = snakemake(run, f"{place}/again.jsonl", config=edited(tmp_path, agents))
    assert said.count("localrule rollout:") == 2 and said.count("localrule merge:") == 1
    assert said_and_done(run / place / "again.jsonl") == said_and_done(run / place / "tiny-ar.jsonl")


def said_and_done(episodes: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    found = map(json.loads, episodes.read_text().splitlines())
    return [(episode["task_id"], [(step.get("action"), step["observation"]) for step in episode["steps"]]) for episode in found]


def test_a_wrong_configuration_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(f"extends: {TEST_SCALE}\nrun: {{agentz: []}}\n")
    done = subprocess.run(
        snakemake_command(tmp_path, "--cores", "2", "--dry-run", config=[tmp_path / "wrong.yaml"]), capture_output=True, text=True
    )
    assert done.returncode != 0
    line = next(line for line in (done.stdout + done.stderr).splitlines() if "agentz" in line)
    assert "wrong.yaml" in line and "unknown key" in line and "Traceback" not in done.stdout + done.stderr
