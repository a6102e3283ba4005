"""Reading a damaged SQLite file: row by row, stepping over what cannot be read.

The file is mended first, by adding to it and taking nothing away: a lost header is written anew, a lost end is filled
with zeros. Rows behind a filled hole fail one by one instead of all together. What may pass, a lock of another process
or a disk that is full or away, is raised: it is neither a hole nor the end.
"""

from __future__ import annotations

import sqlite3
import struct
from typing import TYPE_CHECKING

from edge_agent.outbox.schema import APPLICATION_ID, FORMAT, PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAX_ID = 1 << 61
_LOCK_WAIT_S = 0.5
_IO_ERROR = "disk I/O error"
_MAY_PASS = (
    _IO_ERROR,
    "database is locked",
    "database table is locked",
    "locking protocol",
    "unable to open database file",
    "database or disk is full",
    "attempt to write a readonly database",
)
"""SQLite's words: Python 3.10 does not tell its codes."""
_MAGIC = b"SQLite format 3\0"
# The file format's header, big-endian (sqlite.org/fileformat2.html, section 1.3).
_HEADER = struct.Struct(">16sHBBBBBBIIIIIIIIIIII20xII")


class DamagedFile:
    """An open damaged file.

    Args:
        path: Of an outbox; not empty.

    Raises:
        OSError: The disk refuses to have it mended.
        sqlite3.Error: It cannot be opened now.
    """

    def __init__(self, path: Path) -> None:
        _mend(path)
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=_LOCK_WAIT_S)

    def close(self) -> None:
        """Close it."""
        self.connection.close()

    def rows(self, table: str, columns: str, after: int) -> Iterator[tuple[object, ...]]:
        """Read rows one by one, stepping over holes.

        Args:
            table: Which.
            columns: Names, the first of them "id".
            after: Only ids above this.

        Yields:
            Rows in the order of their ids; values may be of any type.

        Raises:
            sqlite3.Error: It cannot be read now.
        """
        query = f"SELECT {columns} FROM {table} WHERE id > ? ORDER BY id LIMIT 1"  # noqa: S608 - constants
        try:
            self.connection.execute(f"SELECT 1 FROM {table} WHERE 0")  # noqa: S608 - constants
            while True:
                found = self._read_after(query, after)
                if found is None:
                    found = self._behind_hole(query, after)
                if not found:
                    return
                after = int(str(found[0]))
                yield found
        except (sqlite3.DatabaseError, ValueError, OverflowError) as exc:
            if _may_pass(exc):
                raise

    def _read_after(self, query: str, after: int) -> tuple[object, ...] | None:
        """Read the next row: nothing () at the end, None where the file cannot be read."""
        try:
            row: tuple[object, ...] | None = self.connection.execute(query, (after,)).fetchone()
        except sqlite3.DatabaseError as exc:
            # A bad sector is stepped over; a disk that gives nothing at all any more is raised behind it.
            if _may_pass(exc) and (str(exc) != _IO_ERROR or after >= _MAX_ID):
                raise
            return None
        return row or ()

    def _behind_hole(self, query: str, after: int) -> tuple[object, ...]:
        """Find the first row behind a hole: ever wider steps until something can be read, then halving back."""
        low, step = after, 1
        while (found := self._read_after(query, after + step)) is None:
            low, step = after + step, step * 2
            if step > _MAX_ID:
                return ()
        high = after + step
        while high - low > 1:
            middle = (low + high) // 2
            nearer = self._read_after(query, middle)
            if nearer is None:
                low = middle
            else:
                high, found = middle, nearer
        return found


def _may_pass(exc: Exception) -> bool:
    return isinstance(exc, sqlite3.OperationalError) and str(exc).startswith(_MAY_PASS)


def _mend(path: Path) -> None:
    with path.open("r+b") as file:
        head = file.read(_HEADER.size)
        pages = -(-path.stat().st_size // PAGE_BYTES)
        if not head.startswith(_MAGIC):
            file.seek(0)
            layout = (_MAGIC, PAGE_BYTES, 2, 2, 0, 64, 32, 32)
            numbers = (1, pages, 0, 0, 1, 4, 0, 0, 1, FORMAT, 0, APPLICATION_ID, 1, 3_040_001)
            file.write(_HEADER.pack(*layout, *numbers))
        else:
            pages = max(pages, int(_HEADER.unpack(head)[9])) if len(head) == _HEADER.size else pages
        file.truncate(pages * PAGE_BYTES)
