"""The outbox's SQLite file: what is read from it and written into it.

Invariants:
- One connection, used by one thread. SQLite 3.7.0 to 3.51.2 can corrupt a WAL database that two connections write.
- WAL with synchronous=FULL: a row is there after COMMIT, also after a power cut (measured: NORMAL lost rows, FULL did
  not). Only the removal of what was delivered may go without: a power cut brings back what the consumer drops.
- Every row carries a checksum, because SQLite does not notice a flipped bit in a payload (197 of 200 went unseen).
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bundle.errors import DeliveryError
from edge_agent.outbox.command_table import CommandTable, Remembered
from edge_agent.outbox.quota import QuotaTable, Stored
from edge_agent.outbox.reserve import stands_at_limit
from edge_agent.outbox.rows import Page, StoredImage, StoredMessage, checksum, page_of
from edge_agent.outbox.salvage_table import SalvageTable
from edge_agent.outbox.schema import PAGE_BYTES, open_database

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SHRINK_PAGES = 500
_MAX_DEAD = 1000
_BOUND_MARGIN_PAGES = 64
MESSAGE_COLUMNS = "id, event_id, kind, topic, retained_topic, payload, created_up_s, checksum"
IMAGE_COLUMNS = "id, event_id, key, size, sidecar, created_up_s, checksum"

Table = Literal["message", "image"]


class StoreFullError(Exception):
    """The file is at its bound, or the disk is full. Inner to the outbox, which makes room and tries again."""


class OutboxFile:
    """The open database.

    Args:
        path: The file; created when missing. `edge_agent.outbox.rescue.open_outbox` checks it first.
        max_bytes: Bound of the whole state folder.

    Raises:
        DeliveryError: It cannot be opened.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.commits = 0
        self._durable = True
        try:
            self._connection = open_database(path, max_bytes)
        except sqlite3.Error as exc:
            raise self._broken(exc) from exc
        self.commands = CommandTable(self._connection)
        self.quota = QuotaTable(self._connection)
        self.salvage = SalvageTable(self._connection)

    def _broken(self, exc: sqlite3.Error) -> DeliveryError:
        # After a failed fsync the state of the page cache is unknown: only a new process knows what is on disk.
        return DeliveryError(
            f"outbox {self.path} failed", got=exc, fix="The agent must restart, which checks it. Check the disk."
        )

    def _refused(self, exc: sqlite3.Error) -> StoreFullError | DeliveryError:
        if "full" in str(exc) or stands_at_limit(self.path, Path(f"{self.path}-wal")):
            return StoreFullError(str(exc))
        return self._broken(exc)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise self._refused(exc) from exc

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
            raise self._refused(exc) from exc
        finally:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")

    def insert(self, row: StoredMessage | StoredImage) -> None:
        """Insert a row, inside a transaction."""
        table, columns = ("message", MESSAGE_COLUMNS) if isinstance(row, StoredMessage) else ("image", IMAGE_COLUMNS)
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
        rows = self._read(f"SELECT {MESSAGE_COLUMNS} FROM message WHERE id > ? ORDER BY id LIMIT ?", after, limit)  # noqa: S608 - constant
        return page_of([(_message(row), row[-1]) for row in rows])

    def images(self, after: int, limit: int) -> Page[StoredImage]:
        """Read images in the order of upload; see `messages`."""
        rows = self._read(f"SELECT {IMAGE_COLUMNS} FROM image WHERE id > ? ORDER BY id LIMIT ?", after, limit)  # noqa: S608 - constant
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
        """Ids of rows that were stored before a time, among the oldest ones: not one page more than those is read."""
        oldest = f"SELECT id, created_up_s FROM {table} ORDER BY id LIMIT ?"  # noqa: S608 - literal
        query = f"SELECT id FROM ({oldest}) WHERE created_up_s < ?"  # noqa: S608 - literal
        return [int(str(row[0])) for row in self._read(query, limit, up_s)]

    def events(self) -> Iterator[tuple[int, str]]:
        """Id and event of every message, one by one: a backlog is larger than the memory for it.

        Yields:
            Both, of one message.

        Raises:
            DeliveryError: The file is broken.
        """
        with self._translated():
            for key, event_id in self._connection.execute("SELECT id, event_id FROM message"):
                yield int(str(key)), str(event_id)

    def count(self, table: Table, kind: str | None = None) -> int:
        """Number of rows, of messages perhaps of one kind."""
        where = "" if kind is None else " WHERE kind = ?"
        rows = self._read(f"SELECT count(*) FROM {table}{where}", *([] if kind is None else [kind]))  # noqa: S608 - literal
        return int(str(rows[0][0]))

    def last_id(self, table: Literal["message", "image", "dead"]) -> int:
        """Highest id in use, 0 for an empty table."""
        return int(str(self._read(f"SELECT coalesce(max(id), 0) FROM {table}")[0][0]))  # noqa: S608 - literal

    @property
    def next_ids(self) -> tuple[int, int]:
        """Ids for the next message and the next image: above all that are in use."""
        return 1 + max(self.last_id("message"), self.last_id("dead")), 1 + self.last_id("image")

    def oldest_up_s(self) -> float | None:
        """Agent running time when the oldest message was stored, None without messages."""
        rows = self._read("SELECT created_up_s FROM message ORDER BY id LIMIT 1")
        return float(str(rows[0][0])) if rows else None

    def newest_up_s(self) -> float:
        """Agent running time when the newest message was stored, 0 without messages."""
        newest = (
            "SELECT created_up_s FROM message ORDER BY id DESC LIMIT 1"  # later rows are newer: no need to read all
        )
        return float(str(self._read(f"SELECT coalesce(max(created_up_s), 0) FROM ({newest})")[0][0]))  # noqa: S608 - ours

    def _read(self, query: str, *arguments: float | str) -> list[tuple[object, ...]]:
        with self._translated():
            return self._connection.execute(query, arguments).fetchall()

    def quota_stored(self) -> Stored:
        """Images that earlier runs let through.

        Raises:
            DeliveryError: The file is broken.
        """
        with self._translated():
            return self.quota.stored()

    def remembered(self) -> Remembered:
        """Commands and settings of earlier runs; what is damaged among them goes.

        Raises:
            DeliveryError: The file is broken.
        """
        with self._translated():
            if not self.commands.whole:
                with suppress(StoreFullError), self.transaction():  # without room, the next start does it
                    self.commands.mend()
            return self.commands.remembered()

    def salvaged(self, folder: str, part: str) -> int | None:
        """How far rows of a damaged file were taken over; see `SalvageTable.reached`.

        Raises:
            DeliveryError: The file is broken.
        """
        with self._translated():
            return self.salvage.reached(folder, part)

    @property
    def used_bytes(self) -> int:
        """Bytes on disk, without the log."""
        return self._pragma("page_count") * PAGE_BYTES

    @property
    def is_at_bound(self) -> bool:
        """The file may not grow further, as opposed to a disk that is full of other things."""
        free = self._pragma("freelist_count")
        return self._pragma("page_count") - free + _BOUND_MARGIN_PAGES >= self._pragma("max_page_count")

    @property
    def taken_share(self) -> float:
        """How much of its bound the file takes, 0 to 1."""
        return (self._pragma("page_count") - self._pragma("freelist_count")) / self._pragma("max_page_count")

    def shrink(self) -> bool:
        """Give free pages back to the disk, some at a time.

        Returns:
            Whether there were any.

        Raises:
            StoreFullError: There is no room to do so.
            DeliveryError: The disk or the file is broken.
        """
        if self._pragma("freelist_count") <= _SHRINK_PAGES:
            return False
        with self._translated():
            # `execute` would take one step, and each step frees one page.
            self._connection.executescript(f"PRAGMA incremental_vacuum({_SHRINK_PAGES})")
        return True

    def fold_log(self) -> None:
        """Fold the log into the file, where that needs no room: what the log takes on the disk can be used again."""
        with suppress(sqlite3.OperationalError):
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)")

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
