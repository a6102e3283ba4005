"""Opening an outbox that may be damaged: check, move aside, save every row that still checks out.

A damaged file goes to quarantine/, since it may hold the only copy of a count; the newest three are kept, within half
of the state folder's bound. A file that vanished although the outbox was in use is a loss and is reported, not taken
for a first start. A disk that is full, read-only or broken is none of these: the outbox is left as it is.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import struct
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bundle.errors import ConfigError, DeliveryError
from edge_agent.commands.table import Salvaged, salvage
from edge_agent.outbox_file import APPLICATION_ID, FORMAT, OutboxFile
from edge_agent.reserve import Reserve
from edge_agent.rows import StoredImage, StoredMessage, checksum

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_KEPT_QUARANTINES = 3
_MAX_ID = 1 << 61
_PROBE_BYTES = 128 << 10
"""More than SQLite needs to open a file: its index of the log takes 32 KiB."""
_PAGE_BYTES = 4096
_MAGIC = b"SQLite format 3\0"
# The file format's header, big-endian (sqlite.org/fileformat2.html, section 1.3).
_HEADER = struct.Struct(">16sHBBBBBBIIIIIIIIIIII20xII")
_COLUMNS = {
    "message": "id, event_id, kind, topic, retained_topic, payload, created_up_s, checksum",
    "image": "id, event_id, key, size, sidecar, created_up_s, checksum",
}


@dataclass(frozen=True, slots=True)
class Rescue:
    """What happened to a damaged outbox.

    Attributes:
        problem: What was wrong with it.
        quarantine: Where it lies now.
        saved: Rows taken over.
        refused: Rows that could be read but not trusted.
    """

    problem: str
    quarantine: Path
    saved: int
    refused: int

    def __str__(self) -> str:
        return f"{self.problem}; {self.saved} rows saved, {self.refused} refused, kept in {self.quarantine}"


def open_outbox(path: Path, max_bytes: int) -> tuple[OutboxFile, Rescue | None]:
    """Open or create an outbox.

    Args:
        path: The database file; its folder exists.
        max_bytes: Bound of the whole state folder.

    Returns:
        The open file, and what had to be rescued.

    Raises:
        ConfigError: The file was written by a newer version.
        DeliveryError: The disk refuses.
    """
    marker = path.with_suffix(".initialised")
    try:
        _require_room(path.parent)
        problem = _find_problem(path, expected=marker.exists())
        quarantine = _quarantine(path, max_bytes // 2) if problem is not None else None
        file = OutboxFile(path, max(max_bytes // 2, max_bytes - quarantined_bytes(path.parent)))
        marker.touch()
    except OSError as exc:
        raise DeliveryError(f"outbox {path} cannot be opened", got=exc.strerror, fix="Check the disk.") from exc
    if problem is None or quarantine is None:
        return file, None
    saved, refused = _salvage(quarantine / path.name, file)
    _salvage_commands(quarantine / path.name, file)
    return file, Rescue(problem, quarantine, saved, refused)


def _require_room(folder: Path) -> None:
    """See that the disk takes something: on one that is full or read-only, a sound outbox looks like a damaged one.

    The reserve is given up for it, so that an agent can start, and deliver, on a full disk.
    """
    probe = folder / "probe"
    try:
        _write_probe(probe)
    except OSError:
        if not Reserve(folder / "reserve").release():
            raise
        _write_probe(probe)


def _write_probe(probe: Path) -> None:
    try:
        with probe.open("wb", buffering=0) as file:
            for _ in range(_PROBE_BYTES // _PAGE_BYTES):
                if file.write(bytes(_PAGE_BYTES)) < _PAGE_BYTES:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)


def _find_problem(path: Path, *, expected: bool) -> str | None:
    if not path.exists() or path.stat().st_size == 0:
        return "the file vanished or is empty" if expected else None
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            application, version = (
                int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("application_id", "user_version")
            )
            check = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as exc:
        return str(exc)
    if application == APPLICATION_ID and version > FORMAT:
        raise ConfigError(
            f"outbox {path} was written by a newer version",
            got=f"format {version}",
            expected=f"at most {FORMAT}",
            fix="Install that version again, or name another state.path.",
        )
    if application != APPLICATION_ID:
        # Killed before the first transaction was committed: an empty database, not a foreign one.
        return None if not tables and not version else "it is not an outbox"
    return None if check == "ok" else check


def quarantined_bytes(folder: Path) -> int:
    """Disk that damaged outboxes take.

    Args:
        folder: The state folder.

    Returns:
        Bytes, which count towards the folder's bound.
    """
    return sum(file.stat().st_size for file in (folder / "quarantine").rglob("*") if file.is_file())


def _quarantine(path: Path, max_bytes: int) -> Path:
    folder = path.parent / "quarantine" / f"{time.time_ns():020d}"
    folder.mkdir(parents=True)
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(folder / part.name)
    kept = sorted(folder.parent.iterdir())
    while len(kept) > 1 and (len(kept) > _KEPT_QUARANTINES or quarantined_bytes(path.parent) > max_bytes):
        oldest = kept.pop(0)
        for file in oldest.iterdir():
            file.unlink()
        oldest.rmdir()
    return folder


def _salvage(damaged: Path, file: OutboxFile) -> tuple[int, int]:
    if not damaged.exists() or not damaged.stat().st_size:
        return 0, 0
    _mend(damaged)
    saved = refused = 0
    for table in _COLUMNS:
        for row in _readable_rows(damaged, table):
            stored = _trusted(table, row)
            if stored is None:
                refused += 1
                continue
            with file.transaction():
                file.insert(stored)
            saved += 1
    return saved, refused


def _salvage_commands(damaged: Path, file: OutboxFile) -> None:
    """Take the record of commands over, after `_salvage` has mended what it can."""
    found = Salvaged((), (), whole=False, at_s=time.time())
    if damaged.exists() and damaged.stat().st_size:
        with closing(sqlite3.connect(damaged, isolation_level=None)) as connection:
            found = salvage(connection, found.at_s)
    with file.transaction():
        file.commands.take_over(found)


def _mend(damaged: Path) -> None:
    """Make SQLite read what is left: a lost header is written anew, a lost end is filled with zeros.

    Both add to the file and take nothing away. Rows behind a filled hole fail one by one instead of all together.
    """
    with damaged.open("r+b") as file:
        head = file.read(_HEADER.size)
        pages = -(-damaged.stat().st_size // _PAGE_BYTES)
        if not head.startswith(_MAGIC):
            file.seek(0)
            layout = (_MAGIC, _PAGE_BYTES, 2, 2, 0, 64, 32, 32)
            numbers = (1, pages, 0, 0, 1, 4, 0, 0, 1, FORMAT, 0, APPLICATION_ID, 1, 3_040_001)
            file.write(_HEADER.pack(*layout, *numbers))
        else:
            pages = max(pages, int(_HEADER.unpack(head)[9])) if len(head) == _HEADER.size else pages
        file.truncate(pages * _PAGE_BYTES)


def _trusted(table: str, row: tuple[object, ...]) -> StoredMessage | StoredImage | None:
    kind = StoredMessage if table == "message" else StoredImage
    stored = kind(*row[:-1])  # type: ignore[arg-type]  # of any type in a damaged file; the checksum decides
    return stored if checksum(stored) == row[-1] else None


def _readable_rows(damaged: Path, table: str) -> Iterator[tuple[object, ...]]:
    """Yield rows one by one, stepping over holes."""
    query = f"SELECT {_COLUMNS[table]} FROM {table} WHERE id > ? ORDER BY id LIMIT 1"  # noqa: S608 - constants
    after = 0
    try:
        with closing(sqlite3.connect(damaged, isolation_level=None)) as connection:
            connection.execute(f"SELECT 1 FROM {table} WHERE 0")  # noqa: S608 - constants
            while True:
                found = _read_after(connection, query, after)
                if found is None:
                    found = _behind_hole(connection, query, after)
                if not found:
                    return
                after = int(str(found[0]))
                yield found
    except (sqlite3.Error, ValueError):
        return


def _read_after(connection: sqlite3.Connection, query: str, after: int) -> tuple[object, ...] | None:
    """Read the next row: nothing () at the end, None where the file cannot be read."""
    try:
        row: tuple[object, ...] | None = connection.execute(query, (after,)).fetchone()
    except sqlite3.DatabaseError:
        return None
    return row or ()


def _behind_hole(connection: sqlite3.Connection, query: str, after: int) -> tuple[object, ...]:
    """Find the first row behind a hole: ever wider steps until something can be read, then halving back."""
    low, step = after, 1
    while (found := _read_after(connection, query, after + step)) is None:
        low, step = after + step, step * 2
        if step > _MAX_ID:
            return ()
    high = after + step
    while high - low > 1:
        middle = (low + high) // 2
        nearer = _read_after(connection, query, middle)
        if nearer is None:
            low = middle
        else:
            high, found = middle, nearer
    return found
