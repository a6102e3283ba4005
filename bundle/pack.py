"""Writes a bundle, whole or not at all: files -> hashes -> manifest -> verification -> rename into place."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bundle.durable import fsync_dir, fsync_tree, write_json
from bundle.errors import ConfigError
from bundle.manifest import MANIFEST_NAME, FileEntry, Manifest
from bundle.verify import load_bundle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bundle.verify import Bundle


def file_entry(data: bytes) -> FileEntry:
    """Describe a file's content for the manifest.

    Args:
        data: The whole content.

    Returns:
        Its size and sha256.
    """
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def pack(out: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle.

    Args:
        out: Folder to create; it must not exist.
        manifest: Complete, with an entry for each of `files`.
        files: Content by name.

    Returns:
        The bundle, read back and verified.

    Raises:
        ConfigError: `out` exists.
        BundleError: The files are not those of the manifest.
        OSError: The disk refused; `out` does not exist then.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already", fix="Bundles are immutable: name a new folder, or remove this one.")
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        for name, data in files.items():
            (staging / name).write_bytes(data)
        write_json(staging / MANIFEST_NAME, manifest.model_dump(mode="json"))
        load_bundle(staging)
        fsync_tree(staging)
        staging.chmod(0o755)
        staging.rename(out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    fsync_dir(out.parent)
    return load_bundle(out)
