"""What comes in over one connection: handed on, and acknowledged when it is safe."""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.delivery.link import Delivery, Link


_RETRY_S = 0.05
_MAX_WAITING = 100
"""With MQTT 5, the broker delivers fewer while none of them is acknowledged."""


class Intake:
    """Deliveries of one connection. Belongs to the delivery thread, but for what it calls back.

    Args:
        link: The connection.
        receive: Takes a delivery, and what to call, on any thread, when the broker need not keep it. False when there
            is no room: it is handed on again soon, because the broker does not deliver it again on this connection.
        wake: Wakes the delivery thread.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        link: Link,
        receive: Callable[[Delivery, Callable[[], None]], bool],
        wake: Callable[[], object],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._receive = receive
        self._wake = wake
        self._clock = clock
        self._settled: deque[int] = deque()
        self._waiting: list[Delivery] = []
        self._retry_s = 0.0

    def turn(self) -> None:
        """Hand on what came, acknowledge what is safe.

        Raises:
            DeliveryError: The connection is gone.
        """
        deliveries = [*self._waiting, *self._link.received()]
        is_due = not self._waiting or self._clock() >= self._retry_s
        self._waiting = self._hand_on(deliveries) if is_due else deliveries[:_MAX_WAITING]
        while self._settled:
            self._link.acknowledge(self._settled.popleft())

    def _hand_on(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Hand deliveries on in their order, up to the first for which there is no room.

        Returns:
            Those that wait.
        """
        for number, delivery in enumerate(deliveries):
            if not self._receive(delivery, partial(self._settle, delivery.mid)):
                self._retry_s = self._clock() + _RETRY_S
                return deliveries[number : number + _MAX_WAITING]
        return []

    def _settle(self, mid: int) -> None:
        self._settled.append(mid)
        self._wake()
