"""Visits that somebody asked for: the hand-over from the commands' thread to the frame path.

```
cmd/capture -> put ... the frame path: take -> frames -> answer, stored in one transaction with the count
```
The frame path asks `take` with each frame of a camera that has no visit open. A request is given to frames that were
taken after it was made: the robot stands at the bin now, not when an older picture was taken. For each request taken,
the frame path stores exactly one `answer`: beside the count (`Entry.companions`), or alone when there is none.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.commands.order import Order
    from edge_agent.messages import CountMessage
    from edge_agent.outbox.rows import Entry

MAX_WAITING = 8


@dataclass(frozen=True, slots=True)
class VisitRequest:
    """One look at one bin.

    Attributes:
        command_id: Of the command that asks.
        camera: Which camera shall look.
        bin_id: The bin in front of it.
        record: What the inventory system expects there; None leaves it to the records file.
        frames: How many usable frames make the count; None leaves it to the configuration.
        asked_mono_s: Monotonic time of the request: no older frame may be used.
        give_up_mono_s: Monotonic time after which the visit must not begin any more.
        order: The command, for its answer; nothing to the frame path.
    """

    command_id: str
    camera: str
    bin_id: str
    record: int | None
    frames: int | None
    asked_mono_s: float
    give_up_mono_s: float
    order: Order | None = None


class VisitRequests:
    """Requests that wait for their camera; any thread may call it.

    Args:
        answer: Builds the entry that ends a command: from the request, the count that it led to, and, without one, why.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        answer: Callable[[VisitRequest, CountMessage | None, str], Entry],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.answer = answer
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[VisitRequest] = []

    def put(self, request: VisitRequest) -> bool:
        """Ask for a visit.

        Args:
            request: What to look at.

        Returns:
            False when too many wait already.
        """
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                return False
            self._waiting.append(request)
            return True

    def take(self, camera: str, captured_mono_s: float) -> VisitRequest | None:
        """Take the oldest request that a frame may begin; the frame path's side.

        Args:
            camera: Where the frame came from.
            captured_mono_s: When it was taken.

        Returns:
            The request, to be answered exactly once, or None.
        """
        if not self._waiting:  # a frame costs no lock while nobody asks
            return None
        with self._lock:
            for request in self._waiting:
                fresh = request.asked_mono_s <= captured_mono_s and self._clock() < request.give_up_mono_s
                if request.camera == camera and fresh:
                    self._waiting.remove(request)
                    return request
        return None

    def overdue(self) -> list[VisitRequest]:
        """Take the requests that no frame has begun in time; the commands' side, which answers them."""
        with self._lock:
            late = [request for request in self._waiting if self._clock() >= request.give_up_mono_s]
            self._waiting = [request for request in self._waiting if request not in late]
            return late
