"""Records between stages: written aside and renamed, read with the file and line of the first bad one."""

from pathlib import Path

import pytest

from dllm_agents.errors import StageError
from dllm_agents.files import read_jsonl, write_aside, write_jsonl
from dllm_agents.records import EpisodeStep, Task, Trajectory

TASK = Task(id="babyai/GoToObj/1", benchmark="babyai", split="test", category="GoToObj", seed=1, version="v", goal="go to the red ball")


def test_round_trip(tmp_path: Path) -> None:
    assert write_jsonl(tmp_path / "t.jsonl", [TASK, TASK]) == 2
    assert read_jsonl(tmp_path / "t.jsonl", Task) == [TASK, TASK]


def test_a_byte_order_mark_other_line_ends_and_blank_lines_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_jsonl(path, [TASK, TASK])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert read_jsonl(path, Task) == [TASK, TASK]


def test_truncated_line_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_jsonl(path, [TASK, TASK])
    path.write_text(path.read_text()[:-30])
    with pytest.raises(StageError, match=r"t\.jsonl:2: not a Task record .*truncated or not JSON in UTF-8"):
        read_jsonl(path, Task)


def test_missing_file_and_unknown_field(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="No such file"):
        read_jsonl(tmp_path / "none.jsonl", Task)
    (tmp_path / "t.jsonl").write_text('{"id": "a", "surprise": 1}\n')
    with pytest.raises(StageError, match=r"t\.jsonl:1"):
        read_jsonl(tmp_path / "t.jsonl", Task)
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(StageError, match=r"b\.jsonl:1: .*not JSON in UTF-8"):
        read_jsonl(tmp_path / "b.jsonl", Task)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_jsonl(path, [TASK])

    def broken():
        yield TASK
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, broken())
    assert read_jsonl(path, Task) == [TASK]
    assert [item.name for item in tmp_path.iterdir()] == ["t.jsonl"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="cannot be written"), write_aside(tmp_path / "x") as handle:
        handle.write("x")
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_spans_keep_reading_order_and_only_what_was_said() -> None:
    step = EpisodeStep(index=0, thought="I see it.", action="go to red ball 1", executed="turn left", observation="A wall.")
    trajectory = Trajectory(task=TASK, teacher="expert", seed=1, initial_observation="A ball.", steps=[step], success=True, progress=1.0)
    assert [(span.kind, span.text) for span in trajectory.spans()] == [
        ("context", "go to the red ball"),
        ("observation", "A ball."),
        ("thought", "I see it."),
        ("action", "go to red ball 1"),
        ("observation", "A wall."),
    ]
