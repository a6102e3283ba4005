"""The durable outbox: written before anything is sent, emptied only by what was confirmed.

Invariants:
- A count is accepted after COMMIT, never before, and leaves only on a confirmed delivery or a counted drop.
- One thread owns the database. The frame path hands entries over and does not wait; what piles up during one commit
  goes into the next one together (group commit). A bounded number of entries may wait: then `put` blocks.
- What was delivered is noted at once (`Receipts`) and removed with one of the next commits, or many together by one
  of their own that does not wait for the disk. A kill in between costs nothing; after a power cut before the next
  commit it is delivered again, under the same event_id.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bundle.errors import DeliveryError
from edge_agent.outbox.file import StoreFullError
from edge_agent.outbox.lane import Lane
from edge_agent.outbox.rows import Entry, StoredImage, StoredMessage
from edge_agent.threads import attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Literal

    from edge_agent.outbox.ledger import Ledger
    from edge_agent.outbox.stock import StockNumbers

_LOG = logging.getLogger(__name__)

_MAX_WAITING = 64
_IDLE_WAIT_S = 0.25
_HOUSEKEEPING_S = 5.0
_FULL_RETRY_S = 0.5
_RUSH_S = 0.01
_RUSH_ENTRIES = 8
"""Counts that come faster than this share a commit: at most so many, waiting at most so long."""
_REMOVE_TOGETHER = 64
_SETTLE_AFTER_S = 2.0
"""Delivered rows wait so long for a commit that takes them along, or until there are so many of them."""


@dataclass(frozen=True, slots=True)
class _Wake:
    """Something is there that needs no commit."""


@dataclass(frozen=True, slots=True)
class _Refused:
    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class _ImageDone:
    image: StoredImage
    dropped: str | None


_Order = Entry | _Wake | _Refused | _ImageDone | None


@dataclass(frozen=True, slots=True)
class OutboxNumbers:
    """What the outbox knows of itself; `accepted` counts from the start of the process, drops from the first start."""

    accepted_counts: int
    accepted_events: int
    accepted_images: int
    messages: int
    images: int
    image_bytes: int
    database_bytes: int
    commits: int
    oldest_s: float
    full: bool
    drops: dict[str, int]


class Outbox:
    """The outbox's thread and what other threads may ask of it.

    Attributes:
        messages: On their way to the broker.
        images: On their way to the object store.
        failure: Why the outbox has ended.
        removed: Delivered messages that are gone from the outbox.
        progress_s: Monotonic time of the thread's last round.
        on_stored: As `on_accepted`, for who comes to know the outbox later; set before the start.

    Args:
        ledger: The contents; handed over to the thread.
        on_accepted: Called on that thread with what a commit has made durable.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        on_accepted: Callable[[Sequence[Entry]], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.messages: Lane[StoredMessage] = Lane()
        self.images: Lane[StoredImage] = Lane()
        self.failure: DeliveryError | None = None
        self.removed = 0
        self.progress_s = clock()
        self._ledger = ledger
        self._on_accepted = on_accepted
        self.on_stored: Callable[[Sequence[Entry]], None] = lambda _: None
        self._clock = clock
        self._inbox: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._permits = threading.Semaphore(_MAX_WAITING)
        self._lock = threading.Lock()
        self._waiting = 0
        self._held: list[Entry] = []
        self._delivered: list[int] = []
        self._refused: list[_Refused] = []
        self._images_done: list[_ImageDone] = []
        self._accepted = {"count": 0, "event": 0, "result": 0, "image": 0}
        self._full = False
        self._batch = _MAX_WAITING
        self._retry_s = 0.0
        self._settle_by_s = 0.0
        self._last_commit_s = 0.0
        self._next_housekeeping_s = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, entry: Entry, *, timeout_s: float) -> bool:
        """Hand an entry over. It is accepted later, when `on_accepted` names it.

        Args:
            entry: What to store.
            timeout_s: How long to wait for room.

        Returns:
            False when there was no room: the entry was not taken.

        Raises:
            DeliveryError: The outbox has failed.
        """
        if self.failure is not None:
            raise self.failure
        if not self._permits.acquire(timeout=timeout_s):
            return False
        with self._lock:
            self._waiting += 1
        self._inbox.put(entry)
        return True

    def delivered(self, messages: Sequence[StoredMessage]) -> None:
        """Remove messages that the broker has confirmed. From now on a kill does not bring them back.

        Args:
            messages: From the lane; of those that were confirmed, at most `Receipts.SLOTS` may not be `removed` yet.
        """
        for message in messages:
            self._ledger.receipts.note(message.event_id)
        with self._lock:
            if not self._delivered:
                self._settle_by_s = self._clock() + _SETTLE_AFTER_S
            before = len(self._delivered)
            self._delivered += [message.id for message in messages]
            are_many = before < _REMOVE_TOGETHER <= len(self._delivered)
        if are_many:
            self._inbox.put(_Wake())

    def refused(self, message_id: int, reason: str) -> None:
        """Set a message aside that the broker will never take."""
        self._inbox.put(_Refused(message_id, reason))

    def uploaded(self, image: StoredImage) -> None:
        """Remove an image that the object store has confirmed."""
        self._inbox.put(_ImageDone(image, None))

    def image_lost(self, image: StoredImage, why: Literal["images_damaged", "images_refused"]) -> None:
        """Remove an image whose file is gone or altered, or which the store will never take.

        Args:
            image: Which.
            why: The drop that it is counted under.
        """
        self._inbox.put(_ImageDone(image, why))

    @property
    def is_full(self) -> bool:
        """The last commit found no room."""
        return self._full

    @property
    def rescue_waits(self) -> bool:
        """Rows of a damaged outbox are still to be taken over."""
        return self._ledger.rescue_waits

    @property
    def is_stored(self) -> bool:
        """Everything that was put has been committed."""
        with self._lock:
            return self._waiting == 0

    @property
    def is_empty(self) -> bool:
        """Everything that was put has been delivered and uploaded."""
        return self.is_stored and self.undelivered <= 0 and self._ledger.numbers.images <= 0 and self._inbox.empty()

    @property
    def undelivered(self) -> int:
        """Messages that wait to be delivered, or are under way."""
        return self._ledger.numbers.messages - len(self._delivered)

    @property
    def uptime_s(self) -> float:
        """Agent running time since the outbox was first made."""
        return self._ledger.uptime_s

    def is_late(self, message: StoredMessage, after_s: float) -> bool:
        """Tell whether a message is no news any more.

        Args:
            message: From the lane.
            after_s: How long it may have waited.

        Returns:
            True when it waited longer, or was stored by an earlier run of the agent.
        """
        return message.created_up_s <= self._ledger.started_up_s or (
            self._ledger.uptime_s - message.created_up_s > after_s
        )

    def is_newest(self, message: StoredMessage) -> bool:
        """Tell whether no newer count of the message's bin was stored; see `NewestPerBin`."""
        return self._ledger.newest.is_newest(message)

    def numbers(self) -> OutboxNumbers:
        """A copy of the numbers, for telemetry."""
        now: StockNumbers = self._ledger.numbers
        return OutboxNumbers(
            accepted_counts=self._accepted["count"],
            accepted_events=self._accepted["event"],
            accepted_images=self._accepted["image"],
            messages=max(0, self.undelivered),
            images=now.images,
            image_bytes=now.image_bytes,
            database_bytes=now.database_bytes,
            commits=now.commits,
            oldest_s=now.oldest_s,
            full=self._full,
            drops=dict(now.drops),
        )

    def close(self, timeout_s: float) -> bool:
        """Commit what waits, close the file, end the thread.

        Args:
            timeout_s: How long that may take.

        Returns:
            Whether it ended in time.
        """
        self._closing = True
        self._inbox.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        failure = attempt("the outbox", self._work)
        if isinstance(failure, DeliveryError):
            self.failure = failure
        elif failure is not None:
            got = f"{type(failure).__name__}: {failure}"
            self.failure = DeliveryError("the outbox failed in an unforeseen way", got=got)
        else:
            self.failure = DeliveryError("the outbox is closed")
        self._ledger.close()

    def _work(self) -> None:
        try:
            while not (self._closing and self._inbox.empty() and not self._held and not self._has_settled()):
                self._step()
                self.progress_s = self._clock()
                if self._closing and self._full:
                    _LOG.error("%d messages could not be stored, because the disk is full", len(self._held))
                    break
            self._ledger.save_uptime()
        except StoreFullError:
            _LOG.warning("the running time could not be saved, because the disk is full")

    def _step(self) -> None:
        """Do one round: take orders, commit entries, remove what is settled, hand rows on."""
        self._collect()
        try:
            if self._held and self._clock() >= self._retry_s and self._is_worth_a_commit():
                self._commit()
            elif self._is_removal_due():
                self._remove_delivered()
            self._settle_rest()
            if self._clock() >= self._next_housekeeping_s:
                self._next_housekeeping_s = self._clock() + _HOUSEKEEPING_S
                self._ledger.keep_house()
                self._full = self._full and bool(self._held)
            self._refill()
        except StoreFullError as exc:
            self._on_full(exc)

    def _is_worth_a_commit(self) -> bool:
        """Commit at once after a quiet moment; in a rush, let a few more entries come and share the fsync."""
        if self._closing or len(self._held) >= _RUSH_ENTRIES:
            return True
        return self._clock() >= self._last_commit_s + _RUSH_S

    def _is_removal_due(self) -> bool:
        """Delivered rows that no commit took along go together, or after a while."""
        return self._closing or len(self._delivered) >= _REMOVE_TOGETHER or self._clock() >= self._settle_by_s

    def _collect(self) -> None:
        """Wait for orders and take what lies in the inbox."""
        wait_s = _IDLE_WAIT_S
        if self._held and not self._full:
            wait_s = max(0.0, self._last_commit_s + _RUSH_S - self._clock())
        try:
            self._sort_in(self._inbox.get(timeout=wait_s) if wait_s else self._inbox.get_nowait())
            for _ in range(_MAX_WAITING):
                self._sort_in(self._inbox.get_nowait())
        except queue.Empty:
            return

    def _sort_in(self, order: _Order) -> None:
        if isinstance(order, Entry):
            self._held.append(order)
        elif isinstance(order, _Refused):
            self._refused.append(order)
        elif isinstance(order, _ImageDone):
            self._images_done.append(order)

    def _has_settled(self) -> bool:
        return bool(self._delivered or self._refused or self._images_done)

    def _commit(self) -> None:
        entries = self._held[: self._batch]
        with self._removing() as delivered:
            messages, images = self._ledger.commit(entries, delivered)
        self._held = self._held[len(entries) :]
        self._full = False
        self._batch = min(2 * self._batch, _MAX_WAITING)
        self._last_commit_s = self._clock()
        for entry in entries:
            for part in (entry, *entry.companions):
                self._accepted[part.kind] += 1
        self._accepted["image"] += len(images)
        with self._lock:
            self._waiting -= len(entries)
        self._permits.release(len(entries))
        self._on_accepted(entries)
        self.on_stored(entries)
        self.messages.offer(messages)
        self.images.offer(images)

    def _remove_delivered(self) -> None:
        if self._delivered:
            with self._removing() as delivered:
                self._ledger.stock.remove_messages(delivered)

    @contextmanager
    def _removing(self) -> Iterator[list[int]]:
        """Hand out what was delivered, to be removed in the block; afterwards the delivery thread may go on.

        Yields:
            Ids; they are kept for the next time when the block fails.
        """
        # Taken away first: a reader may see too many undelivered messages for a moment, never too few.
        with self._lock:
            taken, self._delivered = self._delivered, []
        try:
            yield taken
        except BaseException:
            with self._lock:
                self._delivered = taken + self._delivered
            raise
        if taken:
            self.removed += len(taken)
            self.messages.wake()

    def _settle_rest(self) -> None:
        while self._refused:
            self._ledger.stock.bury_message(self._refused[0].id, self._refused[0].reason)
            del self._refused[0]
        for why in {order.dropped for order in self._images_done}:
            self._ledger.stock.remove_images([order.image for order in self._images_done if order.dropped == why], why)
        self._images_done = []

    def _on_full(self, exc: StoreFullError) -> None:
        if not self._full:
            _LOG.warning("the outbox has no room: %s", exc)
        self._full = True
        self._batch = 1
        try:
            with self._removing() as delivered:
                freed = self._ledger.make_room(delivered)
            if freed:
                return
        except StoreFullError:
            _LOG.debug("no room even to drop")
        self._retry_s = self._clock() + _FULL_RETRY_S

    def _refill(self) -> None:
        """Read rows back for a lane that fell behind: after a start, or when a broker was away."""
        last_message, last_image = self._ledger.last_ids
        if self.messages.wants(last_message):
            page = self._ledger.file.messages(self.messages.offered_id, self.messages.room)
            self._ledger.stock.drop_damaged("message", page.damaged)
            self.messages.refill(page, last_message)
        if self.images.wants(last_image):
            pictures = self._ledger.file.images(self.images.offered_id, self.images.room)
            self._ledger.stock.drop_damaged("image", pictures.damaged)
            self.images.refill(pictures, last_image)
