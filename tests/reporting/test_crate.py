"""The record of a run names its inputs and outputs, is a valid RO-Crate, and shows what changed since."""

import json
from pathlib import Path

import pytest
from rocrate.rocrate import ROCrate

from dllm_agents import cli
from dllm_agents.config import Config
from dllm_agents.errors import StageError
from dllm_agents.reporting.crate import changes, write


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A run's folder with one table, one log, one timed job on a GPU, and one data file that the configuration names."""
    results = tmp_path / "results" / "mine"
    for name in ("tables", "logs", "benchmarks/rollout"):
        (results / name).mkdir(parents=True)
    (results / "tables/t.csv").write_text("a,b\n1,2\n")
    (results / "logs/x.log").write_text("not part of the record")
    (results / "benchmarks/rollout/served.babyai.tsv").write_text("s\tmax_rss\n12.5\t100\n")
    (tmp_path / "list.jsonl").write_text("{}\n")
    return results


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.model_validate(
        {
            "scale": "mine",
            "seed": 7,
            "backbones": {"b": {"model": "somewhere/b", "gpus": 2}},
            "agents": {"served": {"policy": "b", "seed": 3}},
            "benchmarks": {"babyai": {"task_list": str(tmp_path / "list.jsonl")}},
            "run": {"benchmarks": ["babyai"], "agents": ["served"]},
        }
    )


def test_the_record_says_where_a_run_came_from(config: Config, results: Path, tmp_path: Path) -> None:
    write(config, [], results)
    record = json.loads((results / "provenance.json").read_text())
    assert set(record["outputs"]) == {"tables/t.csv"}
    assert str(tmp_path / "list.jsonl") in record["inputs"] and "Snakefile" in record["inputs"]
    assert record["stages"]["rollout"] == {"jobs": 1, "wall_seconds": 12.5, "gpu_seconds": 25.0, "hardware": []}
    assert record["seeds"] == {"run": 7, "agents": {"served": 3}, "trainings": {}}
    assert record["packages"]["pydantic"] and record["git_revision"] is not None


@pytest.mark.filterwarnings("error")
def test_the_crate_is_read_by_the_reference_library(config: Config, results: Path) -> None:
    write(config, [], results)
    crate = ROCrate(results)
    assert crate.root_dataset["license"] and {part.id for part in crate.root_dataset["hasPart"]} == {"tables/t.csv", "provenance.json"}
    action = crate.dereference("#run")
    assert action["instrument"].id == "#dllm-agents" and [result.id for result in action["result"]] == ["tables/t.csv"]
    assert all(item.type == "CreativeWork" and item["sha256"] for item in action["object"])


def test_verify_names_what_changed(config: Config, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(config, [], results)
    assert changes(results) == []
    (results / "tables/t.csv").write_text("a,b\n1,3\n")
    (results / "tables/new.csv").write_text("")
    (tmp_path / "list.jsonl").unlink()
    text = "\n".join(changes(results))
    assert "t.csv: output has changed" in text and "new.csv: output is new" in text and "list.jsonl: input is gone" in text
    args = cli.parser("verify").parse_args(["verify", "--results", str(results)])
    with pytest.raises(StageError, match="3 files are not what"):
        args.run(args)
    assert "output has changed" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "{", '{"outputs": 1, "inputs": {}}'])
def test_a_missing_or_damaged_record_is_one_line(content: str | None, results: Path) -> None:
    if content is not None:
        (results / "provenance.json").write_text(content)
    with pytest.raises(StageError, match="dllm-agents provenance"):
        changes(results)


def test_an_empty_run_has_nothing_to_record(config: Config, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="holds no result yet"):
        write(config, [], tmp_path)
