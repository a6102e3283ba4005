"""Bundles from a folder, an address or an object store: flat files, each bounded and hashed while it comes.

Nothing is trusted but the digest in the command: the manifest must have it, and names every other file's size and hash.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import stat
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bundle.errors import BintallyError
from bundle.manifest import MANIFEST_NAME
from bundle.verify import read_manifest
from edge_agent.commands.reasons import CommandError, Reason
from edge_agent.delivery.iot import IotCredentials
from edge_agent.delivery.s3 import read_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import Message
    from http.client import HTTPResponse
    from typing import IO

    from edge_agent.config import CommandsSection, S3Section

_MAX_MANIFEST_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
_TIMEOUT_S = 20.0
_LEAST_BYTES_PER_S = 10_000
"""A sender that is slower than this, after a minute of grace, is given up."""
_GRACE_S = 60.0


class Source(Protocol):
    """Where a bundle's files are."""

    def read(self, name: str) -> Iterator[bytes]:
        """Read a file.

        Args:
            name: Of the file, without folders.

        Yields:
            Its bytes, in pieces.

        Raises:
            OSError: It cannot be read.
            BintallyError: It cannot be read.
        """
        ...


class FolderSource:
    """A folder of this machine, a USB stick for example."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> Iterator[bytes]:
        """Read a file; see `Source.read`."""
        # Without blocking, so that a pipe that lies there under a file's name does not hold the robot up.
        handle = os.open(self._folder / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(0, "not a plain file", name)
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk


class WebSource:
    """An address; a redirect leads elsewhere and is refused."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        self._opener = urllib.request.build_opener(_NoRedirect())

    def read(self, name: str) -> Iterator[bytes]:
        """Read a file; see `Source.read`."""
        try:
            answer: HTTPResponse
            with self._opener.open(f"{self._address}/{name}", timeout=_TIMEOUT_S) as answer:
                while chunk := answer.read1(_CHUNK_BYTES):
                    yield chunk
        except urllib.error.HTTPError as exc:
            exc.close()
            raise OSError(0, f"the server answers {exc.code}", name) from exc
        except (urllib.error.URLError, http.client.HTTPException, ValueError) as exc:
            raise OSError(0, str(exc), name) from exc


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        del req, fp, code, msg, headers, newurl


class BucketSource:
    """A prefix in an object store, with the agent's own credentials."""

    def __init__(self, settings: S3Section, robot: str, bucket: str, prefix: str) -> None:
        self._settings = settings.model_copy(update={"bucket": bucket})
        self._credentials = None if settings.iot is None else IotCredentials(settings.iot, robot)
        self._prefix = prefix.strip("/")

    def read(self, name: str) -> Iterator[bytes]:
        """Read a file; see `Source.read`."""
        return read_object(
            self._settings, self._credentials, f"{self._prefix}/{name}" if self._prefix else name, _CHUNK_BYTES
        )


def open_source(text: str, settings: CommandsSection, s3: S3Section | None, robot: str) -> Source:
    """Find a source, if the robot may use it.

    Args:
        text: As the command says: a folder, `s3://bucket/prefix`, or an address.
        settings: What is allowed.
        s3: How to reach an object store.
        robot: Name of the robot.

    Returns:
        The source.

    Raises:
        CommandError: It is not allowed.
    """
    levels = text.rsplit("://", maxsplit=1)[-1].split("/")
    allowed = any(text.startswith(f"{prefix.rstrip('/')}/") for prefix in settings.bundle_sources)
    if not allowed or ".." in levels or "." in levels or set(text) & set("?#%\\@"):
        raise CommandError(Reason.SOURCE_NOT_ALLOWED, f"allowed: {', '.join(settings.bundle_sources) or 'none'}")
    if text.startswith("s3://"):
        if s3 is None:
            raise CommandError(Reason.SOURCE_NOT_ALLOWED, "the robot's configuration has no [s3]")
        bucket, _, prefix = text.removeprefix("s3://").partition("/")
        return BucketSource(s3, robot, bucket, prefix)
    if text.startswith(("https://", "http://")):
        return WebSource(text)
    if text.startswith("/"):
        return FolderSource(Path(text))
    raise CommandError(Reason.SOURCE_NOT_ALLOWED, "a source is a folder, s3://bucket/prefix, or an address")


def fetch(source: Source, digest: str, folder: Path, max_bytes: int, pulse: Callable[[float], bool]) -> bool:
    """Fetch a bundle's files.

    Args:
        source: Where from.
        digest: sha256 of the manifest.
        folder: Where to; emptied first.
        max_bytes: Of the whole bundle.
        pulse: Called with the share that has come; True ends it early.

    Returns:
        False when `pulse` ended it.

    Raises:
        CommandError: A file cannot be read, or is not what the digest says.
        OSError: This robot's disk refused.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        _fetch(source, digest, folder, max_bytes, pulse)
    except _StoppedError:
        return False
    return True


class _StoppedError(Exception):
    """The fetch was ended early."""


def _fetch(source: Source, digest: str, folder: Path, max_bytes: int, pulse: Callable[[float], bool]) -> None:
    if _copy(source, MANIFEST_NAME, folder, _MAX_MANIFEST_BYTES, pulse=lambda _: pulse(0.0)) != digest:
        raise CommandError(Reason.BUNDLE_REFUSED, "its manifest has another digest than the command")
    manifest, _ = read_manifest(folder)
    total = sum(entry.bytes for entry in manifest.files.values())
    free = shutil.disk_usage(folder).free
    if total > max_bytes or 2 * total > free:
        raise CommandError(Reason.BUNDLE_REFUSED, f"{total} bytes; at most {max_bytes}, twice that must be free")
    done = 0
    for name, entry in manifest.files.items():

        def pulse_file(got: int, before: int = done) -> bool:
            return pulse((before + got) / max(1, total))

        if _copy(source, name, folder, entry.bytes, pulse=pulse_file) != entry.sha256:
            raise CommandError(Reason.BUNDLE_REFUSED, f"{name} is not what the manifest says")
        done += entry.bytes


def _copy(source: Source, name: str, folder: Path, max_bytes: int, *, pulse: Callable[[int], bool]) -> str:
    """Copy one file.

    Returns:
        Its sha256.

    Raises:
        _StoppedError: `pulse` ended it.
    """
    hashed, size, started_s = hashlib.sha256(), 0, time.monotonic()
    with (folder / name).open("wb") as file:
        for chunk in _readable(source, name):
            size += len(chunk)
            slow = size < (time.monotonic() - started_s - _GRACE_S) * _LEAST_BYTES_PER_S
            if size > max_bytes or slow:
                words = "comes too slowly" if slow else f"is larger than {max_bytes} bytes"
                raise CommandError(Reason.DOWNLOAD_FAILED if slow else Reason.BUNDLE_REFUSED, f"{name} {words}")
            hashed.update(chunk)
            file.write(chunk)
            if pulse(size):
                raise _StoppedError
    return hashed.hexdigest()


def _readable(source: Source, name: str) -> Iterator[bytes]:
    """Read a file, telling the source's errors from those of this robot's disk."""
    try:
        yield from source.read(name)
    except OSError as exc:
        raise CommandError(Reason.DOWNLOAD_FAILED, f"{name}: {exc.strerror or exc}", state="failed") from exc
    except BintallyError as exc:
        raise CommandError(Reason.DOWNLOAD_FAILED, f"{name}: {exc}", state="failed") from exc
