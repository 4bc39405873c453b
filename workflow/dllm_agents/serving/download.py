"""`dllm-agents download`: fetch every model a run needs where there is a network, so that its jobs need none."""

from __future__ import annotations

import hashlib
import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from dllm_agents.config import Config
from dllm_agents.errors import StageError
from dllm_agents.records import write_json
from dllm_agents.serving.checkpoints import HUB_FILES, from_hub, is_hub_name


def download(config: Config, record: Path) -> dict[str, Any]:
    """Fetch the hub checkpoints of the run's backbones, compare every file with the hub's checksum, and write down revision and
    checksums; returns the record: backbone -> model, revision, directory, files.

    What was downloaded before stays at its revision; a backbone without `revision` is pinned to the one found first.
    Raises StageError when the hub cannot be reached, or a file is not what the hub or the record says.
    """
    from huggingface_hub import HfApi

    known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    names = dict.fromkeys([*config.used_backbones(), *config.run.verification.backbones])
    for name in names:
        backbone = config.backbones[name]
        if backbone.url or backbone.model is None or not is_hub_name(backbone.model):
            continue
        before = known.get(name, {})
        wanted = backbone.revision or (before.get("revision") if before.get("model") == backbone.model else None)
        try:
            info = HfApi().model_info(backbone.model, revision=wanted, files_metadata=True)
        except Exception as error:  # the hub's own, and those of whatever HTTP client it uses
            reason = " ".join(str(error).split())[:200]
            raise StageError(
                f"backbones.{name}: {backbone.model} cannot be found on the hub ({reason}); correct the name or go online"
            ) from None
        directory = from_hub(backbone.model, info.sha)
        files = {}
        for item in info.siblings or []:
            if any(fnmatch(item.rfilename, pattern) for pattern in HUB_FILES):
                files[item.rfilename] = _checked(directory / item.rfilename, item)
        if before.get("revision") == info.sha and before["files"] != files:
            raise StageError(f"backbones.{name}: {directory} is not what {record} recorded; delete that folder and download again")
        known[name] = {"model": backbone.model, "revision": info.sha, "directory": str(directory), "files": files}
        write_json(record, known)
    return known


def _checked(path: Path, listed: Any) -> str:
    """SHA-256 of a file that is what the hub lists. Raises StageError when it is not: large files are listed by SHA-256, small ones by
    git's blob id."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if listed.lfs is not None:
        right = found == listed.lfs.sha256
    else:
        content = path.read_bytes()
        right = hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest() == listed.blob_id
    if not right:
        raise StageError(f"{path}: not what the hub lists (checksum); delete it and download again")
    return found
