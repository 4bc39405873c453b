"""The journal keeps finished episodes over the death of a run, and never mixes two runs."""

from pathlib import Path

import pytest

from dllm_agents.agents.journal import Journal
from dllm_agents.errors import StageError
from dllm_agents.records import Episode


def episode(name: str) -> Episode:
    return Episode(task_id=name, benchmark="b", category="c", goal="g", agent="a", seed=1, max_steps=3, ended="done")


def test_resume_keeps_what_was_finished(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path, "one")
    journal.append(episode("t1"))
    journal.append(episode("t2"))
    journal.close()
    again = Journal(path, "one")
    assert sorted(again.episodes) == ["t1", "t2"]
    again.append(episode("t3"))
    again.close()
    assert len(Journal(path, "one").episodes) == 3


def test_torn_and_damaged_lines_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path, "one")
    for name in ("t1", "t2", "t3"):
        journal.append(episode(name))
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + b"\xff garbage\n" + lines[3][: len(lines[3]) // 2])
    again = Journal(path, "one")
    assert sorted(again.episodes) == ["t1"]
    again.append(episode("t4"))
    again.close()
    assert sorted(Journal(path, "one").episodes) == ["t1", "t4"]


def test_another_fingerprint_starts_afresh(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "one")
    journal.append(episode("t1"))
    journal.close()
    assert Journal(tmp_path / "j", "two").episodes == {}


def test_two_runs_cannot_share_a_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "one")
    with pytest.raises(StageError, match="another run is writing"):
        Journal(tmp_path / "j", "one")
    journal.close()
    Journal(tmp_path / "j", "one").remove()
    assert not (tmp_path / "j").exists()
