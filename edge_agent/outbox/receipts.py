"""What the broker has confirmed, noted beside the outbox, so that delivered rows need no transaction of their own.

A note is sixteen bytes in a file of one page: no fsync, no lock, a microsecond. A kill of the agent leaves it to the
kernel, which has it; only a power cut can lose it, and then a count is delivered again, under the same event_id.

Invariants:
- A note is made after the confirmation, never before.
- It names an event, not a row: rows' numbers are given again after a restart, events' names never. A note that a kill
  cut in two, or that is older than its row's removal, names nothing.
- The ring is bounded: whoever notes must have no more than `SLOTS` confirmed messages in the outbox.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_NOTE_BYTES = 16


class Receipts:
    """A ring of notes. Read once at the start, then written by the delivery thread alone.

    Args:
        path: The file; created when missing. Where the disk refuses it, nothing is noted.
    """

    NAME = "receipts"
    SLOTS = 256

    def __init__(self, path: Path) -> None:
        self._slot = 0
        self._descriptor: int | None = None
        self._found: frozenset[bytes] = frozenset()
        size = self.SLOTS * _NOTE_BYTES
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            data = os.pread(self._descriptor, size, 0)
            notes = {data[at : at + _NOTE_BYTES] for at in range(0, len(data), _NOTE_BYTES)}
            self._found = frozenset(notes - {bytes(_NOTE_BYTES)})
            if len(data) < size:
                os.posix_fallocate(self._descriptor, 0, size)
        except OSError:
            self.close()

    @property
    def empty(self) -> bool:
        """An earlier run has noted nothing."""
        return not self._found

    def names(self, event_id: str) -> bool:
        """Tell whether an earlier run has noted an event.

        Args:
            event_id: Of a message.
        """
        return _note(event_id) in self._found

    def forget(self) -> None:
        """Begin anew: every message that an earlier run has noted was removed."""
        self._found = frozenset()
        self._write(bytes(self.SLOTS * _NOTE_BYTES), 0)

    def note(self, event_id: str) -> None:
        """Note that a message was confirmed.

        Args:
            event_id: Its event.
        """
        self._write(_note(event_id), self._slot * _NOTE_BYTES)
        self._slot = (self._slot + 1) % self.SLOTS

    def _write(self, data: bytes, offset: int) -> None:
        if self._descriptor is None:
            return
        try:
            os.pwrite(self._descriptor, data, offset)
        except OSError:
            return  # Without the note, the count is delivered again after a kill.

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _note(event_id: str) -> bytes:
    return hashlib.blake2b(event_id.encode(), digest_size=_NOTE_BYTES).digest()
