"""Brokers for tests: a real mosquitto, a real amqtt, a scripted one that misbehaves, and an independent subscriber."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typing_extensions import Self

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")
_START_TIMEOUT_S = 60.0


def free_port() -> int:
    """A TCP port of the loopback that nobody uses right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for_port(port: int) -> None:
    """Return when something listens."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


class MosquittoAsConfigured:
    """A real broker that can be killed and started again on the same port.

    Args:
        config: Its main file, used as it is.
        port: On which that lets it listen.
    """

    def __init__(self, config: Path, port: int) -> None:
        self.port = port
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        assert MOSQUITTO is not None
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for_port(self.port)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None


class Mosquitto(MosquittoAsConfigured):
    """A real broker with the simplest configuration.

    Args:
        folder: For its configuration.
        settings: Further lines of mosquitto.conf.
    """

    def __init__(self, folder: Path, settings: str = "allow_anonymous true") -> None:
        port, config = free_port(), folder / "mosquitto.conf"
        # Started by root, mosquitto would become a user who cannot read a test's folder.
        user = "user root\n" if os.geteuid() == 0 else ""
        config.write_text(f"{user}listener {port} 127.0.0.1\n{settings}\n", encoding="utf-8")
        super().__init__(config, port)


@dataclass(frozen=True, slots=True)
class Received:
    """One message as a subscriber got it."""

    topic: str
    payload: bytes
    retained: bool


class Subscriber:
    """A client of its own that notes every message of a topic filter; it comes back when its broker does.

    Args:
        port: Of the broker.
        topic: Filter.
        version: Of MQTT.
    """

    def __init__(
        self, port: int, topic: str = "bintally/#", version: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5
    ) -> None:
        self.messages: list[Received] = []
        self._topic = topic
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=version)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(self._topic, qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _client, _data, message: self.messages.append(
            Received(message.topic, bytes(message.payload), message.retain)
        )
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._ready.wait(_START_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def of(self, end: str) -> list[Received]:
        """Messages whose topic ends like this."""
        return [message for message in list(self.messages) if message.topic.endswith(end)]


class EmbeddedBroker:
    """amqtt in a thread, as the demo embeds it: MQTT 3.1.1 alone."""

    def __init__(self) -> None:
        self.port = free_port()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(_START_TIMEOUT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        from amqtt.broker import Broker

        broker = Broker(
            {
                "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{self.port}"}},
                "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
            }
        )
        await broker.start()
        self._ready.set()
        await self._stop.wait()
        await broker.shutdown()


@dataclass(slots=True)
class Script:
    """How a scripted broker behaves.

    Attributes:
        connack: Whether it answers CONNECT.
        closes_on_version: Closes without a word when asked for this protocol level.
        swallows: Whether a CONNECT of this protocol level, with a will or without, stays without an answer.
        receive_maximum: Told in CONNACK of MQTT 5.
        reason: For a topic, the reason code of the PUBACK, or None to send none.
        most_bytes: MaximumPacketSize, told in CONNACK of MQTT 5; who sends more is thrown out.
        stray: Every PUBACK comes three times, between others for packets that were never sent.
        leave: Reason code of a DISCONNECT that follows the first PUBLISH of a connection.
    """

    connack: bool = True
    closes_on_version: int | None = None
    swallows: Callable[[int, bool], bool] = lambda _version, _will: False
    receive_maximum: int | None = None
    reason: Callable[[str], int | None] = lambda _: 0
    most_bytes: int | None = None
    stray: bool = False
    leave: int | None = None


@dataclass(slots=True)
class ScriptedBroker:
    """Speaks just enough MQTT to misbehave on purpose.

    Attributes:
        script: May be changed while it runs.
        published: Topics in the order of arrival.
        versions: Protocol level of each CONNECT.
    """

    script: Script = field(default_factory=Script)
    published: list[str] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _threads: list[threading.Thread] = field(default_factory=list)
    _sockets: list[socket.socket] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for sock in self._sockets:
            sock.close()

    def _spawn(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            self._spawn(lambda sock=sock: self._serve(sock))  # type: ignore[misc]  # a default binds the loop's value

    def _serve(self, sock: socket.socket) -> None:
        version = 0
        try:
            while True:
                kind, body = _packet(sock)
                if kind >> 4 == 1:
                    version = body[6]
                    self.versions.append(version)
                    if version == self.script.closes_on_version:
                        sock.close()
                        return
                    if self.script.connack and not self.script.swallows(version, bool(body[7] & 0b100)):
                        sock.sendall(self._connack(version))
                elif kind >> 4 == 3:
                    self._publish(sock, kind, body, version)
                elif kind >> 4 == 8:
                    sock.sendall(
                        b"\x90\x04" + body[:2] + b"\x00\x00" if version >= 5 else b"\x90\x03" + body[:2] + b"\x00"
                    )
                elif kind >> 4 == 12:
                    sock.sendall(b"\xd0\x00")
        except OSError:
            return

    def _connack(self, version: int) -> bytes:
        if version < 5:
            return b"\x20\x02\x00\x00"
        maximum = self.script.receive_maximum
        properties = b"" if maximum is None else b"\x21" + maximum.to_bytes(2, "big")
        if self.script.most_bytes is not None:
            properties += b"\x27" + self.script.most_bytes.to_bytes(4, "big")
        body = b"\x00\x00" + bytes([len(properties)]) + properties
        return b"\x20" + bytes([len(body)]) + body

    def _publish(self, sock: socket.socket, kind: int, body: bytes, version: int) -> None:
        length = int.from_bytes(body[:2], "big")
        topic = body[2 : 2 + length].decode()
        most = self.script.most_bytes
        if most is not None and len(body) + 2 > most:
            sock.sendall(b"\xe0\x02\x95\x00")
            raise ConnectionError
        self.published.append(topic)
        if self.script.leave is not None:
            sock.sendall(b"\xe0\x02" + bytes([self.script.leave]) + b"\x00")
            raise ConnectionError
        if not kind & 0b110:
            return
        mid = body[2 + length : 4 + length]
        reason = self.script.reason(topic)
        if reason is not None:
            answer = b"\x40\x03" + mid + bytes([reason]) if version >= 5 and reason else b"\x40\x02" + mid
            sock.sendall(b"\x40\x02\xff\xfe" + 3 * answer + b"\x40\x02\x00\x00" if self.script.stray else answer)


def _packet(sock: socket.socket) -> tuple[int, bytes]:
    kind = _exactly(sock, 1)[0]
    length, shift = 0, 0
    while True:
        byte = _exactly(sock, 1)[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return kind, _exactly(sock, length)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise ConnectionError
        data += part
    return data
