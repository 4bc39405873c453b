"""Scores from episodes, and their Parquet form."""

import pytest

from dllm_agents.analysis.metrics import score
from dllm_agents.benchmarks.base import Verdict
from dllm_agents.errors import StageError
from dllm_agents.frames import read_frame, write_frame
from dllm_agents.records import Call, Episode, EpisodeStep, Failure, Score

CALLS = (
    Call(role="policy", seed=1, completion_tokens=3, nfe=1),
    Call(role="policy", seed=2, completion_tokens=4, nfe=2),
    Call(role="policy", seed=3, refused="prompt_too_long"),
    Call(role="memory", seed=4, completion_tokens=0, nfe=4),
)


def played(task_id="babyai/GoTo/1", **fields) -> Episode:
    steps = [EpisodeStep(index=0, action="a", valid=False), EpisodeStep(index=1, action="b")]
    base = {
        "task_id": task_id,
        "benchmark": "babyai",
        "category": "GoTo",
        "goal": "g",
        "agent": "x",
        "seed": 1,
        "max_steps": 8,
        "steps": steps,
    }
    base |= {"ended": "success", "success": True, "progress": 1.0, "versions": {"dllm-agents": "0.1", "babyai": "minigrid 3.2.0"}}
    return Episode(**(base | {"calls": CALLS} | fields))


def test_an_interactive_episode_keeps_the_environments_outcome():
    (row,) = score([played()])
    assert (row.success, row.progress, row.steps, row.invalid_steps, row.completion_tokens, row.nfe) == (True, 1.0, 2, 1, 7, 7)
    assert (row.measures["policy.calls"], row.measures["memory.nfe"]) == (2.0, 4.0)
    assert (row.version, row.package) == ("minigrid 3.2.0", "0.1")


def test_what_one_call_does_not_count_is_unknown_and_never_a_number(tmp_path):
    """In the score, its measures and its Parquet form, where the other role's numbers stand."""
    episode = played(calls=(*CALLS, Call(role="memory", seed=5, nfe=1)))
    assert (episode.usage["memory"].completion_tokens, episode.usage["policy"].completion_tokens) == (None, 7)
    (row,) = score([episode])
    assert (row.completion_tokens, row.prompt_tokens, row.nfe) == (None, None, 8)
    assert "memory.completion_tokens" not in row.measures and row.measures["policy.completion_tokens"] == 7.0
    write_frame(tmp_path / "s.parquet", score([episode]), Score)
    assert read_frame(tmp_path / "s.parquet", Score)["completion_tokens"].isna().all()


def test_a_verdict_decides_over_a_single_answer():
    answered = played(ended="answered", success=False, progress=0.0, answer="[f()]")
    (right,) = score([answered], {answered.task_id: Verdict(True)})
    (wrong,) = score([answered], {answered.task_id: Verdict(False, "value_error:string")})
    assert (right.success, right.progress, right.error_type) == (True, 1.0, None)
    assert (wrong.success, wrong.progress, wrong.error_type) == (False, 0.0, "value_error:string")


def test_a_task_that_comes_twice_is_refused_by_name():
    with pytest.raises(StageError, match="task babyai/GoTo/1"):
        list(score([played(), played()]))
    assert len(list(score([played(), played(seed=2)]))) == 2


def test_scores_survive_parquet(tmp_path):
    rows = list(score([played(), played("babyai/GoTo/2")], {"babyai/GoTo/2": Verdict(False, "e")}))
    assert write_frame(tmp_path / "s.parquet", rows, Score) == 2
    frame = read_frame(tmp_path / "s.parquet", Score)
    assert list(frame.columns) == list(Score.model_fields)
    assert frame["error_type"].tolist() == [None, "e"]


def test_no_failures_make_a_file_with_columns(tmp_path):
    write_frame(tmp_path / "f.parquet", [], Failure)
    frame = read_frame(tmp_path / "f.parquet", Failure)
    assert len(frame) == 0 and list(frame.columns) == list(Failure.model_fields)


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really"])
def test_a_broken_parquet_file_is_named(tmp_path, content):
    (tmp_path / "s.parquet").write_bytes(content)
    with pytest.raises(StageError, match="s.parquet: not a Parquet file"):
        read_frame(tmp_path / "s.parquet", Score)


def test_a_parquet_file_of_another_version_is_named(tmp_path):
    write_frame(tmp_path / "f.parquet", [], Failure)
    with pytest.raises(StageError, match="no column 'seed'"):
        read_frame(tmp_path / "f.parquet", Score)


def test_a_missing_file_names_the_stage(tmp_path):
    with pytest.raises(StageError, match="score stage"):
        read_frame(tmp_path / "none.parquet", Score)
