"""What lies in the outbox, and how it leaves: delivered, or dropped and counted.

Invariants:
- Every drop is counted in the transaction that drops, so that the number survives restarts.
- An image's row goes before its file.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.outbox.file import OutboxFile, Table
    from edge_agent.outbox.rows import StoredImage
    from edge_agent.outbox.spool import Spool

_EVICT_IMAGES = 16
_EVICT_MESSAGES = 64
_AGED_ROWS = 256
_SWEEP_PAGE = 1000


@dataclass(slots=True)
class StockNumbers:
    """What lies in the outbox, and what was dropped since it was first made."""

    messages: int = 0
    images: int = 0
    image_bytes: int = 0
    database_bytes: int = 0
    commits: int = 0
    oldest_s: float = 0.0
    drops: Counter[str] = field(default_factory=Counter)


class Stock:
    """The rows and their images. Belongs to the thread of the ledger.

    Args:
        file: The open database.
        spool: Where images lie.
        drops: What earlier runs have dropped.

    Attributes:
        numbers: Kept up to date by whoever puts rows in, and here by whatever takes them out.
    """

    def __init__(self, file: OutboxFile, spool: Spool, drops: dict[str, float]) -> None:
        self.numbers = StockNumbers(drops=Counter({name: int(value) for name, value in drops.items()}))
        self._file = file
        self._spool = spool

    def sweep(self, *, keep_others: bool) -> None:
        """Bring rows and files of images in line after a kill, and count what is there.

        Args:
            keep_others: Leave files without a row alone, because rows are missing.

        Raises:
            StoreFullError: The disk is so full that even dropping fails.
            DeliveryError: The file is broken.
        """
        sizes: dict[str, tuple[int, int]] = {}
        after = 0
        while True:
            page = self._file.images(after, _SWEEP_PAGE)
            sizes.update({row.event_id: (row.id, row.size) for row in page.rows})
            self._drop("image", page.damaged, "images_damaged")
            if not page.last_id:
                break
            after = page.last_id
        lost = self._spool.sweep({event_id: size for event_id, (_, size) in sizes.items()}, keep_others=keep_others)
        self._drop("image", [sizes[event_id][0] for event_id in lost], "images_damaged")
        self.numbers.images = len(sizes) - len(lost)
        self.numbers.image_bytes = sum(size for event_id, (_, size) in sizes.items() if event_id not in lost)
        self.numbers.messages = self._file.count("message")

    def remove_messages(self, ids: Sequence[int]) -> None:
        """Remove messages that were delivered.

        Args:
            ids: Their ids.

        Raises:
            DeliveryError: The file is broken.
        """
        with self._file.transaction(durable=False):
            gone = self._file.delete("message", ids)
        self.numbers.messages -= gone

    def bury_message(self, message_id: int, reason: str) -> None:
        """Set a message aside that can never be delivered.

        Args:
            message_id: Its id.
            reason: The broker's words.

        Raises:
            DeliveryError: The file is broken.
        """
        with self._file.transaction():
            self._file.bury(message_id, reason)
            gone = self._file.delete("message", [message_id])
            self._file.add_to_tally("messages_refused", gone)
        self.numbers.messages -= gone
        self.numbers.drops["messages_refused"] += gone

    def remove_images(self, images: Sequence[StoredImage], why: str | None = None) -> None:
        """Remove images that were uploaded, or, with a reason, that were dropped.

        Args:
            images: Rows that may be gone already.
            why: Name of the drop; None after an upload.

        Raises:
            DeliveryError: The file is broken.
        """
        with self._file.transaction():
            gone = [image for image in images if self._file.delete("image", [image.id])]
            if why is not None and gone:
                self._file.add_to_tally(why, len(gone))
        if why is not None:
            self.numbers.drops[why] += len(gone)
        self.numbers.images -= len(gone)
        self.numbers.image_bytes -= sum(image.size for image in gone)
        self._spool.remove(image.event_id for image in images)

    def drop_damaged(self, table: Table, ids: Sequence[int]) -> None:
        """Drop rows whose checksum is wrong.

        Args:
            table: Where they stand.
            ids: Which.

        Raises:
            DeliveryError: The file is broken.
        """
        self._drop(table, ids, f"{table}s_damaged")
        if table == "message":
            self.numbers.messages -= len(ids)
        else:
            self.numbers.images -= len(ids)

    def drop_aged(self, before_up_s: float) -> None:
        """Drop what was stored before a time.

        Args:
            before_up_s: Agent running time.

        Raises:
            StoreFullError: The disk is so full that even dropping fails.
            DeliveryError: The file is broken.
        """
        aged = self._file.ids_before("message", before_up_s, _AGED_ROWS)
        self._drop("message", aged, "messages_aged")
        self.numbers.messages -= len(aged)
        old_images = set(self._file.ids_before("image", before_up_s, _AGED_ROWS))
        if old_images:
            page = self._file.images(0, len(old_images))
            self.remove_images([row for row in page.rows if row.id in old_images], "images_aged")

    def evict_images(self) -> bool:
        """Drop the oldest images.

        Returns:
            Whether there were any.

        Raises:
            StoreFullError: The disk is so full that even dropping fails.
            DeliveryError: The file is broken.
        """
        page = self._file.images(0, _EVICT_IMAGES)
        self.drop_damaged("image", page.damaged)
        self.remove_images(page.rows, "images_evicted")
        return bool(page.rows or page.damaged)

    def evict_messages(self) -> bool:
        """Drop the oldest events, or when there are none, the oldest counts; see `evict_images`."""
        for kind, why in (("event", "events_evicted"), ("count", "counts_evicted")):
            ids = self._file.oldest_messages(kind, _EVICT_MESSAGES)
            if ids:
                self._drop("message", ids, why)
                self.numbers.messages -= len(ids)
                return True
        return False

    def _drop(self, table: Table, ids: Sequence[int], why: str) -> None:
        if ids:
            with self._file.transaction():
                self._file.delete(table, ids)
                self._file.add_to_tally(why, len(ids))
            self.numbers.drops[why] += len(ids)
