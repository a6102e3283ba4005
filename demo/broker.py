"""The embedded MQTT broker: amqtt in a thread of its own, on a free port of this machine alone.

It speaks MQTT 3.1.1 and keeps everything in memory. It is for the tour and for tests, not for a warehouse. This is the
only file that knows amqtt.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, cast

from bundle.errors import DeliveryError

if TYPE_CHECKING:
    from types import TracebackType

    from amqtt.adapters import ReaderAdapter
    from amqtt.broker import Broker
    from typing_extensions import Self

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0
_MQTT_5 = 5
_LENGTH_GOES_ON = 0x80
_MAX_LENGTH_BYTES = 4
_NAME_AND_LEVEL_BYTES = 7
_CONNACK_WRONG_VERSION = b"\x20\x02\x00\x01"
_GRACE_S = 0.02  # asyncio leaks a connection whose server closes before it has finished to open it


class EmbeddedBroker:
    """A broker for the length of a `with` block.

    Attributes:
        host: Loopback.
        port: The free port it was given; 0 before the block.
    """

    def __init__(self) -> None:
        self.host = _HOST
        self.port = 0
        self._ready = threading.Event()
        self._problem: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)

    def __enter__(self) -> Self:
        """Start it and wait until it accepts connections.

        Raises:
            DeliveryError: It did not come up.
        """
        self._thread.start()
        if not self._ready.wait(_START_TIMEOUT_S) or self._problem is not None:
            raise DeliveryError("the embedded MQTT broker did not start", got=self._problem) from self._problem
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection and end the thread."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_STOP_TIMEOUT_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as exc:  # noqa: BLE001 - handed to the thread that waits, which raises it
            self._problem = exc
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        from amqtt.broker import Broker
        from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType

        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        # An "external" listener lets this file own the socket, and so learn which free port it got.
        config = BrokerConfig(
            listeners={"default": ListenerConfig(type=ListenerType.EXTERNAL, bind=_HOST)},
            plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        )
        broker = Broker(config)
        await broker.start()
        connections = _Connections(broker)
        server = await asyncio.start_server(connections.accept, _HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        await asyncio.sleep(_GRACE_S)
        server.close()
        await broker.shutdown()
        await connections.close()


class _Connections:
    """Every open connection, because amqtt leaves some of them open: those that say nothing, and those at the end."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._end)

    async def close(self) -> None:
        for task in tuple(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await asyncio.sleep(_GRACE_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from amqtt.adapters import StreamWriterAdapter

        start = await _start_of_connect(reader)
        if start[-1] == _MQTT_5:
            # amqtt would give this answer too, but takes the properties of a version 5 will for the will itself, and
            # then waits for ever for the rest of it.
            writer.write(_CONNACK_WRONG_VERSION)
            await writer.drain()
            return
        adapter = StreamWriterAdapter(writer)
        await self._broker.external_connected(cast("ReaderAdapter", _Replay(start, reader)), adapter, "default")

    def _end(self, task: asyncio.Task[None]) -> None:
        self._open.pop(task).close()
        if not task.cancelled():
            task.exception()  # a client that broke off is no news


async def _start_of_connect(reader: asyncio.StreamReader) -> bytes:
    """Read a CONNECT packet up to its protocol level: type, length in up to four bytes, the name "MQTT", the level."""
    start = await reader.readexactly(2)
    while start[-1] & _LENGTH_GOES_ON and len(start) <= _MAX_LENGTH_BYTES:
        start += await reader.readexactly(1)
    return start + await reader.readexactly(_NAME_AND_LEVEL_BYTES)


class _Replay:
    """A reader, as amqtt wants it, that gives back what was already read of a stream."""

    def __init__(self, start: bytes, reader: asyncio.StreamReader) -> None:
        self._start = start
        self._reader = reader

    async def read(self, n: int = -1) -> bytes:
        if n < 0:
            start, self._start = self._start, b""
            return start + await self._reader.read()
        start, self._start = self._start[:n], self._start[n:]
        return start + await self._reader.readexactly(n - len(start)) if len(start) < n else start

    def feed_eof(self) -> None:
        self._reader.feed_eof()
