"""What comes in over one connection: handed on, and acknowledged when it is safe."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.link import Delivery, Link


class Intake:
    """Deliveries of one connection. Belongs to the delivery thread, but for what it calls back.

    Args:
        link: The connection.
        receive: Takes a delivery, and what to call, on any thread, when the broker need not keep it.
        wake: Wakes the delivery thread.
    """

    def __init__(
        self, link: Link, receive: Callable[[Delivery, Callable[[], None]], None], wake: Callable[[], object]
    ) -> None:
        self._link = link
        self._receive = receive
        self._wake = wake
        self._settled: deque[int] = deque()

    def turn(self) -> None:
        """Hand on what came, acknowledge what is safe.

        Raises:
            DeliveryError: The connection is gone.
        """
        for delivery in self._link.received():
            self._receive(delivery, partial(self._settle, delivery.mid))
        while self._settled:
            self._link.acknowledge(self._settled.popleft())

    def _settle(self, mid: int) -> None:
        self._settled.append(mid)
        self._wake()
