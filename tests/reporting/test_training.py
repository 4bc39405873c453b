"""Tables and figures of trainings: which two agents an ablation compares, and what is drawn of a run's curves."""

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dllm_agents.config import Config
from dllm_agents.errors import StageError
from dllm_agents.files import write_json
from dllm_agents.frames import write_frame
from dllm_agents.records import Failure, Score
from dllm_agents.reporting.comparison import masking_pairs
from dllm_agents.reporting.dllm_agent import masking
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.run import training_curves
from dllm_agents.stage_records import TrainingReport

COUNTS = {"steps": 1, "invalid_steps": 0, "prompt_tokens": 1, "completion_tokens": 1, "nfe": 1}


@pytest.fixture
def run(tmp_path: Path) -> Inputs:
    def backbone(**training: object) -> dict[str, object]:
        return {"paradigm": "diffusion", "training": {"objective": "block_diffusion", **training}}

    config = Config.model_validate(
        {
            "backbones": {"seen": backbone(), "naive": backbone(context_mask="naive"), "other": backbone(context_noise="noisy")},
            "agents": {name: {"policy": name} for name in ("seen", "naive", "other")},
            "run": {"benchmarks": ["multihop_qa"], "agents": ["random", "seen", "naive", "other"]},
        }
    )
    for agent, solved in (("seen", 3), ("naive", 1), ("other", 2)):
        shared = {"benchmark": "multihop_qa", "category": "generated", "agent": agent}
        scores = [
            Score(task_id=f"q{n}", seed=1, success=n < solved, progress=float(n < solved), ended="answered", **shared, **COUNTS)
            for n in range(4)
        ]
        write_frame(tmp_path / "scores/multihop_qa" / f"{agent}.parquet", scores, Score)
        found = [Failure(task_id="q3", kind="format", first_step=0, last_step=0, **shared)] * 2 if agent == "naive" else []
        write_frame(tmp_path / "failures/multihop_qa" / f"{agent}.parquet", found, Failure)
        curves = {"loss_curve": [(1, 2.0), (2, 1.0)], "validation_curve": [(2, 1.5)]}
        counts = {"steps": 2, "examples": 9, "supervised_tokens": 90, "parameters": 5, "final_loss": 1.0, "validation_loss": 1.5, "seed": 1}
        report = TrainingReport(backbone=agent, benchmark="multihop_qa", objective="block_diffusion", **counts, **curves)
        folder = tmp_path / "models" / agent / "multihop_qa"
        folder.mkdir(parents=True)
        write_json(folder / "training.json", report)
    return Inputs(config, tmp_path)


def test_agents_are_compared_that_differ_in_their_mask_alone(run: Inputs) -> None:
    assert masking_pairs(run) == [("seen", "naive")]
    rows = {(row.agent, row.metric): row for row in masking(run).rows}
    assert list(dict.fromkeys(agent for agent, _ in rows)) == ["seen", "naive", "other"], "of the claim, two; in the ablation, all"
    assert (rows["seen", "success_rate"].value, rows["naive", "success_rate"].value) == (75.0, 25.0)
    assert rows["naive", "unreadable"].value == 25.0, "a task with two unreadable replies counts once"
    assert rows["seen", "unreadable"].value == 0 and rows["seen", "validation_loss"].value == 1.5


def test_curves_hold_every_trained_backbone(run: Inputs) -> None:
    figure = Figure()
    training_curves(run, figure)
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["seen", "naive", "other"]
    assert [list(line.get_ydata()) for line in axis.lines[:2]] == [[2.0, 1.0], [1.5]]


def test_a_run_without_trainings_says_so(run: Inputs, tmp_path: Path) -> None:
    figure = Figure()
    training_curves(Inputs(run.config, tmp_path / "empty"), figure)
    assert figure.axes[0].texts[0].get_text() == "not run"
    damaged = tmp_path / "models/seen/multihop_qa/training.json"
    damaged.write_text(json.dumps({"steps": 1}))
    with pytest.raises(StageError, match="seen/multihop_qa/training.json: not a TrainingReport"):
        training_curves(Inputs(run.config, tmp_path), Figure())


def test_a_model_that_has_not_learnt_is_said_so_in_place_of_its_numbers(run: Inputs) -> None:
    path = run.files.model("naive", "multihop_qa") / "training.json"
    report = TrainingReport.model_validate_json(path.read_bytes())
    write_json(path, report.model_copy(update={"held_out_accuracy": 0.4, "learnt": False}))
    rows = {(row.agent, row.metric): row for row in masking(run).rows}
    assert (rows["naive", "success_rate"].value, rows["naive", "success_rate"].missing) == (None, "not learnt")
    assert rows["seen", "success_rate"].value == 75.0
    assert "not learnt" in run.missing(["naive"], ["multihop_qa"])
