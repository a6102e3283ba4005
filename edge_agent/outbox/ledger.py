"""The outbox's contents and their bounds, without threads: what is stored, what is evicted, what is counted.

Invariants:
- Images and messages share one bound in bytes. The oldest image goes first, then the oldest event, then the oldest
  count; every drop is counted in the same transaction, so the number survives restarts.
- Age is agent running time: a jump of the wall clock drops nothing.
- A reserve on the disk is given up for the time of dropping, because SQLite cannot even delete on a disk that is full.
- An image's file is durable before its row, and goes after it. One that the disk refuses is dropped; its count goes on.
- A message that a killed run has delivered and not removed is removed at the start: see `Receipts`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from bundle.errors import DeliveryError
from edge_agent.outbox.command_table import GRACE_S
from edge_agent.outbox.file import OutboxFile, StoreFullError
from edge_agent.outbox.newest import NewestPerBin
from edge_agent.outbox.quarantine import Quarantine
from edge_agent.outbox.receipts import Receipts
from edge_agent.outbox.reserve import NO_ROOM, Reserve
from edge_agent.outbox.rows import Entry, StoredImage, StoredMessage
from edge_agent.outbox.salvage import Salvage
from edge_agent.outbox.schema import LOG_BYTES
from edge_agent.outbox.stock import Stock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_agent.config import StateSection
    from edge_agent.outbox.spool import Spool

_LOG = logging.getLogger(__name__)

_UPTIME_EVERY_S = 60.0
_FEW_MESSAGES = 256
_RESCUE_CHUNKS = 4


class Ledger:
    """The contents. Belongs to one thread.

    Args:
        file: The open database.
        spool: Where images lie.
        limits: Bounds in bytes and age.
        clock: Monotonic seconds.

    Attributes:
        stock: What lies there.
        numbers: Those of the stock.
        receipts: What was delivered.
        newest: The newest message of each bin.

    Raises:
        DeliveryError: There is no room even to bring it in order after a kill.
    """

    def __init__(
        self, file: OutboxFile, spool: Spool, limits: StateSection, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.newest = NewestPerBin(file.newest_per_topic(NewestPerBin.MAX_BINS))
        self.file = file
        self._spool = spool
        self._limits = limits
        self._clock = clock
        self._opened_s = clock()
        self._reserve = Reserve(limits.path / "reserve")
        self._reserve.restore()
        self._quarantine_bytes = Quarantine(file.path).size
        self._salvage = Salvage(file)
        tallies = file.tallies()
        self._uptime_saved_s = tallies.pop("uptime_s", 0.0)
        # The running time is saved once a minute: after a kill, the newest row knows better.
        self.started_up_s = max(self._uptime_saved_s, file.newest_up_s())
        self.stock = Stock(file, spool, tallies)
        self.numbers = self.stock.numbers
        self.receipts = Receipts(limits.path / Receipts.NAME)
        try:
            self.stock.sweep(keep_others=self._salvage.unfinished)
            self._remove_delivered()
        except StoreFullError as exc:
            raise DeliveryError(f"outbox {file.path} has no room", got=exc, fix="Make room on the disk.") from exc
        self._next_message, self._next_image = file.next_ids
        self.numbers.database_bytes = file.used_bytes

    def _remove_delivered(self) -> None:
        """Remove what a killed run had delivered and not yet removed."""
        if self.receipts.empty:
            return
        ids = [key for key, event_id in self.file.events() if self.receipts.names(event_id)]
        if ids:
            try:
                self.stock.remove_messages(ids)
            except StoreFullError:
                self.make_room(ids)
        self.receipts.forget()

    @property
    def uptime_s(self) -> float:
        """Agent running time since the outbox was first made."""
        return self.started_up_s + self._clock() - self._opened_s

    @property
    def rescue_waits(self) -> bool:
        """Rows of a damaged outbox are still to be taken over."""
        return self._salvage.unfinished

    @property
    def last_ids(self) -> tuple[int, int]:
        """Highest id given to a message and to an image."""
        return self._next_message - 1, self._next_image - 1

    def commit(
        self, entries: Sequence[Entry], delivered: Sequence[int]
    ) -> tuple[list[StoredMessage], list[StoredImage]]:
        """Make a batch durable: image files first, then all rows in one transaction.

        Args:
            entries: What to store.
            delivered: Ids of messages to remove in the same transaction.

        Returns:
            The rows that are now durable.

        Raises:
            StoreFullError: There is no room; nothing was stored.
            DeliveryError: The disk or the file is broken.
        """
        entries = [part for entry in entries for part in (entry, *entry.companions)]
        stored = self._store_images(entries)
        lost = sum(entry.image is not None for entry in entries) - len(stored)
        up_s = self.uptime_s
        messages = [_message(entry, up_s, number) for number, entry in enumerate(entries, self._next_message)]
        images = [
            StoredImage(number, entry.event_id, entry.image.key, len(entry.image.data), entry.image.sidecar, up_s)
            for number, entry in enumerate((e for e in entries if e.event_id in stored), self._next_image)
            if entry.image is not None
        ]
        with self.file.transaction():
            for message in messages:
                self.file.insert(message)
            for image in images:
                self.file.insert(image)
            for entry in entries:
                self.file.commands.put(entry)
                if entry.image is not None and entry.image.spent is not None:
                    self.file.quota.put(entry.image.spent, len(entry.image.data))
            gone = self.file.delete("message", delivered)
            if lost:
                self.file.add_to_tally("images_not_stored", lost)
        if lost:
            self.numbers.drops["images_not_stored"] += lost
        self.newest.note(messages)
        self._next_message += len(messages)
        self._next_image += len(images)
        self.numbers.messages += len(messages) - gone
        self.numbers.images += len(images)
        self.numbers.image_bytes += sum(image.size for image in images)
        self.numbers.commits = self.file.commits
        return messages, images

    def _store_images(self, entries: Sequence[Entry]) -> set[str]:
        """Write the images of a batch, all or none: a count is worth more, and does not wait for its image.

        Returns:
            Event ids whose image is durable; without those that the disk refused.

        Raises:
            StoreFullError: There is no room, but older images that can go.
        """
        data = {entry.event_id: entry.image.data for entry in entries if entry.image is not None}
        self._make_room_for(sum(map(len, data.values())))
        try:
            self._spool.write(data)
        except OSError as exc:
            if exc.errno in NO_ROOM and self.numbers.images:
                raise StoreFullError(str(exc)) from exc
            _LOG.warning("%d images cannot be stored and are dropped: %s", len(data), exc)
            return set()
        return set(data)

    def _make_room_for(self, size: int) -> None:
        """Give free pages back, and evict images when that is not enough."""
        while self._taken_bytes() + size > self._limits.max_bytes:
            if not self.file.shrink() and not (self.numbers.images and self.stock.evict_images()):
                return

    def _taken_bytes(self) -> int:
        """What the state folder takes, and may take without asking."""
        self.numbers.database_bytes = self.file.used_bytes
        fixed = self._quarantine_bytes + Reserve.SIZE + LOG_BYTES
        return self.numbers.database_bytes + fixed + self.numbers.image_bytes

    def make_room(self, delivered: Sequence[int]) -> bool:
        """Drop the least valuable, because nothing fits any more.

        On a disk that is full of other things, no count is dropped for a newer one: the newer one has to wait.

        Args:
            delivered: Messages that may go in any case.

        Returns:
            Whether something was removed.

        Raises:
            StoreFullError: The disk is so full that even dropping fails.
            DeliveryError: The file is broken.
        """
        self._reserve.release()
        try:
            if delivered:
                self.stock.remove_messages(delivered)
                return True
            if self.numbers.images and self.stock.evict_images():
                return True
            if self.file.is_at_bound:
                return self.stock.evict_messages()
            self.file.fold_log()
            return False
        finally:
            # Taken again at once, so that new counts cannot eat the room that dropping needs.
            self._reserve.restore(share=1.0)

    def keep_house(self) -> None:
        """Drop what is too old, give space back, save the running time. Call it every few seconds.

        Raises:
            StoreFullError: The disk is full.
            DeliveryError: The file is broken.
        """
        up_s = self.uptime_s
        self.stock.drop_aged(up_s - self._limits.max_age_s)
        if up_s - self._uptime_saved_s >= _UPTIME_EVERY_S:
            self.save_uptime()
            with self.file.transaction():
                self.file.commands.forget(time.time() - GRACE_S)
                self.file.quota.forget()
        self.file.shrink()
        self._reserve.restore()
        if self._salvage.unfinished and self.numbers.messages < _FEW_MESSAGES:
            self._continue_rescue()
        first = self.file.oldest_up_s()
        self.numbers.oldest_s = 0.0 if first is None else up_s - first
        self.numbers.database_bytes = self.file.used_bytes

    def _continue_rescue(self) -> None:
        """Take up what the start had no room for, now that delivery keeps up."""
        saved = self._salvage.take_rows(
            self._next_message, self._next_image, late_up_s=self.started_up_s, chunks=_RESCUE_CHUNKS
        )
        self._next_message += saved.messages
        self._next_image += saved.images
        self.numbers.messages += saved.messages
        self.numbers.images += saved.images
        self.numbers.image_bytes += saved.image_bytes
        self.numbers.drops.update(saved.damaged)
        if saved.no_room and self.numbers.images:
            self.make_room([])

    def close(self) -> None:
        """Close what is open."""
        self.receipts.close()
        self.file.close()

    def save_uptime(self) -> None:
        """Write the running time down.

        Raises:
            StoreFullError: The disk is full.
            DeliveryError: The file is broken.
        """
        up_s = self.uptime_s
        with self.file.transaction():
            self.file.add_to_tally("uptime_s", up_s - self._uptime_saved_s)
        self._uptime_saved_s = up_s


def _message(entry: Entry, up_s: float, number: int) -> StoredMessage:
    return StoredMessage(number, entry.event_id, entry.kind, entry.topic, entry.retained_topic, entry.payload, up_s)
