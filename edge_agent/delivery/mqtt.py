"""The one file that speaks paho-mqtt: one connection to a broker, used by one thread.

Invariants, each from a measured trap of paho 2.2:
- A Client lives for one connection. On a reconnect paho would send its whole queue past the window.
- Callbacks only note what happened. An exception in one would end the network loop while is_connected() stays true, and
  a lock taken in on_publish can deadlock.
- paho's own loop thread is not used: `wait` drives the socket, so this thread also hears its own waker.
- An acknowledgement may be a refusal: MQTT 5 PUBACK carries a reason code.
- paho ignores what CONNACK says of the largest packet; a message that is larger is refused here, before it is sent.
- What comes in is acknowledged by `acknowledge` alone, when it is safe: until then the broker keeps it, with MQTT 5
  also while the robot is away.
"""

from __future__ import annotations

import select
import ssl
import time
from collections import deque
from typing import TYPE_CHECKING

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from bundle.errors import DeliveryError
from edge_agent.delivery import tls
from edge_agent.delivery.link import VERSION_NAMES, Ack, Delivery, HandshakeError, VersionRefusedError, Will
from edge_agent.delivery.resolver import Resolver

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from paho.mqtt.reasoncodes import ReasonCode

    from edge_agent.config import MqttSection
    from edge_agent.threads import Waker

_CONNECT_TIMEOUT_S = 5.0
_CONNACK_TIMEOUT_S = 10.0
_UNSUPPORTED_VERSION = 0x84
_CREDENTIALS_REFUSED = frozenset({0x86, 0x87})
_NEVER_ACCEPTED = frozenset({0x90, 0x95, 0x99})  # topic name invalid, packet too large, payload format invalid
_MAX_PACKET_BYTES = 64 << 10
_PUBLISH_BYTES = 16
"""At most so much of a PUBLISH is neither topic nor payload: header, lengths, packet id, the one property."""
_MAX_SECRET_BYTES = 4096
_MAX_INCOMING = 20
_SESSION_S = 3600
"""How long a broker keeps commands for a robot that is away; each has an expiry of its own as well."""


class _Client(paho.Client):
    """A client that cannot hang while it asks for the broker's address."""

    def __init__(self, settings: MqttSection, client_id: str, version: int, resolver: Resolver) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion(version),
            clean_session=None if version == MQTTProtocolVersion.MQTTv5 else True,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self._where = settings.host, settings.port
        self._resolver = resolver

    def _create_socket_connection(self) -> socket.socket:
        return self._resolver.connect(*self._where, _CONNECT_TIMEOUT_S)


class PahoLink:
    """A connection through paho.

    Args:
        settings: Where and how.
        client_id: Who.
        version: 5 or 4 (MQTT 3.1.1).
        will: For the broker; None for a mere probe of the version. A broker that knows only MQTT 3.1.1 can stumble over
            the properties of an MQTT 5 will: amqtt 0.12 then neither answers nor hangs up, but refuses a bare CONNECT.
        resolver: Kept by who connects again and again, so that one lookup at most is under way.

    Raises:
        VersionRefusedError: The broker does not speak this version.
        HandshakeError: The broker did not answer, or closed the connection.
        DeliveryError: No connection, or a certificate or password file cannot be read.
    """

    def __init__(
        self,
        settings: MqttSection,
        *,
        client_id: str,
        version: int,
        will: Will | None,
        resolver: Resolver | None = None,
    ) -> None:
        self.window = settings.window
        self._most_bytes: int | None = None
        self._withheld = 0
        self._told_why: str | None = None
        self._name = f"broker {settings.host}:{settings.port}"
        self._acks: deque[Ack] = deque()
        self._deliveries: deque[Delivery] = deque()
        self.subscription_refused: str | None = None
        self._connack: ReasonCode | None = None
        self._client = self._prepare(_Client(settings, client_id, version, resolver or Resolver()), settings, will)
        try:
            self._connect(settings, version, probe=will is None)
        except BaseException:
            self.abort()
            raise

    def _prepare(self, client: paho.Client, settings: MqttSection, will: Will | None) -> paho.Client:
        client.connect_timeout = _CONNECT_TIMEOUT_S
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        if settings.username is not None:
            client.username_pw_set(settings.username, _secret(settings.password_file))
        if settings.tls is not None:
            client.tls_set_context(tls.make_context(settings.tls))
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        return client

    def _connect(self, settings: MqttSection, version: int, *, probe: bool) -> None:
        properties = None
        if version == MQTTProtocolVersion.MQTTv5 and not probe:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # untyped in paho
            properties.MaximumPacketSize = _MAX_PACKET_BYTES
            properties.ReceiveMaximum = _MAX_INCOMING
            properties.SessionExpiryInterval = _SESSION_S
        try:
            self._client.connect(
                settings.host,
                settings.port,
                settings.keepalive_s,
                clean_start=probe if version == MQTTProtocolVersion.MQTTv5 else paho.MQTT_CLEAN_START_FIRST_ONLY,
                properties=properties,
            )
        except (OSError, ValueError) as exc:
            raise DeliveryError(f"{self._name} cannot be reached", got=exc, fix=tls.fix_for(exc)) from exc
        deadline_s = time.monotonic() + _CONNACK_TIMEOUT_S
        while self._connack is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise HandshakeError(f"{self._name} does not answer", got=f"no CONNACK in {_CONNACK_TIMEOUT_S:g} s")
            try:
                self._drive(min(left_s, 1.0), None)
            except DeliveryError as exc:
                fix = None if settings.tls is None else tls.CERTIFICATE_REFUSED
                raise HandshakeError(
                    f"{self._name} closes the connection without an answer", got=exc.got, fix=fix
                ) from exc
        self._judge(self._connack, version)

    def _judge(self, reason: ReasonCode, version: int) -> None:
        if not reason.is_failure:
            return
        if reason.value == _UNSUPPORTED_VERSION:
            raise VersionRefusedError(f"{self._name} does not speak MQTT {VERSION_NAMES[version]}")
        fix = "Check mqtt.username and mqtt.password_file." if reason.value in _CREDENTIALS_REFUSED else None
        raise DeliveryError(f"{self._name} refuses the connection", got=str(reason), fix=fix)

    def _on_connect(
        self, _client: paho.Client, _data: object, _flags: object, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._connack = reason
        maximum = getattr(properties, "ReceiveMaximum", None)
        if isinstance(maximum, int) and maximum > 0:
            self.window = min(self.window, maximum)
        self._most_bytes = getattr(properties, "MaximumPacketSize", None)

    def _on_disconnect(
        self, _client: paho.Client, _data: object, flags: paho.DisconnectFlags, reason: ReasonCode, _properties: object
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._told_why = str(reason)

    def _on_publish(
        self, _client: paho.Client, _data: object, mid: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._acks.append(Ack(mid, str(reason), reason.value in _NEVER_ACCEPTED))
        else:
            self._acks.append(Ack(mid))

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        self._deliveries.append(Delivery(message.topic, bytes(message.payload), message.retain, message.mid))

    def _on_subscribe(
        self, _client: paho.Client, _data: object, _mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        self.subscription_refused = next((str(reason) for reason in reasons if reason.is_failure), None)

    def subscribe(self, topic: str) -> None:
        """Ask for messages; see `Link.subscribe`."""
        if self._client.protocol == MQTTProtocolVersion.MQTTv5:
            # As published, so that a command with the retain flag is known for one also when it comes at once.
            result, _ = self._client.subscribe(topic, options=SubscribeOptions(qos=1, retainAsPublished=True))
        else:
            result, _ = self._client.subscribe(topic, qos=1)
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise self._lost(MQTTErrorCode(result))

    def received(self) -> list[Delivery]:
        """Take what was delivered; see `Link.received`."""
        found = list(self._deliveries)
        self._deliveries.clear()
        return found

    def acknowledge(self, mid: int) -> None:
        """Tell the broker that a delivery is safe; see `Link.acknowledge`."""
        result = MQTTErrorCode(self._client.ack(mid, 1))
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise self._lost(result)

    def objection(self, topic: str, payload: bytes) -> str | None:
        """Compare a publication with the broker's MaximumPacketSize; see `Link.objection`."""
        if self._most_bytes is None or len(topic.encode()) + len(payload) + _PUBLISH_BYTES <= self._most_bytes:
            return None
        return f"larger than the broker takes ({self._most_bytes} B)"

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool, expiry_s: int | None = None) -> int:
        """Send a publication, with MQTT 5 perhaps one that expires; see `Link.publish`."""
        if (why := self.objection(topic, payload)) is not None:
            # The broker would hang up, again and again, and nothing behind this message would ever be delivered.
            self._withheld -= 1
            self._acks.append(Ack(self._withheld, why, for_ever=True))
            return self._withheld
        properties = None
        if expiry_s is not None and self._client.protocol == MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # untyped in paho
            properties.MessageExpiryInterval = expiry_s
        info = self._client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise self._lost(MQTTErrorCode(info.rc))
        return int(info.mid)

    def wait(self, timeout_s: float, waker: Waker) -> list[Ack]:
        """Drive the connection; see `Link.wait`."""
        self._drive(0.0 if self._acks else timeout_s, waker)
        done = list(self._acks)
        self._acks.clear()
        return done

    def _drive(self, timeout_s: float, waker: Waker | None) -> None:
        sock = self._client.socket()
        if sock is None:
            raise self._lost(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            timeout_s = 0.0
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
        if waker is not None:
            poll.register(waker, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(timeout_s * 1e3)}
        if waker is not None and waker.fileno() in ready:
            waker.drain()
        steps = [self._client.loop_misc]
        if sock.fileno() in ready or isinstance(sock, ssl.SSLSocket):
            steps = [self._client.loop_read, *steps]
        if self._client.want_write():
            steps = [self._client.loop_write, *steps]
        for step in steps:
            result = MQTTErrorCode(step())
            if result != MQTTErrorCode.MQTT_ERR_SUCCESS and not self._connack_failed():
                raise self._lost(result)

    def _connack_failed(self) -> bool:
        return self._connack is not None and self._connack.is_failure

    def _lost(self, code: MQTTErrorCode) -> DeliveryError:
        if self._told_why is not None:
            return DeliveryError(f"{self._name} has ended the connection", got=self._told_why)
        return DeliveryError(f"{self._name}: the connection is lost", got=paho.error_string(code))

    def close(self) -> None:
        """Say good-bye; see `Link.close`."""
        self._client.disconnect()
        self.abort()

    def abort(self) -> None:
        """Drop the connection; see `Link.abort`."""
        client = self._client
        sock = client.socket()
        if sock is not None:
            sock.close()
        # The callbacks make a circle of client and link, which holds megabytes of certificates; the collector is late.
        client.on_connect = client.on_publish = client.on_disconnect = None
        client.on_message = client.on_subscribe = None


def _secret(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        with file.open(encoding="utf-8") as handle:
            return handle.read(_MAX_SECRET_BYTES).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise DeliveryError(
            f"mqtt.password_file {file} cannot be read", got=type(exc).__name__, fix="Check the file and its rights."
        ) from exc
