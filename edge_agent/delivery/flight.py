"""What is on its way to a broker: packets, and messages that are not wholly acknowledged."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_agent.delivery.link import Ack, Link
    from edge_agent.outbox.rows import StoredMessage


@dataclass(frozen=True, slots=True)
class Packet:
    """One publication. `row` is None for the status."""

    row: int | None
    topic: str
    payload: bytes
    retain: bool


@dataclass(slots=True)
class Open:
    """A message of which at least one publication is not acknowledged yet."""

    message: StoredMessage
    unacked: int
    refusal: Ack | None = None


@dataclass(slots=True)
class Session:
    """What belongs to one connection."""

    link: Link
    packets: deque[Packet] = field(default_factory=deque)
    in_flight: dict[int, tuple[Packet, float]] = field(default_factory=dict)

    def put_first(self, packet: Packet) -> None:
        """Put a packet in front of what waits, instead of an older one of its topic.

        Args:
            packet: Of no message: what it says replaces what was said before.
        """
        waiting = [other for other in self.packets if other.row is not None or other.topic != packet.topic]
        self.packets = deque([packet, *waiting])
