"""Exports, read back by the packages they are for. Both come with envs/export.txt; without them only the plain tests run."""

import json

import pyarrow.parquet as pq
import pytest
from workflow_run import configuration, write_run

from dllm_agents.errors import StageError
from dllm_agents.reporting.export import export


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("export"))


def test_logs_hold_every_episode_with_its_outcome(played, tmp_path):
    paths = export(configuration(), played, tmp_path, "inspect")
    (path,) = tmp_path.glob("*_multihop-qa-parallel_*.json")
    log = json.loads(path.read_text())
    assert len(paths) == 16 and log["eval"]["model"] == "dllm-agents/parallel" and len(log["samples"]) == 12
    sample = log["samples"][0]
    assert (sample["id"], sample["scores"]["success"]["value"]) == ("multihop_qa/generated/0", "C")
    assert [message["role"] for message in sample["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert log["results"]["scores"][0]["metrics"]["accuracy"]["value"] == 0.5


def test_folders_hold_one_configuration_per_benchmark(played, tmp_path):
    export(configuration(), played, tmp_path, "datasets")
    card = (tmp_path / "README.md").read_text()
    assert "- config_name: bfcl\n  data_files: data/bfcl/*.parquet" in card
    rows = pq.read_table(tmp_path / "data/multihop_qa/parallel.parquet").to_pylist()
    assert len(rows) == 12 and rows[0]["steps"][0]["tokens"][0] == "<think>" and json.loads(rows[0]["backbones"]) == {"policy": "block"}


def test_inspect_reads_the_logs(played, tmp_path):
    log = pytest.importorskip("inspect_ai.log")
    export(configuration(), played, tmp_path, "inspect")
    infos = log.list_eval_logs(str(tmp_path))
    assert len(infos) == 16
    read = log.read_eval_log(next(info for info in infos if "babyai-vrpo" in info.name))
    assert (read.status, read.eval.task, len(read.samples)) == ("success", "babyai", 12)
    assert read.samples[0].scores["success"].value == "C" and read.samples[0].messages[1].text == "T"
    assert read.results.scores[0].metrics["accuracy"].value == 0.75
    log.write_eval_log(read, str(tmp_path / "again.eval"))
    assert len(log.read_eval_log(str(tmp_path / "again.eval")).samples) == 12


def test_datasets_loads_the_folder(played, tmp_path):
    datasets = pytest.importorskip("datasets")
    export(configuration(), played, tmp_path / "run", "datasets")
    loaded = datasets.load_dataset(str(tmp_path / "run"), "babyai", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 12 * 5 and loaded[0]["steps"][0]["action"] == "ar 0"
    assert {row["agent"] for row in loaded} == {"teacher", "ar", "block", "vrpo", "remembers"}


def test_an_unknown_format_and_a_run_without_episodes_are_one_line(played, tmp_path):
    with pytest.raises(StageError, match="unknown format 'csv'; allowed: inspect, datasets"):
        export(configuration(), played, tmp_path, "csv")
    with pytest.raises(StageError, match="no episode of this configuration"):
        export(configuration(), tmp_path, tmp_path, "inspect")
