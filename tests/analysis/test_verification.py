"""Early-exit verifiers replayed on stored episodes: what an exit saves and loses, per episode, verifier and prompt."""

from pathlib import Path

import pytest

from dllm_agents.analysis.verification import replay_verifiers
from dllm_agents.config import Config
from dllm_agents.errors import StageError
from dllm_agents.files import write_jsonl
from dllm_agents.frames import read_frame
from dllm_agents.records import Episode, EpisodeStep, Exit

PROGRESS = {"rises": [0.0, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0], "stuck": [0.0] * 12, "short": [0.5, 1.0]}


def stored(name: str, progress: list[float]) -> Episode:
    steps = [EpisodeStep(index=n, action=f"{name} {n}", observation="a wall", progress=value) for n, value in enumerate(progress)]
    success = progress[-1] == 1
    fields = {"category": "c", "goal": name, "agent": "a", "seed": 1, "max_steps": 30, "ended": "success" if success else "step_limit"}
    return Episode(task_id=name, benchmark="babyai", steps=steps, success=success, progress=progress[-1], **fields)


def test_every_verifier_and_prompt_on_every_episode(tmp_path: Path, said_by_prompt) -> None:
    """The stand-in says YES when the prompt is the modest one, or when ten steps have passed."""
    url = said_by_prompt(lambda prompt: "NO" if "any one of these holds" in prompt and " 9\n" not in prompt else "YES, stop.")
    write_jsonl(tmp_path / "a.jsonl", [stored(name, progress) for name, progress in PROGRESS.items()])
    config = Config.model_validate({"backbones": {"v": {"url": url}}, "run": {"verification": {"backbones": ["v"]}}})
    assert replay_verifiers(config, [tmp_path / "a.jsonl"], {}, tmp_path / "x.parquet") == 6
    rows = read_frame(tmp_path / "x.parquet", Exit).set_index(["prompt", "task_id"])
    columns = ["exit_step", "redundant_steps", "redundant_steps_saved", "progress_lost", "success_at_exit", "calls"]
    found = {key: [None if value != value else value for value in rows.loc[key, columns]] for key in rows.index}
    assert found == {
        ("strict", "rises"): [None, 1, 0, 0.0, True, 1],
        ("strict", "stuck"): [10, 12, 2, 0.0, False, 2],
        ("strict", "short"): [None, 0, 0, 0.0, True, 0],
        ("modest", "rises"): [5, 1, -2, 0.5, False, 1],
        ("modest", "stuck"): [5, 12, 7, 0.0, False, 1],
        ("modest", "short"): [None, 0, 0, 0.0, True, 0],
    }


def test_an_agent_without_whole_episodes_has_no_rows(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [stored("stuck", [0.0] * 6).model_copy(update={"ended": "early_exit"})])
    config = Config.model_validate({"backbones": {"v": {"model": "none"}}, "run": {"verification": {"backbones": ["v"]}}})
    assert replay_verifiers(config, [tmp_path / "a.jsonl"], {}, tmp_path / "x.parquet") == 0
    assert read_frame(tmp_path / "x.parquet", Exit).empty


def test_a_server_that_refuses_stops_the_stage_in_one_line(tmp_path: Path, said_by_prompt) -> None:
    url = said_by_prompt(lambda prompt: 401)
    write_jsonl(tmp_path / "a.jsonl", [stored("stuck", [0.0] * 6)])
    config = Config.model_validate({"backbones": {"v": {"url": url}}, "run": {"verification": {"backbones": ["v"]}}})
    with pytest.raises(StageError, match="HTTP 401"):
        replay_verifiers(config, [tmp_path / "a.jsonl"], {}, tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()


def test_refused_settings_name_their_key_and_an_episode_too_long_to_read_goes_on(tmp_path: Path, said_by_prompt) -> None:
    write_jsonl(tmp_path / "a.jsonl", [stored("stuck", [0.0] * 12)])
    for status, message in ((400, "steps: must divide the length"), (400, "maximum context length exceeded")):
        url = said_by_prompt(lambda prompt, said=(status, {"message": message}): said)
        config = Config.model_validate({"backbones": {"v": {"url": url}}, "run": {"verification": {"backbones": ["v"]}}})
        if message.startswith("steps"):
            with pytest.raises(StageError, match=r"change backbones\.v\.decoding\.steps"):
                replay_verifiers(config, [tmp_path / "a.jsonl"], {}, tmp_path / "x.parquet")
            continue
        replay_verifiers(config, [tmp_path / "a.jsonl"], {}, tmp_path / "x.parquet")
        assert read_frame(tmp_path / "x.parquet", Exit)["exit_step"].isna().all()
