"""Images that wait for upload, as files: whole or absent, also after a power cut.

Order of writing: temporary file -> fsync -> rename -> fsync of the folder -> row. Order of removing: row, then file. A
kill in between leaves a file without a row, which `sweep` removes; a row without a file cannot arise.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from bundle.durable import fsync_dir
from bundle.errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_SUFFIX = ".image"
_PART = ".part"


class Spool:
    """A folder of image files, named by the event that they belong to.

    Args:
        folder: Created when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, event_id: str) -> Path:
        """Where an event's image lies."""
        return self._folder / f"{event_id}{_SUFFIX}"

    def write(self, images: Mapping[str, bytes]) -> None:
        """Write images durably, the folder synced once for all of them.

        Args:
            images: By event id.

        Raises:
            OSError: The disk refused; what was written of these images is removed.
        """
        if not images:
            return
        try:
            for event_id, data in images.items():
                self._write_one(event_id, data)
            fsync_dir(self._folder)
        except OSError:
            self.remove(images)
            raise

    def _write_one(self, event_id: str, data: bytes) -> None:
        target = self.path(event_id)
        part = target.with_suffix(_PART)
        part.unlink(missing_ok=True)  # whatever lies there: a link would lead elsewhere, a pipe would wait for ever
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(handle)
        part.rename(target)

    def read(self, event_id: str) -> bytes | None:
        """Read an image.

        Args:
            event_id: Whose.

        Returns:
            Its bytes, None when it is gone; nothing of what is no file, and no link is followed.

        Raises:
            DeliveryError: It cannot be read.
        """
        try:
            handle = os.open(self.path(event_id), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    return b""
                with os.fdopen(handle, "rb", closefd=False) as file:
                    return file.read()
            finally:
                os.close(handle)
        except FileNotFoundError:
            return None
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                return b""
            raise DeliveryError(f"{self.path(event_id)} cannot be read", got=exc.strerror) from exc

    def remove(self, event_ids: Iterable[str]) -> None:
        """Remove images that are there; never fails for one that is not, or is no file."""
        for event_id in event_ids:
            for path in (self.path(event_id), self.path(event_id).with_suffix(_PART)):
                with suppress(FileNotFoundError, IsADirectoryError):
                    path.unlink()

    def sweep(self, expected: Mapping[str, int], *, keep_others: bool = False) -> set[str]:
        """Bring the folder in line with the rows, at start.

        Args:
            expected: Size of each image that has a row, by event id.
            keep_others: Leave files without a row alone, because rows are missing.

        Returns:
            Event ids whose file is missing or has another size.
        """
        found: dict[str, int] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                event_id = entry.name.removesuffix(_SUFFIX)
                if entry.name.endswith(_SUFFIX) and event_id in expected and entry.is_file(follow_symlinks=False):
                    found[event_id] = entry.stat(follow_symlinks=False).st_size
                elif not keep_others and not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)  # noqa: PTH108 - an entry of scandir
        return {event_id for event_id, size in expected.items() if found.get(event_id) != size}
