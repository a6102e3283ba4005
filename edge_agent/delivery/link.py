"""One connection to a broker, as delivery sees it: the interface that `mqtt` implements with paho."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from bundle.errors import DeliveryError

if TYPE_CHECKING:
    from edge_agent.threads import Waker

VERSIONS = (5, 4)
"""Protocol levels that are tried: MQTT 5, then 3.1.1."""
VERSION_NAMES: dict[int, Literal["5", "3.1.1"]] = {5: "5", 4: "3.1.1"}


class VersionRefusedError(DeliveryError):
    """The broker does not speak this version of MQTT."""


class HandshakeError(DeliveryError):
    """The broker did not answer CONNECT, or closed the connection: some do so on a version that they do not know."""


@dataclass(frozen=True, slots=True)
class Ack:
    """The broker's answer to one publication.

    Attributes:
        mid: Which one.
        refusal: Its reason, None when it was taken.
        for_ever: Sending it again cannot help.
    """

    mid: int
    refusal: str | None = None
    for_ever: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message from the broker.

    Attributes:
        topic: Where it was published.
        payload: What.
        retained: It was published to be kept.
        mid: For `Link.acknowledge`.
    """

    topic: str
    payload: bytes
    retained: bool
    mid: int


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, retained, when the connection breaks."""

    topic: str
    payload: bytes


class Link(Protocol):
    """One connection, as delivery sees it.

    Attributes:
        window: Publications that may be in flight.
    """

    window: int

    def objection(self, topic: str, payload: bytes) -> str | None:
        """Ask whether the broker would never take a publication.

        Args:
            topic: Where to.
            payload: What.

        Returns:
            Why it would not; None when it may.
        """
        ...

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> int:
        """Send a publication.

        Args:
            topic: Where to.
            payload: What.
            qos: 0 or 1.
            retain: Whether the broker keeps it.

        Returns:
            Its number, which `wait` will report for QoS 1.

        Raises:
            DeliveryError: The connection is gone.
        """
        ...

    def wait(self, timeout_s: float, waker: Waker) -> list[Ack]:
        """Drive the connection until something happens.

        Args:
            timeout_s: At most this long.
            waker: Ends the wait early.

        Returns:
            What was acknowledged.

        Raises:
            DeliveryError: The connection is gone.
        """
        ...

    def subscribe(self, topic: str) -> None:
        """Ask for messages, QoS 1.

        Args:
            topic: Filter.

        Raises:
            DeliveryError: The connection is gone.
        """
        ...

    def received(self) -> list[Delivery]:
        """Take what the broker has delivered since the last call."""
        ...

    def acknowledge(self, mid: int) -> None:
        """Tell the broker that a delivery is safe.

        Args:
            mid: Of the delivery.

        Raises:
            DeliveryError: The connection is gone.
        """
        ...

    @property
    def subscription_refused(self) -> str | None:
        """Why the broker gives no messages."""
        ...

    def close(self) -> None:
        """Say good-bye, which keeps the broker from publishing the will."""
        ...

    def abort(self) -> None:
        """Drop the connection without a word."""
        ...
