"""What the outbox's file knows of commands, and the settings that they changed; on the outbox's own connection.

Invariants:
- A command's row stands from its acceptance until it is over and has expired: for so long, the same id is known.
- When rows are forgotten, the latest expiry among them is kept. A command that expires before it is refused, so an old
  one cannot come back, whatever happens to the clock.
- Rows carry a checksum, as every row of the outbox does.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_agent.outbox.rows import Entry

SCHEMA = """
CREATE TABLE IF NOT EXISTS command (
    command_id TEXT PRIMARY KEY, name TEXT NOT NULL, state TEXT NOT NULL, expires_s REAL NOT NULL,
    request BLOB NOT NULL, result BLOB NOT NULL, checksum BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value BLOB NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID;
"""
GRACE_S = 300.0
"""A command that is over and has expired is remembered for so long."""
OPEN_STATES = ("accepted", "running")
_MAX_RESULT_BYTES = 4096
_COLUMNS = "command_id, name, state, expires_s, request, result"
_SETTINGS, _FORGOTTEN, _REFUSE_BEFORE = "settings", "forgotten", "refuse_before"


@dataclass(frozen=True, slots=True)
class StoredCommand:
    """A command that is remembered.

    Attributes:
        command_id: Its id.
        name: What it asks for.
        state: Its last state.
        expires_s: Wall clock of its expiry or its end, whichever is later.
        request: The command as it came; empty when it is over.
        result: The last message about it, see `short_result`.
    """

    command_id: str
    name: str
    state: str
    expires_s: float
    request: bytes = field(repr=False)
    result: bytes = field(repr=False)

    @property
    def is_open(self) -> bool:
        """It has no final result yet."""
        return self.state in OPEN_STATES


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the file remembers at the start.

    Attributes:
        commands: Every row whose checksum is right.
        settings: JSON, None when nothing was ever set.
        forgotten_s: Latest expiry of a command that was forgotten.
        refuse_before_s: Commands issued before are refused, because the record of them was damaged.
    """

    commands: tuple[StoredCommand, ...] = ()
    settings: bytes | None = None
    forgotten_s: float = 0.0
    refuse_before_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What a damaged file still tells.

    Attributes:
        commands: Rows that can be trusted.
        kept: Settings and marks that can be trusted.
        whole: Nothing was missing or damaged.
        at_s: Wall clock of the salvage.
    """

    commands: tuple[StoredCommand, ...]
    kept: tuple[tuple[str, bytes], ...]
    whole: bool
    at_s: float


class CommandTable:
    """Commands and settings in the outbox's file. Every method that writes is called inside a transaction.

    Args:
        connection: The outbox's.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def put(self, entry: Entry) -> None:
        """Store what an entry says about its command, and the settings that it brings."""
        if entry.command is not None:
            mark = entry.command
            request = mark.request if mark.state in OPEN_STATES else b""
            kept = short_result(entry.payload)
            self.insert(StoredCommand(mark.command_id, mark.name, mark.state, mark.expires_s, request, kept))
        if entry.settings is not None:
            self._keep(_SETTINGS, entry.settings)

    def insert(self, row: StoredCommand) -> None:
        """Store a row, in the place of an older one of the same command."""
        self._connection.execute(
            f"INSERT OR REPLACE INTO command ({_COLUMNS}, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constants
            (*astuple(row), _checksum(*astuple(row))),
        )

    def forget(self, before_s: float) -> int:
        """Remove commands that are over and expired.

        Args:
            before_s: Wall clock: what expired before it goes.

        Returns:
            How many rows went.
        """
        over = "state NOT IN (?, ?) AND expires_s < ?"
        arguments = (*OPEN_STATES, before_s)
        query = f"SELECT max(expires_s) FROM command WHERE {over}"  # noqa: S608 - constants
        latest = self._connection.execute(query, arguments).fetchone()[0]
        if latest is None:
            return 0
        self._keep(_FORGOTTEN, json.dumps(max(float(latest), self._number(_FORGOTTEN))).encode())
        return self._connection.execute(f"DELETE FROM command WHERE {over}", arguments).rowcount  # noqa: S608 - constants

    def remembered(self) -> Remembered:
        """Read everything, at the start. A damaged row may have been of any command: older ones are refused then."""
        found = _read(self._connection, time.time())
        refuse_before_s = max(self._number(_REFUSE_BEFORE), 0.0 if found.whole else found.at_s)
        return Remembered(found.commands, self._kept(_SETTINGS), self._number(_FORGOTTEN), refuse_before_s)

    @property
    def whole(self) -> bool:
        """No row is damaged."""
        return _read(self._connection, 0.0).whole

    def mend(self) -> None:
        """Remove damaged rows, which nobody would forget otherwise, and keep since when older commands are refused."""
        found = _read(self._connection, time.time())
        self._connection.execute("DELETE FROM command")
        self._connection.execute("DELETE FROM setting")
        self.take_over(found)

    def take_over(self, found: Salvaged) -> None:
        """Store what a damaged file still told; what it did not tell must not be carried out a second time.

        Args:
            found: From `salvage`.
        """
        for row in found.commands:
            self.insert(row)
        for name, value in found.kept:
            self._keep(name, value)
        if not found.whole:
            self._keep(_REFUSE_BEFORE, json.dumps(found.at_s).encode())

    def _keep(self, name: str, value: bytes) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO setting VALUES (?, ?, ?)", (name, value, _checksum(name, value))
        )

    def _kept(self, name: str) -> bytes | None:
        row = self._connection.execute("SELECT value, checksum FROM setting WHERE name = ?", (name,)).fetchone()
        return bytes(row[0]) if row is not None and _checksum(name, row[0]) == row[1] else None

    def _number(self, name: str) -> float:
        value = self._kept(name)
        return 0.0 if value is None else float(json.loads(value))


def short_result(result: bytes) -> bytes:
    """What is kept of a result, to repeat it: 4,096 commands are remembered, and a snapshot has 40 KiB.

    Args:
        result: The message.

    Returns:
        The same, or one whose `detail` only says how much was left out.
    """
    if len(result) <= _MAX_RESULT_BYTES:
        return result
    fields = json.loads(result)
    left_out = len(json.dumps(fields["detail"]))
    return json.dumps({**fields, "detail": {"left_out_bytes": left_out}}).encode()


def salvage(damaged: sqlite3.Connection, at_s: float) -> Salvaged:
    """Read commands and settings from a damaged file.

    Args:
        damaged: The file.
        at_s: Wall clock.

    Returns:
        What can be trusted; not whole when the file cannot be read.
    """
    try:
        return _read(damaged, at_s)
    except sqlite3.Error:
        return Salvaged((), (), whole=False, at_s=at_s)


def _read(connection: sqlite3.Connection, at_s: float) -> Salvaged:
    rows = connection.execute(f"SELECT {_COLUMNS}, checksum FROM command").fetchall()  # noqa: S608 - constants
    kept = connection.execute("SELECT name, value, checksum FROM setting").fetchall()
    good = tuple(StoredCommand(*row[:-1]) for row in rows if _checksum(*row[:-1]) == row[-1])
    settings = tuple((name, value) for name, value, checksum in kept if _checksum(name, value) == checksum)
    return Salvaged(good, settings, whole=len(good) + len(settings) == len(rows) + len(kept), at_s=at_s)


def _checksum(*values: object) -> bytes:
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode()
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return digest.digest()
