"""Models and question files are fetched and checked against a hub. No hub can be assumed here, so a small one of the same protocol
runs on this machine."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dllm_agents.download import _checked, _listed, _recorded
from dllm_agents.errors import StageError

COMMIT = "a" * 40
WEIGHTS = b"weights" * 1000
QUESTIONS = b'{"idx": 1, "question": "Who?", "answer": "Ada"}\n'
ADDRESS = "hf://datasets/me/data/test.jsonl"


class Hub(BaseHTTPRequestHandler):
    """One model, me/model, and one dataset, me/data, at one commit: small files that git keeps, a large one by SHA-256, and code."""

    commit = COMMIT
    files: dict[str, bytes] = {}
    listed: dict[str, str] = {}  # checksums that differ from the content's

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(("/api/models/me/model", "/api/datasets/me/data")):
            told = self.tree() if "/tree/" in path else self.repository()
            return self.send(json.dumps(told).encode(), {"content-type": "application/json"}, body)
        name = path.rpartition("/")[2]
        if path.startswith(("/me/model/resolve/", "/datasets/me/data/resolve/")) and name in self.files:
            content = self.files[name]
            return self.send(content, {"etag": f'"{checksum(name, content)}"', "x-repo-commit": self.commit}, body)
        self.send(b"{}", {}, body, status=404)

    def repository(self) -> dict[str, Any]:
        siblings = []
        for entry in self.tree():
            large = {"lfs": {**entry["lfs"], "sha256": entry["lfs"]["oid"]}} if "lfs" in entry else {}
            siblings.append({"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"], **large})
        return {"_id": "1", "id": "me/model", "sha": self.commit, "siblings": siblings, "tags": [], "downloads": 0, "private": False}

    def tree(self) -> list[dict[str, Any]]:
        entries = []
        for name, content in self.files.items():
            shown = self.listed.get(name, checksum(name, content))
            large = {"lfs": {"oid": shown, "size": len(content), "pointerSize": 100}} if name.endswith("safetensors") else {}
            entries.append({"type": "file", "path": name, "size": len(content), "oid": shown, **large})
        return entries

    def send(self, content: bytes, headers: dict[str, str], body: bool, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def checksum(name: str, content: bytes) -> str:
    if name.endswith("safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.files = {
        "config.json": b"{}",
        "model.safetensors": WEIGHTS,
        "modeling.py": b"raise SystemExit",
        "tokenizer.py": b"1",
        "tokenizer_x.pkl": b"1",
        "test.jsonl": QUESTIONS,
    }
    Hub.listed, Hub.commit = {}, COMMIT
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def download(folder: Path, hub: str, address: str = ADDRESS) -> subprocess.CompletedProcess[str]:
    config = folder / "mine.yaml"
    config.write_text(
        "backbones: {b: {model: me/model}}\nagents: {a: {policy: b}}\nrun: {agents: [a], benchmarks: [multihop_qa]}\n"
        f"benchmarks: {{multihop_qa: {{sets: {{mine: '{address}'}}}}}}\n"
    )
    return stage(folder, hub, "download", "--config", str(config), "--output", str(folder / "record.json"))


def stage(folder: Path, hub: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A stage in a process of its own, since the hub's client reads its environment when it is imported."""
    environment = {
        "HF_ENDPOINT": hub,
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "PATH": "",
        "PYTHONPATH": ":".join(sys.path),
    }
    return subprocess.run([sys.executable, "-m", "dllm_agents", *arguments], env=environment, capture_output=True, text=True, timeout=120)


def test_models_are_fetched_checked_and_recorded(hub: str, tmp_path: Path) -> None:
    done = download(tmp_path, hub)
    assert done.returncode == 0, done.stderr
    entry = json.loads((tmp_path / "record.json").read_text())["b"]
    assert entry["revision"] == COMMIT and entry["files"]["model.safetensors"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert (Path(entry["directory"]) / "model.safetensors").read_bytes() == WEIGHTS
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".py", ".pkl")], "code was fetched"
    asked = "from dllm_agents.models.checkpoints import from_hub; print(from_hub('me/model', None))"
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": ":".join(sys.path)}
    found = subprocess.run([sys.executable, "-c", asked], env=offline, capture_output=True, text=True)
    assert found.stdout.strip() == entry["directory"], found.stderr[-500:]
    # Later a file on disk is damaged.
    (Path(entry["directory"]) / "config.json").resolve().write_bytes(b"{ }")
    again = download(tmp_path, hub)
    assert again.returncode == 1 and "config.json: not what the hub lists" in again.stderr


def test_question_files_are_fetched_and_read_without_a_network(hub: str, tmp_path: Path) -> None:
    for _ in range(2):  # the second time at the revision of the first, into an empty cache
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        done = download(tmp_path, hub)
        assert done.returncode == 0, done.stderr
    entry = json.loads((tmp_path / "record.json").read_text())[ADDRESS]
    assert entry["revision"] == COMMIT and entry["files"] == {"test.jsonl": hashlib.sha256(QUESTIONS).hexdigest()}
    assert "Who?" in sampled(tmp_path)


def test_a_branch_that_has_moved_is_read_where_it_was_fetched_last(hub: str, tmp_path: Path) -> None:
    address = ADDRESS.replace("me/data", "me/data@main")
    for commit, asked in ((COMMIT, b"Who?"), ("b" * 40, b"Where?")):
        Hub.commit, Hub.files["test.jsonl"] = commit, QUESTIONS.replace(b"Who?", asked)
        done = download(tmp_path, hub, address)
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "record.json").read_text())[address]["revision"] == commit
        assert asked.decode() in sampled(tmp_path)


def sampled(folder: Path) -> str:
    """The tasks drawn without a network."""
    where = ["--config", str(folder / "mine.yaml"), "--benchmark", "multihop_qa", "--output", str(folder / "tasks.jsonl")]
    done = stage(folder, "http://127.0.0.1:9", "sample-tasks", *where)
    assert done.returncode == 0, done.stderr
    return (folder / "tasks.jsonl").read_text()


def test_a_question_file_that_the_hub_does_not_have_is_one_line(hub: str, tmp_path: Path) -> None:
    del Hub.files["test.jsonl"]
    done = download(tmp_path, hub)
    assert done.returncode == 1 and f"{ADDRESS}: me/data has no such file" in done.stderr


def test_a_file_that_differs_from_the_hubs_checksum_is_refused(hub: str, tmp_path: Path) -> None:
    Hub.listed = {"model.safetensors": "0" * 64}
    done = download(tmp_path, hub)
    assert done.returncode == 1 and "model.safetensors: not what the hub lists" in done.stderr


@pytest.mark.parametrize("commit", ["../../../../evil", "main", "a" * 39, "A" * 40, ""])
def test_a_commit_that_is_none_fetches_nothing(hub: str, tmp_path: Path, commit: str) -> None:
    Hub.commit = commit
    done = download(tmp_path, hub)
    assert done.returncode == 1 and "Traceback" not in done.stderr and not (tmp_path / "record.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["mine.yaml"]


@pytest.mark.parametrize("name", ["config.json", "a\0b.json", "x" * 5000])
def test_a_file_that_is_listed_and_not_sent_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(StageError, match="the hub lists this file, and did not send it"):
        _checked(tmp_path / name, SimpleNamespace(lfs=None, blob_id="0" * 40))


@pytest.mark.parametrize("revision", ["../../../evil", "-x", "a b", "/etc", 5, ["main"], {}])
def test_a_revision_that_is_none_is_one_line(revision: Any) -> None:
    with pytest.raises(StageError, match="backbones.b: revision"):
        _listed("backbones.b", "model", "me/model", revision)


def test_no_network_is_one_line(tmp_path: Path) -> None:
    done = download(tmp_path, "http://127.0.0.1:9")
    assert done.returncode == 1 and "cannot be found on the hub" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 5000, '{"a": 1}', "\x00"])
def test_a_damaged_record_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "downloads.json").write_text(text)
    with pytest.raises(StageError, match="not a record of downloads"):
        _recorded(tmp_path / "downloads.json")
