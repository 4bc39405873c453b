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


def test_a_journal_of_other_settings_is_kept_and_taken_up_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / ".a.jsonl.journal"
    for fingerprint, name in (("one", "t1"), ("two", "t2")):
        journal = Journal(path, fingerprint)
        assert journal.episodes == {}
        journal.append(episode(name))
        journal.close()
    assert ".a.jsonl.one.journal" in capsys.readouterr().err
    assert (tmp_path / ".a.jsonl.one.journal").is_file()
    again = Journal(path, "one")
    assert sorted(again.episodes) == ["t1"]
    again.close()
    assert sorted(Journal(path, "two").episodes) == ["t2"]


def test_what_is_kept_is_never_written_over(tmp_path: Path) -> None:
    path, kept = tmp_path / "j.journal", tmp_path / "j.one.journal"
    Journal(path, "one").close()
    kept.write_text("kept earlier")
    Journal(path, "two").close()
    assert kept.read_text() == "kept earlier" and (tmp_path / "j.one-1.journal").is_file()


@pytest.mark.parametrize(
    "header", [b'{"fingerprint": "one"}', b'{"fingerprint": "one", "version": "99.0"}', b"\xff\xfe", b"[]", b"{", b'{"version": "0.1.0"}']
)
def test_a_journal_of_another_version_is_left_as_it_is(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(content := header + b"\n" + episode("t1").model_dump_json().encode() + b"\n")
    with pytest.raises(StageError, match=rf"{path}: written by dllm-agents .*move the file away") as caught:
        Journal(path, "one")
    assert "\n" not in str(caught.value) and path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_a_journal_without_a_whole_header_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b'{"vers')
    journal = Journal(tmp_path / "j", "one")
    assert journal.episodes == {}
    journal.append(episode("t1"))
    journal.close()
    assert sorted(Journal(tmp_path / "j", "one").episodes) == ["t1"]


def test_a_read_only_journal_is_one_line(tmp_path: Path) -> None:
    Journal(tmp_path / "j", "one").close()
    (tmp_path / "j").chmod(0o444)
    content = (tmp_path / "j").read_bytes()
    with pytest.raises(StageError, match="cannot be opened .* make the results folder writable"):
        Journal(tmp_path / "j", "two")
    assert (tmp_path / "j").read_bytes() == content


def test_two_runs_cannot_share_a_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "one")
    with pytest.raises(StageError, match="another run is writing"):
        Journal(tmp_path / "j", "one")
    journal.close()
    Journal(tmp_path / "j", "one").remove()
    assert not (tmp_path / "j").exists()
