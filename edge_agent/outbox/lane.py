"""Rows on their way from the outbox's thread to one delivery thread: in order, bounded.

Fresh rows are handed on without being read back from disk, as long as the lane has everything before them. When it fell
behind, because a broker was away, it is refilled from disk page by page.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic

from edge_agent.outbox.rows import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_agent.outbox.rows import Page

_MAX_ROWS = 256


class Lane(Generic[Row]):
    """A bounded queue of rows.

    Attributes:
        wake: Called after rows were added; set by the delivery thread's owner.
        offered_id: Rows up to this id have been in the lane.
    """

    def __init__(self) -> None:
        self.wake: Callable[[], object] = lambda: None
        self.offered_id = 0
        self._rows: deque[Row] = deque()
        self._lock = threading.Lock()

    @property
    def room(self) -> int:
        """How many more rows fit."""
        return _MAX_ROWS - len(self._rows)

    @property
    def waiting(self) -> int:
        """Rows that lie here."""
        return len(self._rows)

    def take(self, limit: int) -> list[Row]:
        """Take rows from the front; the delivery thread's side.

        Args:
            limit: At most this many.

        Returns:
            The rows, none when there are none.
        """
        with self._lock:
            return [self._rows.popleft() for _ in range(min(limit, len(self._rows)))]

    def offer(self, rows: Sequence[Row]) -> None:
        """Hand fresh rows on, if there is room and nothing before them is missing; the outbox's side.

        Args:
            rows: Just committed, in order.
        """
        if rows and self.offered_id == rows[0].id - 1 and self.room >= len(rows):
            self.offered_id = rows[-1].id
            self._push(rows)

    def wants(self, last_id: int) -> bool:
        """Tell whether the lane fell behind and has room for a page; the outbox's side.

        Args:
            last_id: Highest id in the outbox.

        Returns:
            Whether `refill` is due.
        """
        return self.offered_id < last_id and self.room > _MAX_ROWS // 2

    def refill(self, page: Page[Row], last_id: int) -> None:
        """Take a page that was read from disk; the outbox's side.

        Args:
            page: The rows after `offered_id`.
            last_id: Highest id in the outbox, reached when the page is empty.
        """
        self.offered_id = page.last_id or last_id
        if page.rows:
            self._push(page.rows)

    def _push(self, rows: Sequence[Row]) -> None:
        with self._lock:
            self._rows.extend(rows)
        self.wake()
