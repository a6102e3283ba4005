"""A study's journal on one host that no kill can poison.

Optuna appends a line per operation. A process killed in the middle of an append leaves half a line; the next append
goes on behind it, and from then on every load fails (seen with Optuna 5.0). So whoever takes the lock first cuts off
what lies behind the last line's end. The lock is the kernel's: it dies with its holder, where Optuna's own file locks
wait 30 seconds for a dead one.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK_BYTES = 4096


class RepairingLock(JournalFileOpenLock):
    """Holds a journal for one append, and mends its end first.

    Args:
        journal: The journal; the lock is a file beside it.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._handle = -1

    def acquire(self) -> bool:
        """Wait for the lock, then cut a torn last line off.

        Returns:
            True.
        """
        handle = os.open(self._journal.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(handle, fcntl.LOCK_EX)
        self._handle = handle
        cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        """Let go."""
        os.close(self._handle)
        self._handle = -1


def open_journal(journal: Path) -> JournalStorage:
    """Open or make a study's storage.

    Args:
        journal: The file.

    Returns:
        Storage for any number of processes on this host.
    """
    lock = RepairingLock(journal)
    backend = JournalFileBackend(str(journal), lock_obj=lock)
    lock.acquire()
    lock.release()
    return JournalStorage(backend)


def cut_torn_line(journal: Path) -> int:
    """Cut off what lies behind the end of the last whole line. Only under the lock.

    Args:
        journal: The file; may be absent.

    Returns:
        Bytes that were cut off.
    """
    try:
        size = journal.stat().st_size
    except FileNotFoundError:
        return 0
    whole = _end_of_last_line(journal, size)
    if whole < size:
        os.truncate(journal, whole)
    return size - whole


def _end_of_last_line(journal: Path, size: int) -> int:
    with journal.open("rb") as file:
        end = size
        while end > 0:
            start = max(0, end - _CHUNK_BYTES)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0
