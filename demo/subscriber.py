"""An independent witness: an MQTT subscriber that shares no code with the agent and counts what arrives.

MQTT delivers at least once, so what counts is the number of distinct `event_id`s. This is the only file of the tour
that knows paho.
"""

from __future__ import annotations

import json
import queue
import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from bundle.errors import DeliveryError

if TYPE_CHECKING:
    from types import TracebackType

    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode
    from typing_extensions import Self

_CONNECT_TIMEOUT_S = 10.0
_MAX_REMEMBERED_IDS = 200_000
_MAX_WAITING = 100_000


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it arrived.

    Attributes:
        name: The topic below the robot's, for example "count" or "bin/00012".
        content: The JSON object.
    """

    name: str
    content: dict[str, Any]


class Subscriber:
    """Hears everything that one robot says, for the length of a `with` block.

    Args:
        host: The broker's.
        port: The broker's.
        base: The robot's topic, without a trailing slash.

    Attributes:
        received: Number of distinct counts so far.
    """

    def __init__(self, host: str, port: int, base: str) -> None:
        self._host, self._port, self._base = host, port, base
        self.received = 0
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._retained: set[str] = set()
        self._messages: queue.Queue[Message] = queue.Queue(_MAX_WAITING)
        self._subscribed = threading.Event()
        self._refused: str | None = None
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"witness-{uuid.uuid4().hex[:12]}", protocol=mqtt.MQTTv311
        )
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        """Connect and subscribe, and wait until the broker has confirmed both.

        Raises:
            DeliveryError: Nobody listens there, or the broker refuses.
        """
        where = f"{self._host}:{self._port}"
        fix = "Name a running broker with --broker HOST:PORT, or leave the option out to use the embedded one."
        try:
            self._client.connect(self._host, self._port)
        except (OSError, ValueError) as exc:
            raise DeliveryError(f"no MQTT broker answers at {where}", got=exc, fix=fix) from exc
        self._client.loop_start()
        if not self._subscribed.wait(_CONNECT_TIMEOUT_S) or self._refused is not None:
            self._client.loop_stop()
            raise DeliveryError(f"the MQTT broker at {where} refuses", got=self._refused or "no answer", fix=fix)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def next(self, timeout_s: float) -> Message | None:
        """Take the oldest message that was not taken yet.

        A count that arrives again is not given again.

        Args:
            timeout_s: How long to wait for one.

        Returns:
            The message, or None.
        """
        try:
            return self._messages.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def forget_robot(self) -> None:
        """Remove what the robot left retained on the broker, so that a tour leaves no trace on a broker it was lent."""
        for topic in sorted(self._retained):
            self._client.publish(topic, b"", qos=1, retain=True).wait_for_publish(_CONNECT_TIMEOUT_S)

    def _on_connect(
        self,
        client: mqtt.Client,
        userdata: object,
        flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del userdata, flags, properties
        if reason.is_failure:
            self._refused = str(reason)
            self._subscribed.set()
        else:
            client.subscribe(f"{self._base}/#", qos=1)

    def _on_subscribe(
        self,
        client: mqtt.Client,
        userdata: object,
        mid: int,
        reasons: list[ReasonCode],
        properties: Properties | None,
    ) -> None:
        del client, userdata, mid, properties
        if any(reason.is_failure for reason in reasons):
            self._refused = f"the subscription to {self._base}/#"
        self._subscribed.set()

    def _on_message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        del client, userdata
        name = message.topic[len(self._base) + 1 :]
        if not message.payload:
            return
        if name == "status" or name.startswith("bin/"):
            self._retained.add(message.topic)
        try:
            content = json.loads(message.payload)
        except ValueError:
            content = None
        if isinstance(content, dict) and not (name == "count" and self._is_repeat(content)):
            self._offer(Message(name, content))

    def _is_repeat(self, content: dict[str, Any]) -> bool:
        event_id = str(content.get("event_id"))
        if event_id in self._seen:
            return True
        self._seen[event_id] = None
        if len(self._seen) > _MAX_REMEMBERED_IDS:
            self._seen.popitem(last=False)
        self.received += 1
        return False

    def _offer(self, message: Message) -> None:
        try:
            self._messages.put_nowait(message)
        except queue.Full:  # nobody looks any more; what is counted stays counted
            self._messages.get_nowait()
            self._messages.put_nowait(message)
