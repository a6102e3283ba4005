"""Opening an outbox that may be damaged: check, move aside, save every row that still checks out.

A damaged file goes to quarantine/, since it may hold the only copy of a count, and stays there at least until all that
can be trusted was taken over: see `Quarantine` and `Salvage`. A file that vanished although the outbox was in use is a
loss and is reported, not taken for a first start. A disk that is full, read-only or broken is none of these: the outbox
is left as it is.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bundle.errors import ConfigError, DeliveryError
from edge_agent.outbox.file import OutboxFile, StoreFullError
from edge_agent.outbox.quarantine import Quarantine
from edge_agent.outbox.reserve import Reserve
from edge_agent.outbox.salvage import Salvage
from edge_agent.outbox.schema import APPLICATION_ID, FORMAT, PAGE_BYTES

if TYPE_CHECKING:
    from pathlib import Path

_PROBE_BYTES = 128 << 10
"""More than SQLite needs to open a file: its index of the log takes 32 KiB."""


@dataclass(frozen=True, slots=True)
class Rescue:
    """What happened to a damaged outbox.

    Attributes:
        problem: What was wrong with it.
        quarantine: Where it lies now.
        saved: Rows taken over.
        refused: Rows that could be read but not trusted.
        stopped: Why the rest has to wait, empty when there is none.
        given_up: Older ones that still held rows and had to go for it.
    """

    problem: str
    quarantine: Path
    saved: int
    refused: int
    stopped: str = ""
    given_up: int = 0

    def __str__(self) -> str:
        text = f"{self.problem}; {self.saved} rows saved, {self.refused} refused, kept in {self.quarantine}"
        waits = f"; the rest has to wait: {self.stopped}" if self.stopped else ""
        gone = f"; {self.given_up} unfinished ones before it are gone" if self.given_up else ""
        return text + waits + gone


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
    quarantine = Quarantine(path)
    try:
        _require_room(path.parent)
        quarantine.end_move()
        problem = _find_problem(path, expected=marker.exists() and not quarantine.unfinished)
        if problem is not None:
            quarantine.take()
        given_up, is_new = quarantine.bound(max_bytes // 2), not path.exists()
        file = OutboxFile(path, max(max_bytes // 2, max_bytes - quarantine.size))
        try:
            marker.touch()
            return file, _rescue(file, quarantine, problem, given_up, is_new=is_new)
        except BaseException:
            file.close()
            raise
    except OSError as exc:
        raise DeliveryError(f"outbox {path} cannot be opened", got=exc.strerror, fix="Check the disk.") from exc
    except StoreFullError as exc:
        raise DeliveryError(f"outbox {path} has no room", got=exc, fix="Make room on the disk.") from exc


def _rescue(
    file: OutboxFile, quarantine: Quarantine, problem: str | None, given_up: int, *, is_new: bool
) -> Rescue | None:
    """Take over what a damaged file still tells, and what earlier starts had no room or no time for."""
    if given_up:
        with file.transaction():
            file.add_to_tally("rescues_given_up", given_up)
    salvage = Salvage(file)
    if not salvage.unfinished:
        return None
    salvage.take_commands()
    newest = salvage.newest
    saved = salvage.take_rows(*file.next_ids, late_up_s=None if is_new else file.newest_up_s())
    return Rescue(
        problem=problem or "a rescue that was cut short went on",
        quarantine=newest if newest.exists() else quarantine.finished(newest),
        saved=saved.messages + saved.images,
        refused=saved.damaged.total(),
        stopped=saved.stopped,
        given_up=given_up,
    )


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
            for _ in range(_PROBE_BYTES // PAGE_BYTES):
                if file.write(bytes(PAGE_BYTES)) < PAGE_BYTES:
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
