"""What SECURITY.md promises: no pickle, no remote code, no archive unpacked, no key on a command line or in a file others can read."""

import json
import re
import stat
import tempfile
from pathlib import Path

import pytest

from dllm_agents.config import Backbone
from dllm_agents.errors import StageError
from dllm_agents.serving.launch import BUILDERS, Job

PACKAGE = Path(__file__).parents[1] / "workflow" / "dllm_agents"
FORBIDDEN = {
    "pickle": r"\b(?:c?pickle|dill|joblib|shelve)\b(?=[.\s(]*(?:loads?|dumps?|import|\())|import (?:pickle|dill|joblib|shelve)",
    "torch.load": r"\btorch\.load\(",
    "remote code": r"trust_remote_code\s*=\s*True",
    "archives": r"\b(?:zipfile|tarfile)\b|unpack_archive|extractall",
    "shell": r"shell\s*=\s*True|os\.system\(",
}


def test_no_forbidden_construct_in_the_package() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name, pattern in FORBIDDEN.items()
        if re.search(pattern, path.read_text())
    ]
    # A workbook is a zip: its parts are read in memory, each bounded, and none is written.
    assert found == ["benchmarks/xlsx.py: archives"]


def test_the_patterns_find_what_they_are_for() -> None:
    examples = {
        "pickle": "import pickle",
        "torch.load": "torch.load(path)",
        "remote code": "trust_remote_code=True",
        "archives": "tarfile.open(path).extractall(folder)",
        "shell": "subprocess.run(x, shell=True)",
    }
    assert all(re.search(FORBIDDEN[name], text) for name, text in examples.items())


@pytest.mark.parametrize("engine", sorted(BUILDERS))
def test_a_servers_key_is_on_no_command_line(engine: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "x.safetensors").write_bytes(b"")
    job = Job("b", Backbone(model=str(model)), 1, model, 1234, tmp_path, "a-secret-key")
    launch = BUILDERS[engine](job)
    assert not [part for part in launch.command if "a-secret-key" in part]
    # It reaches the server by the environment, or by a file in the job's own folder (which mkdtemp makes for its user alone).
    written = [path for path in tmp_path.iterdir() if path.is_file() and "a-secret-key" in path.read_text()]
    assert ("a-secret-key" in launch.environment.values()) != bool(written)


def test_temporary_folders_are_their_users_alone() -> None:
    with tempfile.TemporaryDirectory(prefix="dllm-agents-serve-") as scratch:
        assert stat.S_IMODE(Path(scratch).stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/../../secret.safetensors"])
def test_a_checkpoints_index_reaches_no_file_outside_its_folder(name: str, tmp_path: Path) -> None:
    from dllm_agents.models.loading import _shards

    (tmp_path / "secret.safetensors").write_bytes(b"outside")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(StageError, match="missing shard"):
        _shards(folder)


def test_every_test_that_the_page_names_is_there() -> None:
    page = (PACKAGE.parents[1] / "SECURITY.md").read_text()
    tests = Path(__file__).parent
    rows = [line.split(" | ")[-1] for line in page.splitlines() if line.startswith("| **")]
    named = [name for row in rows for name in re.findall(r"`([\w/]+(?:\.py|/))`", row)]
    assert len(rows) == 8 and len(named) > 15
    assert all((tests / name).exists() or list(tests.rglob(name)) for name in named)
