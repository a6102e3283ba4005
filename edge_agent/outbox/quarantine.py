"""Damaged outboxes, each with its receipts in a folder of its own in `quarantine/` beside the new one.

A folder's name ends in ".unfinished" until every row that can be trusted was taken over; the renaming is one step, and
needs no room on the disk. The newest three are kept, within half of the state folder's bound; one that is not finished
goes only for a newer one, and that is counted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bundle.durable import fsync_dir
from edge_agent.outbox.receipts import Receipts

if TYPE_CHECKING:
    from pathlib import Path

_KEPT = 3
_UNFINISHED = ".unfinished"
_PARTS = ("", "-wal", "-shm")


class Quarantine:
    """The folders that belong to one outbox.

    Args:
        outbox: The database file.
    """

    def __init__(self, outbox: Path) -> None:
        self._outbox = outbox
        self._root = outbox.parent / "quarantine"

    @property
    def size(self) -> int:
        """Bytes on disk, which count towards the bound of the state folder."""
        return sum(file.stat().st_size for file in self._root.rglob("*") if file.is_file())

    @property
    def unfinished(self) -> list[Path]:
        """Folders that still hold rows to be taken over, oldest first."""
        return sorted(self._root.glob(f"*{_UNFINISHED}"))

    def end_move(self) -> None:
        """Let the log follow the file that a kill has parted it from. Call it before anything opens the outbox.

        Raises:
            OSError: The disk refused.
        """
        if self.unfinished and not self._outbox.exists():
            self._move(self.unfinished[-1])

    def take(self) -> Path:
        """Move the outbox away.

        Returns:
            The folder where it lies now.

        Raises:
            OSError: The disk refused.
        """
        # Not the clock alone: without a battery it begins anew at every boot.
        newest = max((int(put.stem) for put in self._root.glob("*") if put.stem.isdecimal()), default=0)
        folder = self._root / f"{max(time.time_ns(), newest + 1):020d}{_UNFINISHED}"
        folder.mkdir(parents=True)
        self._move(folder)
        return folder

    def _move(self, folder: Path) -> None:
        # The file first: without it, its log alone is never taken for an outbox.
        for name in (*(self._outbox.name + suffix for suffix in _PARTS), Receipts.NAME):
            part = self._outbox.with_name(name)
            if part.exists() and not (folder / part.name).exists():
                part.rename(folder / part.name)
        fsync_dir(folder)
        fsync_dir(self._outbox.parent)

    def finish(self, folder: Path) -> None:
        """Note that everything was taken over. A folder that a kill has left empty goes.

        Args:
            folder: One of the unfinished.

        Raises:
            OSError: The disk refused.
        """
        if any(folder.iterdir()):
            folder.rename(self.finished(folder))
        else:
            folder.rmdir()
        fsync_dir(self._root)

    @staticmethod
    def finished(folder: Path) -> Path:
        """Name that one of the unfinished has once it is finished."""
        return folder.with_suffix("")

    def bound(self, max_bytes: int) -> int:
        """Remove the oldest folders, those that are finished first; the newest unfinished one stays in any case.

        Args:
            max_bytes: Of all that stay.

        Returns:
            How many went that were not finished.

        Raises:
            OSError: The disk refused.
        """
        unfinished = self.unfinished
        kept = sorted(set(self._root.glob("*")) - set(unfinished)) + unfinished
        given_up = 0
        while kept and (len(kept) > _KEPT or self.size > max_bytes) and kept[0] not in unfinished[-1:]:
            oldest = kept.pop(0)
            for file in oldest.iterdir():
                file.unlink()
            oldest.rmdir()
            given_up += oldest in unfinished
        return given_up
