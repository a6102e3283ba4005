"""Taking rows over from damaged outboxes, exactly once, however often it is cut short.

Invariants:
- How far it came is stored in the transaction that stores the rows: a kill repeats nothing and skips nothing.
- Commands are taken over before anything else, and before the agent works with the new outbox: none is carried out
  twice.
- Where there is no room for the rest, on the disk or in the new file, it waits in quarantine/ until there is.
- Rows that cannot be trusted are counted as dropped; those that were delivered already are passed over.
- Rows that come late, beside newer ones, are history: they do not go to their bin's topic.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

from edge_agent.outbox.command_table import Salvaged, salvage
from edge_agent.outbox.damaged_file import DamagedFile
from edge_agent.outbox.file import IMAGE_COLUMNS, MESSAGE_COLUMNS, OutboxFile, StoreFullError
from edge_agent.outbox.quarantine import Quarantine
from edge_agent.outbox.receipts import Receipts
from edge_agent.outbox.reserve import NO_ROOM, free_bytes
from edge_agent.outbox.rows import StoredImage, StoredMessage, checksum

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

_CHUNK = 256
_LEAVE_FREE_BYTES = 2 << 20
_MOST_TAKEN = 0.75
"""Room that new counts, and the next start, need more than old rows, which are safe where they are."""


@dataclass(slots=True)
class Saved:
    """What was taken over.

    Attributes:
        messages: Rows.
        images: Rows.
        image_bytes: What their files take.
        damaged: Rows that could be read but not trusted, by the drop that they are counted under.
        stopped: Why not everything was, empty otherwise.
        no_room: There was no room for it.
    """

    messages: int = 0
    images: int = 0
    image_bytes: int = 0
    damaged: Counter[str] = field(default_factory=Counter)
    stopped: str = ""
    no_room: bool = False


class Salvage:
    """Takes over what lies in an outbox's quarantine.

    Args:
        file: Where to.
    """

    def __init__(self, file: OutboxFile) -> None:
        self._file = file
        self._quarantine = Quarantine(file.path)
        self._folders = self._quarantine.unfinished

    @property
    def unfinished(self) -> bool:
        """There is something to be taken over."""
        return bool(self._folders)

    @property
    def newest(self) -> Path:
        """The folder that was put away last; there is one while `unfinished`."""
        return self._folders[-1]

    def take_commands(self) -> None:
        """Take the records of commands over, oldest file first.

        Raises:
            StoreFullError: There is no room; the agent must not work without them.
            OSError: The disk refused.
        """
        for folder in self._folders:
            if self._file.salvaged(folder.name, "command") is None:
                found = self._commands(folder)
                with self._file.transaction():
                    self._file.commands.take_over(found)
                    self._file.salvage.note(folder.name, "command", 0)

    def _commands(self, folder: Path) -> Salvaged:
        at_s = time.time()
        try:
            damaged = self._open(folder)
            if damaged is not None:
                with closing(damaged):
                    return salvage(damaged.connection, at_s)
        except (OSError, sqlite3.Error) as exc:
            if isinstance(exc, OSError) and exc.errno in NO_ROOM:
                raise
        return Salvaged((), (), whole=False, at_s=at_s)

    def take_rows(
        self, first_message: int, first_image: int, *, late_up_s: float | None, chunks: int | None = None
    ) -> Saved:
        """Take images and messages over, as far as there is room.

        Args:
            first_message: Id of the first message.
            first_image: Id of the first image.
            late_up_s: Agent running time that no row is younger than; None when nothing was stored since the damage,
                so that what the newest folder holds is no older than anything else.
            chunks: At most so many transactions; None for all.

        Returns:
            What was taken over.

        Raises:
            DeliveryError: The new file is broken.
        """
        saved = Saved()
        try:
            with closing(self._chunks(saved, first_message, first_image, late_up_s)) as taken:
                for _ in islice(taken, chunks):
                    pass
        except (StoreFullError, OSError, sqlite3.Error) as exc:
            saved.stopped = str(exc)
            saved.no_room = isinstance(exc, StoreFullError) or getattr(exc, "errno", None) in NO_ROOM
        return saved

    def _chunks(
        self, saved: Saved, first_message: int, first_image: int, late_up_s: float | None
    ) -> Generator[None, None, None]:
        """Take one transaction's rows at a time."""
        for folder in tuple(self._folders):
            damaged = self._open(folder)
            if damaged is not None:
                with closing(damaged):
                    while found := self._next_rows(damaged, folder.name):
                        self._require_room(folder)
                        self._store(saved, folder, found, (first_message, first_image), late_up_s)
                        yield
            self._quarantine.finish(folder)
            self._folders.remove(folder)
            with suppress(StoreFullError), self._file.transaction():
                self._file.salvage.forget(folder.name)

    def _open(self, folder: Path) -> DamagedFile | None:
        path = folder / self._file.path.name
        return DamagedFile(path) if path.exists() and path.stat().st_size else None

    def _require_room(self, folder: Path) -> None:
        if free_bytes(folder) < _LEAVE_FREE_BYTES:
            raise StoreFullError("the disk is nearly full")
        if self._file.taken_share > _MOST_TAKEN:
            raise StoreFullError("the new outbox is nearly full")

    def _next_rows(self, damaged: DamagedFile, folder: str) -> _Found | None:
        # Images first: they are few, and where room is short they can go for a count, once they are known.
        failure: sqlite3.Error | None = None
        for part, columns in (("image", IMAGE_COLUMNS), ("message", MESSAGE_COLUMNS)):
            after = self._file.salvaged(folder, part) or 0
            rows: list[tuple[object, ...]] = []
            try:
                rows.extend(islice(damaged.rows(part, columns, after), _CHUNK))
            except sqlite3.Error as exc:
                failure = exc
            if rows:  # also those before a failure
                return _Found(part, rows)
        if failure is not None:
            raise failure
        return None

    def _store(
        self, saved: Saved, folder: Path, found: _Found, first_ids: tuple[int, int], late_up_s: float | None
    ) -> None:
        rows = [row for row in (_trusted(found.part, row) for row in found.rows) if row is not None]
        damaged, why = len(found.rows) - len(rows), f"{found.part}s_damaged"
        with closing(Receipts(folder / Receipts.NAME)) as delivered:
            messages = [row for row in rows if isinstance(row, StoredMessage) and not delivered.names(row.event_id)]
        if late_up_s is not None or folder != self.newest:
            messages = [_late(row, late_up_s) for row in messages]
        images = [row for row in rows if isinstance(row, StoredImage)]
        with self._file.transaction():
            for number, message in enumerate(messages, first_ids[0] + saved.messages):
                self._file.insert(replace(message, id=number))
            for number, image in enumerate(images, first_ids[1] + saved.images):
                self._file.insert(replace(image, id=number))
            if damaged:
                self._file.add_to_tally(why, damaged)
            self._file.salvage.note(folder.name, found.part, int(str(found.rows[-1][0])))
        saved.messages += len(messages)
        saved.images += len(images)
        saved.image_bytes += sum(image.size for image in images)
        if damaged:
            saved.damaged[why] += damaged


@dataclass(frozen=True, slots=True)
class _Found:
    part: str
    rows: list[tuple[object, ...]]


def _trusted(part: str, row: tuple[object, ...]) -> StoredMessage | StoredImage | None:
    kind = StoredMessage if part == "message" else StoredImage
    stored = kind(*row[:-1])  # type: ignore[arg-type]  # of any type in a damaged file; the checksum decides
    return stored if checksum(stored) == row[-1] else None


def _late(message: StoredMessage, up_s: float | None) -> StoredMessage:
    created_up_s = message.created_up_s if up_s is None else min(message.created_up_s, up_s)
    return replace(message, retained_topic=None, created_up_s=created_up_s)
