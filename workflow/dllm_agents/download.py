"""`dllm-agents download`: fetch every model and question file a run needs where there is a network, so that its jobs need none."""

from __future__ import annotations

import argparse
import hashlib
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from dllm_agents import foreign
from dllm_agents.benchmarks.qa_files import HUB_ADDRESS, local_file
from dllm_agents.commands import say
from dllm_agents.config import Config, load
from dllm_agents.errors import StageError
from dllm_agents.files import write_aside, write_json
from dllm_agents.layout import Results
from dllm_agents.models.checkpoints import HUB_FILES, from_hub, is_hub_name
from dllm_agents.provenance import file_sha256

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}")


def download(config: Config, record: Path) -> dict[str, Any]:
    """Fetch the hub checkpoints of the run's backbones and its hf:// question files, compare every file with the hub's checksum, and
    write down revision and checksums; returns the record: backbone or address -> model or dataset, revision, directory, files.

    What was downloaded before stays at its revision; what names none is pinned to the one found first.
    Raises StageError when the hub cannot be reached, or a file is not what the hub says.
    """
    records = _recorded(record) if record.is_file() else {}
    for name in dict.fromkeys([*config.used_backbones(), *config.run.verification.backbones]):
        backbone = config.backbones[name]
        if backbone.url or backbone.model is None or not is_hub_name(backbone.model):
            continue
        before = records.get(name, {})
        commit = backbone.revision or (before.get("revision") if before.get("model") == backbone.model else None)
        info = _listed(f"backbones.{name}", "model", backbone.model, commit)
        directory = from_hub(backbone.model, info.sha)
        _name(directory, backbone.revision, info.sha)
        files = {item.rfilename: _checked(directory / item.rfilename, item) for item in info.siblings or [] if _is_read(item.rfilename)}
        records[name] = {"model": backbone.model, "revision": info.sha, "directory": str(directory), "files": files}
        write_json(record, records)
    for address in _question_files(config):
        repo, revision, name = HUB_ADDRESS.fullmatch(address).groups()  # type: ignore[union-attr]
        info = _listed(address, "dataset", repo, revision or records.get(address, {}).get("revision"))
        item = next((item for item in info.siblings or [] if item.rfilename == name), None)
        if item is None:
            raise StageError(f"{address}: {repo} has no such file; correct the name")
        path = local_file(f"hf://datasets/{repo}@{info.sha}/{name}")
        _name(path, revision, info.sha)
        files = {path.name: _checked(path, item)}
        records[address] = {"dataset": repo, "revision": info.sha, "directory": str(path.parent), "files": files}
        write_json(record, records)
    return records


def _recorded(record: Path) -> dict[str, Any]:
    """What an earlier download wrote. Raises StageError for a damaged record."""
    try:
        entries = foreign.loads(record.read_bytes())
    except ValueError:
        entries = None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise StageError(f"{record}: not a record of downloads; delete it, and what it pinned is found anew")
    return entries


def _question_files(config: Config) -> list[str]:
    """The addresses on the hub among the files that the run's benchmarks read."""
    if "multihop_qa" not in config.run.benchmarks:
        return []
    return [path for path in config.benchmarks.multihop_qa.files.values() if HUB_ADDRESS.fullmatch(path)]


def _listed(key: str, kind: Literal["model", "dataset"], name: str, revision: str | None) -> Any:
    """What the hub says of a repository: commit, and every file with its checksum. Raises StageError when it cannot be asked."""
    from huggingface_hub import HfApi

    if revision is not None and (not isinstance(revision, str) or not _REVISION.fullmatch(revision) or ".." in revision):
        raise StageError(f"{key}: revision {revision!r} is no commit, branch or tag; correct it")
    try:
        info = HfApi().repo_info(name, repo_type=kind, revision=revision, files_metadata=True)
    except Exception as error:  # the hub's own, and those of whatever HTTP client it uses
        reason = " ".join(str(error).split())[:200]
        raise StageError(f"{key}: {name} cannot be found on the hub ({reason}); correct the name or go online") from None
    if not re.fullmatch("[0-9a-f]{40}", str(info.sha)):
        raise StageError(f"{key}: the hub names {str(info.sha)[:60]!r} as the commit of {name}, which is none; nothing was fetched")
    return info


def _name(snapshot: Path, revision: str | None, commit: str) -> None:
    """Have the local cache answer with this commit when a job without a network asks for the revision, a branch or tag; null is `main`.
    `snapshot` lies in <cache>/<repository>/snapshots/<commit>, names in <cache>/<repository>/refs."""
    if (revision or "main") != commit:
        repository = next(path.parent for path in (snapshot, *snapshot.parents) if path.parent.name == "snapshots").parent
        with write_aside(repository / "refs" / (revision or "main")) as handle:
            handle.write(commit)


def _is_read(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in HUB_FILES)


def _checked(path: Path, listed: Any) -> str:
    """SHA-256 of a file that is what the hub lists. Raises StageError when it is not: large files are listed by SHA-256, small ones by
    git's blob id."""
    try:
        digest = file_sha256(path)
    except (OSError, ValueError):
        raise StageError(f"{path}: the hub lists this file, and did not send it; download again") from None
    if listed.lfs is not None:
        right = digest == listed.lfs.sha256
    else:
        content = path.read_bytes()
        right = hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest() == listed.blob_id
    if not right:
        raise StageError(f"{path}: not what the hub lists (checksum); delete it and download again")
    return digest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "record of revisions and checksums (default: results/<scale>/downloads.json)"
    parser.add_argument("--output", type=Path, metavar="FILE", help=text)


def run(args: argparse.Namespace) -> None:
    config = load(args.config)
    record = args.output or Results(Path(config.results)).downloads
    for name, entry in download(config, record).items():
        source = entry.get("model") or entry["dataset"]
        say(f"{name}: {source} at {entry['revision']} in {entry['directory']}, {len(entry['files'])} files as the hub lists them")
    say(f"{record}: written; jobs need no network with HF_HUB_OFFLINE=1")
