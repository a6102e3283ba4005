"""A file that only takes room, to be given up when the disk is full.

On a full disk SQLite cannot delete either, since the deletion goes through its log. Giving up the reserve lets it.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a disk says that has no room."""
_RESTORE_ABOVE_BYTES = 64 << 20


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

    def restore(self, *, above_bytes: int = _RESTORE_ABOVE_BYTES) -> None:
        """Take the room again; a disk that refuses is asked again later.

        Args:
            above_bytes: Only when so much is free.
        """
        if self._file.exists():
            return
        if free_bytes(self._file.parent) < above_bytes:
            return
        try:
            with self._file.open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, self.SIZE)
        except OSError:
            self._file.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder.

    Raises:
        OSError: The disk does not say.
    """
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
