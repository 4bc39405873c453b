"""`dllm-agents status` tells how a run stands as Snakemake itself would decide it."""

import base64
import os
import shutil
from pathlib import Path

import pytest
import yaml
from pipeline import TEST_SCALE

from dllm_agents.errors import StageError
from dllm_agents.reporting import status

pytestmark = pytest.mark.workflow


@pytest.fixture
def run(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, which the test stands in."""
    shutil.copytree(finished_run, tmp_path / "run", symlinks=True)
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def counts(*files: Path) -> dict[str, dict[str, int]]:
    states = {
        stage.rule: {state: stage.count(state) for state in status.STATES if stage.count(state)}
        for stage in status.stages([*map(str, files)])[0]
    }
    assert states
    return states


def test_a_run_is_told_stage_by_stage(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert all(set(stage) == {"done"} for stage in counts(TEST_SCALE).values())
    # A table is gone, an agent's setting is edited, and a training was killed.
    (run / "results/test/tables/serving.csv").unlink()
    change = tmp_path / "change.yaml"
    change.write_text(yaml.safe_dump({"agents": {"tiny-ar": {"attempts": 2}}}))
    marker = run / ".snakemake/incomplete" / base64.b64encode(b"results/test/models/tiny-ar/babyai").decode()
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text("{}")
    states = counts(TEST_SCALE, change)
    assert states["table"]["missing"] == 1 and states["rollout"]["stale"] == 1 and states["train"]["interrupted"] == 1
    assert set(states["sample_tasks"]) == {"done"}
    (run / ".snakemake/locks").mkdir(exist_ok=True)
    (run / ".snakemake/locks/0.input.lock").write_text("")
    assert counts(TEST_SCALE, change)["train"]["running"] == 1
    # Of a job whose input is made again, Snakemake gives only that as the reason.
    os.unlink(run / ".snakemake/locks/0.input.lock")
    marker.unlink()
    status.show([str(TEST_SCALE), str(change)])
    shown = capsys.readouterr().out
    assert "Params have changed since last execution" in shown and "rollout" in shown
    # Without Snakemake's records nobody knows what the results were made with.
    shutil.rmtree(run / ".snakemake")
    status.show([str(TEST_SCALE), str(change)])
    assert "results are unknown" in (shown := capsys.readouterr().out) and "agents.tiny-ar.attempts: default -> 2" in shown


def test_a_wrong_configuration_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text(f"extends: {TEST_SCALE}\nrun: {{agentz: []}}\n")
    with pytest.raises(StageError, match="unknown key"):
        status.stages([str(tmp_path / "wrong.yaml")])


@pytest.mark.parametrize("seconds, text", [(5, "5 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d"), (-3, "0 s")])
def test_ages_are_short(seconds: float, text: str) -> None:
    assert status.duration(seconds) == text


@pytest.mark.parametrize("count, text", [(0, "0 B"), (999, "999 B"), (15_000_000, "15 MB"), (3e15, "3000 TB")])
def test_sizes_are_short(count: int, text: str) -> None:
    assert status.amount(count) == text
