"""The outbox's SQLite file: the one place that speaks SQL.

Invariants:
- One connection, used by one thread. SQLite 3.7.0 to 3.51.2 can corrupt a WAL database that two connections write.
- WAL with synchronous=FULL: a row is there after COMMIT, also after a power cut (measured: NORMAL lost rows, FULL did
  not). Only the removal of what was delivered may go without: a power cut brings back what the consumer drops.
- Every row carries a checksum, because SQLite does not notice a flipped bit in a payload (197 of 200 went unseen).
- `max_page_count` bounds the file; deleting still works at the bound.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from dataclasses import astuple
from typing import TYPE_CHECKING, Literal

from bundle.errors import DeliveryError
from edge_agent.commands.table import SCHEMA as COMMAND_SCHEMA
from edge_agent.commands.table import CommandTable, Remembered
from edge_agent.quota import SCHEMA as QUOTA_SCHEMA
from edge_agent.quota import QuotaTable, Stored
from edge_agent.rows import Page, StoredImage, StoredMessage, checksum, page_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

APPLICATION_ID = 0x62696E74  # "bint"
FORMAT = 1
_PAGE_BYTES = 4096
_WAL_RESERVE_BYTES = 4 << 20
LOG_BYTES = 2 << 20
"""The log is folded into the file long before it is so large, and cut back to it when it was larger."""
_CHECKPOINT_PAGES = 400
"""Rarely: the one count in hundreds that has to wait for it is above the 99th percentile."""
_SHRINK_PAGES = 200
_MAX_DEAD = 1000
_BOUND_MARGIN_PAGES = 64
_MESSAGE = "id, event_id, kind, topic, retained_topic, payload, created_up_s, checksum"
_IMAGE = "id, event_id, key, size, sidecar, created_up_s, checksum"
_SCHEMA = """
CREATE TABLE message (
    id INTEGER PRIMARY KEY, event_id TEXT NOT NULL, kind TEXT NOT NULL, topic TEXT NOT NULL, retained_topic TEXT,
    payload BLOB NOT NULL, created_up_s REAL NOT NULL, checksum BLOB NOT NULL
);
CREATE TABLE image (
    id INTEGER PRIMARY KEY, event_id TEXT NOT NULL, key TEXT NOT NULL, size INTEGER NOT NULL, sidecar BLOB NOT NULL,
    created_up_s REAL NOT NULL, checksum BLOB NOT NULL
);
CREATE TABLE dead (
    id INTEGER PRIMARY KEY, event_id TEXT NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL, reason TEXT NOT NULL
);
CREATE TABLE tally (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
"""

Table = Literal["message", "image"]


class StoreFullError(Exception):
    """The file is at its bound, or the disk is full. Inner to the outbox, which makes room and tries again."""


class OutboxFile:
    """The open database.

    Args:
        path: The file; created when missing. `edge_agent.outbox_rescue.open_outbox` checks it first.
        max_bytes: Bound of the whole state folder.

    Raises:
        DeliveryError: It cannot be opened.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.commits = 0
        self._durable = True
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
            for pragma in (
                f"page_size={_PAGE_BYTES}",
                "auto_vacuum=INCREMENTAL",
                "journal_mode=WAL",
                "synchronous=FULL",
                f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
                f"journal_size_limit={LOG_BYTES}",
                "trusted_schema=OFF",
                "cell_size_check=ON",
                "mmap_size=0",
                "temp_store=MEMORY",
            ):
                self._connection.execute(f"PRAGMA {pragma}")
            if self._pragma("user_version") == 0:
                self._create()
            self._connection.executescript(f"BEGIN IMMEDIATE; {COMMAND_SCHEMA} {QUOTA_SCHEMA} COMMIT;")
            # After the tables: an older version's file may stand at its bound and lack one of them.
            bound = max(64, (max_bytes - _WAL_RESERVE_BYTES) // _PAGE_BYTES)
            self._connection.execute(f"PRAGMA max_page_count={bound}")
        except sqlite3.Error as exc:
            raise self._broken(exc) from exc
        self.commands = CommandTable(self._connection)
        self.quota = QuotaTable(self._connection)

    def _create(self) -> None:
        self._connection.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={FORMAT}; COMMIT;"
        )

    def _broken(self, exc: sqlite3.Error) -> DeliveryError:
        # After a failed fsync the state of the page cache is unknown: only a new process knows what is on disk.
        return DeliveryError(
            f"outbox {self.path} failed", got=exc, fix="The agent must restart, which checks it. Check the disk."
        )

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """Committed when the block ends, undone when it raises.

        Args:
            durable: Wait for the disk; without, a power cut may undo it until the next durable one. A kill cannot.

        Yields:
            Nothing.

        Raises:
            StoreFullError: There is no room.
            DeliveryError: The disk or the file is broken.
        """
        try:
            if durable != self._durable:
                self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
            self.commits += 1
        except sqlite3.Error as exc:
            if "full" in str(exc):
                raise StoreFullError(str(exc)) from exc
            raise self._broken(exc) from exc
        finally:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")

    def insert(self, row: StoredMessage | StoredImage) -> None:
        """Insert a row, inside a transaction."""
        table, columns = ("message", _MESSAGE) if isinstance(row, StoredMessage) else ("image", _IMAGE)
        values = (*astuple(row), checksum(row))
        marks = ", ".join("?" * len(values))
        self._connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", values)  # noqa: S608 - constants

    def delete(self, table: Table, ids: Iterable[int]) -> int:
        """Delete rows, inside a transaction.

        Args:
            table: Which.
            ids: Rows that may be gone already.

        Returns:
            How many were there.
        """
        cursor = self._connection.executemany(f"DELETE FROM {table} WHERE id = ?", ((key,) for key in ids))  # noqa: S608 - literal
        return max(0, cursor.rowcount)

    def bury(self, message_id: int, reason: str) -> None:
        """Move a message to the table of the dead, which keeps the newest thousand; inside a transaction."""
        self._connection.execute(
            "INSERT OR REPLACE INTO dead SELECT id, event_id, topic, payload, ? FROM message WHERE id = ?",
            (reason, message_id),
        )
        self._connection.execute(
            "DELETE FROM dead WHERE id <= (SELECT id FROM dead ORDER BY id DESC LIMIT 1 OFFSET ?)", (_MAX_DEAD,)
        )

    def add_to_tally(self, name: str, amount: float) -> None:
        """Add to a number that outlives the process, inside a transaction."""
        self._connection.execute(
            "INSERT INTO tally VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            (name, amount),
        )

    def tallies(self) -> dict[str, float]:
        """Every number that outlives the process."""
        rows = self._read("SELECT name, value FROM tally")
        return {str(name): float(str(value)) for name, value in rows}

    def messages(self, after: int, limit: int) -> Page[StoredMessage]:
        """Read messages in the order of delivery.

        Args:
            after: Only ids above this.
            limit: At most this many rows.

        Returns:
            The rows.

        Raises:
            DeliveryError: The file is broken.
        """
        rows = self._read(f"SELECT {_MESSAGE} FROM message WHERE id > ? ORDER BY id LIMIT ?", after, limit)  # noqa: S608 - constant
        return page_of([(_message(row), row[-1]) for row in rows])

    def images(self, after: int, limit: int) -> Page[StoredImage]:
        """Read images in the order of upload; see `messages`."""
        rows = self._read(f"SELECT {_IMAGE} FROM image WHERE id > ? ORDER BY id LIMIT ?", after, limit)  # noqa: S608 - constant
        return page_of([(_image(row), row[-1]) for row in rows])

    def oldest_messages(self, kind: str, limit: int) -> list[int]:
        """Ids of the oldest messages of a kind."""
        rows = self._read("SELECT id FROM message WHERE kind = ? ORDER BY id LIMIT ?", kind, limit)
        return [int(str(row[0])) for row in rows]

    def newest_per_topic(self, limit: int) -> list[tuple[str, int]]:
        """Retained topics with the id of their newest message, in the order of these ids; the newest so many."""
        rows = self._read(
            "SELECT retained_topic, max(id) FROM message WHERE retained_topic IS NOT NULL"
            " GROUP BY retained_topic ORDER BY max(id) DESC LIMIT ?",
            limit,
        )
        return [(str(topic), int(str(key))) for topic, key in reversed(rows)]

    def ids_before(self, table: Table, up_s: float, limit: int) -> list[int]:
        """Ids of rows that were stored before a time, oldest first."""
        query = f"SELECT id FROM {table} WHERE created_up_s < ? ORDER BY id LIMIT ?"  # noqa: S608 - literal
        return [int(str(row[0])) for row in self._read(query, up_s, limit)]

    def events(self) -> Iterator[tuple[int, str]]:
        """Id and event of every message, one by one: a backlog is larger than the memory for it.

        Yields:
            Both, of one message.

        Raises:
            DeliveryError: The file is broken.
        """
        try:
            for key, event_id in self._connection.execute("SELECT id, event_id FROM message"):
                yield int(str(key)), str(event_id)
        except sqlite3.Error as exc:
            raise self._broken(exc) from exc

    def count(self, table: Table, kind: str | None = None) -> int:
        """Number of rows, of messages perhaps of one kind."""
        where = "" if kind is None else " WHERE kind = ?"
        rows = self._read(f"SELECT count(*) FROM {table}{where}", *([] if kind is None else [kind]))  # noqa: S608 - literal
        return int(str(rows[0][0]))

    def last_id(self, table: Literal["message", "image", "dead"]) -> int:
        """Highest id in use, 0 for an empty table."""
        return int(str(self._read(f"SELECT coalesce(max(id), 0) FROM {table}")[0][0]))  # noqa: S608 - literal

    def oldest_up_s(self) -> float | None:
        """Agent running time when the oldest message was stored, None without messages."""
        rows = self._read("SELECT created_up_s FROM message ORDER BY id LIMIT 1")
        return float(str(rows[0][0])) if rows else None

    def newest_up_s(self) -> float:
        """Agent running time when the newest message was stored, 0 without messages."""
        return float(str(self._read("SELECT coalesce(max(created_up_s), 0) FROM message")[0][0]))

    def _read(self, query: str, *arguments: float | str) -> list[tuple[object, ...]]:
        try:
            return self._connection.execute(query, arguments).fetchall()
        except sqlite3.Error as exc:
            raise self._broken(exc) from exc

    def quota_stored(self) -> Stored:
        """Images that earlier runs let through.

        Raises:
            DeliveryError: The file is broken.
        """
        try:
            return self.quota.stored()
        except sqlite3.Error as exc:
            raise self._broken(exc) from exc

    def remembered(self) -> Remembered:
        """Commands and settings of earlier runs.

        Raises:
            DeliveryError: The file is broken.
        """
        try:
            return self.commands.remembered()
        except sqlite3.Error as exc:
            raise self._broken(exc) from exc

    @property
    def used_bytes(self) -> int:
        """Bytes on disk, without the log."""
        return self._pragma("page_count") * _PAGE_BYTES

    @property
    def is_at_bound(self) -> bool:
        """The file may not grow further, as opposed to a disk that is full of other things."""
        free = self._pragma("freelist_count")
        return self._pragma("page_count") - free + _BOUND_MARGIN_PAGES >= self._pragma("max_page_count")

    def shrink(self) -> None:
        """Give free pages back to the disk, some at a time.

        Raises:
            DeliveryError: The file is broken.
        """
        if self._pragma("freelist_count") > _SHRINK_PAGES:
            self._read(f"PRAGMA incremental_vacuum({_SHRINK_PAGES})")

    def close(self) -> None:
        """Fold the log into the file and close."""
        self._connection.close()

    def _pragma(self, name: str) -> int:
        return int(str(self._read(f"PRAGMA {name}")[0][0]))


def _message(row: tuple[object, ...]) -> StoredMessage:
    # What a damaged file holds may be of any type; a wrong one fails the checksum.
    return StoredMessage(*row[:-1])  # type: ignore[arg-type]  # typed by the schema


def _image(row: tuple[object, ...]) -> StoredImage:
    return StoredImage(*row[:-1])  # type: ignore[arg-type]  # typed by the schema
