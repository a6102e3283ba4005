"""A link to a broker that exists in memory: the interface of `edge_agent.delivery.mqtt.Link`, told how to fail."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bundle.errors import DeliveryError
from edge_agent.delivery.link import Ack, Delivery

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.threads import Waker


@dataclass(frozen=True, slots=True)
class Publication:
    """What was published."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


def accept(_: Publication) -> Ack | None:
    """The answer of a broker that takes everything; the mid is filled in by the link."""
    return Ack(0)


@dataclass(slots=True)
class SimulatedLink:
    """One connection.

    Attributes:
        window: As in `Link`.
        answer: For a publication, its acknowledgement, or None for silence.
        breaks_after: Publications until the connection is lost.
        published: Everything that was sent over it.
        most_in_flight: Publications that were unacknowledged at once, at most.
        closed: It was closed in order.
        subscription_refused: As in `Link`.
        subscribed: Filters that were asked for.
        incoming: What the broker delivers next.
        acknowledged: Deliveries that were acknowledged.
        most_bytes: Longer payloads are objected to.
    """

    window: int = 20
    answer: Callable[[Publication], Ack | None] = accept
    breaks_after: int | None = None
    published: list[Publication] = field(default_factory=list)
    most_in_flight: int = 0
    closed: bool = False
    subscription_refused: str | None = None
    subscribed: list[str] = field(default_factory=list)
    incoming: list[Delivery] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    most_bytes: int = 1 << 20
    _acks: deque[Ack] = field(default_factory=deque)
    _in_flight: int = 0

    def objection(self, topic: str, payload: bytes) -> str | None:
        del topic
        return None if len(payload) <= self.most_bytes else "too long"

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> int:
        if self.breaks_after is not None and len(self.published) >= self.breaks_after:
            raise DeliveryError("the simulated connection is lost")
        publication = Publication(topic, payload, qos, retain)
        self.published.append(publication)
        mid = len(self.published)
        if qos:
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            ack = self.answer(publication)
            if ack is not None:
                self._acks.append(Ack(mid, ack.refusal, ack.for_ever))
        return mid

    def wait(self, timeout_s: float, waker: Waker) -> list[Ack]:
        if not self._acks:
            waker.wait(min(timeout_s, 0.05))
        done = list(self._acks)
        self._in_flight -= len(done)
        self._acks.clear()
        return done

    def subscribe(self, topic: str) -> None:
        self.subscribed.append(topic)

    def received(self) -> list[Delivery]:
        found, self.incoming = self.incoming, []
        return found

    def acknowledge(self, mid: int) -> None:
        self.acknowledged.append(mid)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = False
