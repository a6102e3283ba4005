"""A file that only takes room, to be given up when the disk is full.

On a full disk SQLite cannot delete either, since the deletion goes through its log. Giving up the reserve lets it. On a
disk that is nearly full the reserve is smaller, and grows when there is room.
"""

from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

_PAGE_BYTES = 4096
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a disk says that has no room."""
_LEAST_BYTES = 32 << 10
"""Less does not help: a deletion writes several pages of 4 KiB."""


class Reserve:
    """The file.

    Args:
        file: Where.
    """

    SIZE: ClassVar[int] = 1 << 20

    def __init__(self, file: Path) -> None:
        self._file = file

    def release(self) -> bool:
        """Give the room up.

        Returns:
            Whether there was any.
        """
        held = self._file.exists() and self._file.stat().st_size > 0
        self._file.unlink(missing_ok=True)
        return held

    def restore(self, *, share: float = 0.5) -> None:
        """Take the room again, or as much of it as there is; a disk that refuses is asked again later.

        Args:
            share: At most so much of what is free.
        """
        try:
            held = self._file.stat().st_size if self._file.exists() else 0
            size = min(self.SIZE, held + int(free_bytes(self._file.parent) * share))
            if held == self.SIZE or size - held < _LEAST_BYTES:
                return
            with self._file.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder.

    Raises:
        OSError: The disk does not say.
    """
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def stands_at_limit(*files: Path) -> bool:
    """Tell whether the kernel lets one of these files grow no further (RLIMIT_FSIZE). SQLite calls that an I/O error.

    Args:
        files: Those that are not there have no size.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit == resource.RLIM_INFINITY:
        return False
    return any(file.exists() and file.stat().st_size + _PAGE_BYTES >= limit for file in files)
