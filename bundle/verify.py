"""A folder in, a trusted Bundle or a BundleError out.

Invariants:
- Every file but manifest.json is listed with size and sha256; a missing, altered, unlisted or linked file refuses the
  bundle.
- `Bundle.read` hashes again what it hands out, so that what is loaded is what was verified, whatever happened since.
- No network, no runtime, no archive: nothing is unpacked, nothing is executed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from bundle.durable import sha256_file
from bundle.errors import IntegrityError, ManifestError
from bundle.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest
from bundle.version import VERSION

if TYPE_CHECKING:
    from pathlib import Path

_MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle.

    Attributes:
        path: Its folder.
        manifest: The parsed manifest.
        digest: sha256 of manifest.json, which names every other file's hash: the bundle's identity.
    """

    path: Path
    manifest: Manifest
    digest: str

    @property
    def label(self) -> str:
        """Name for people and messages: name, version and the start of the digest."""
        return f"{self.manifest.name}-{self.manifest.version}+{self.digest[:12]}"

    def read(self, name: str) -> bytes:
        """Read one file of the bundle, hashing the very bytes that are returned.

        Args:
            name: A key of `manifest.files`.

        Returns:
            The file's content.

        Raises:
            IntegrityError: The file is not listed, is gone, or is no longer what the manifest lists.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise IntegrityError(f"bundle {self.path} lists no file {name}", expected=sorted(self.manifest.files))
        data = _open_bounded(self.path / name, entry.bytes)
        _compare(self.path / name, len(data), hashlib.sha256(data).hexdigest(), entry.bytes, entry.sha256)
        return data


def load_bundle(path: Path) -> Bundle:
    """Verify a bundle completely.

    Args:
        path: The bundle's folder.

    Returns:
        The bundle, every file hashed.

    Raises:
        ManifestError: manifest.json is missing, malformed or of another format version.
        IntegrityError: A file is missing, altered, unlisted, or not a plain file.
    """
    manifest, digest = read_manifest(path)
    unlisted = {child.name for child in path.iterdir()} - set(manifest.files) - {MANIFEST_NAME}
    if unlisted:
        raise IntegrityError(
            f"bundle {path} holds files that its manifest does not list",
            got=sorted(unlisted),
            fix="Remove them, or fetch the bundle again.",
        )
    for name, entry in manifest.files.items():
        file = path / name
        if file.is_symlink() or not file.is_file():
            raise IntegrityError(f"{file} is missing from the bundle", fix="Fetch or build the bundle again.")
        _compare(file, file.stat().st_size, sha256_file(file), entry.bytes, entry.sha256)
    return Bundle(path, manifest, digest)


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Parse manifest.json without touching the files it lists.

    Args:
        path: The bundle's folder.

    Returns:
        The manifest, and the sha256 of its bytes.

    Raises:
        ManifestError: It is missing, malformed, or of another format version.
    """
    file = path / MANIFEST_NAME
    if not file.is_file():
        raise ManifestError(
            f"{path} is not a bundle",
            got=f"no {MANIFEST_NAME}",
            fix="Name a folder that `bintally export` wrote.",
        )
    data = _open_bounded(file, _MAX_MANIFEST_BYTES)
    try:
        content = json.loads(data)
        version = content["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ManifestError(f"{file} is not a manifest", got=repr(exc), fix="Fetch the bundle again.") from exc
    if version != FORMAT_VERSION:
        raise ManifestError(
            f"{file} has a format that this version does not read",
            got=version,
            expected=FORMAT_VERSION,
            fix="Update bintally, or export the bundle for this version.",
        )
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise ManifestError(
            f"{file} is not valid at {where}", got=first["msg"], fix="Export the bundle again."
        ) from exc
    if _numbers(manifest.minimum_agent) > _numbers(VERSION):
        raise ManifestError(
            f"bundle {path} needs a newer bintally", got=VERSION, expected=f"{manifest.minimum_agent} or newer"
        )
    return manifest, hashlib.sha256(data).hexdigest()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _open_bounded(file: Path, limit: int) -> bytes:
    try:
        with file.open("rb") as handle:
            return handle.read(limit + 1)
    except OSError as exc:
        raise IntegrityError(f"{file} cannot be read", got=exc.strerror, fix="Check the disk and the rights.") from exc


def _compare(file: Path, size: int, digest: str, expected_size: int, expected_digest: str) -> None:
    if size != expected_size:
        raise IntegrityError(
            f"{file} is not the published file",
            got=f"{size} bytes or more",
            expected=f"{expected_size} bytes",
            fix="Fetch the bundle again.",
        )
    if digest != expected_digest:
        raise IntegrityError(
            f"{file} is not the published file",
            got=f"sha256 {digest[:16]}...",
            expected=f"{expected_digest[:16]}...",
            fix="Fetch the bundle again; if it happens twice, check the disk.",
        )
