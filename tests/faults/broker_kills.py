"""The broker is killed again and again while the agent counts.

    python -m tests.faults.broker_kills --minutes 10 --every-s 10

A mosquitto that is killed with SIGKILL forgets what it acknowledged and had not saved. So two logs are compared: what
it acknowledged, seen on the wire between agent and broker, which is what the agent promises; and what its subscriber
got. The last line is one JSON object; `lost` must be 0.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tests.edge_agent.running import AgentProcess, config_text, write_photos
from tests.faults.kills import read_outbox
from tests.faults.world import DeliveryLog, KeepingBroker
from tests.simulators.bundle_factory import make_bundle

if TYPE_CHECKING:
    from typing_extensions import Self

_PUBLISH, _PUBACK = 3, 4


class Wire:
    """A TCP relay in front of a broker that notes which counts were acknowledged.

    Args:
        port: Of the broker.
    """

    def __init__(self, port: int) -> None:
        self.acknowledged: list[str] = []
        self._broker = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        sent: dict[int, str] = {}
        try:
            with client, socket.create_connection(("127.0.0.1", self._broker), timeout=5) as broker:
                up, down = Packets(), Packets()
                while True:
                    ready, _, _ = select.select([client, broker], [], [])
                    for source, target, packets in ((client, broker, up), (broker, client, down)):
                        if source not in ready:
                            continue
                        data = source.recv(1 << 16)
                        if not data:
                            return
                        for kind, body in packets.feed(data):
                            self._note(kind, body, sent)
                        target.sendall(data)
        except OSError:
            return

    def _note(self, kind: int, body: bytes, sent: dict[int, str]) -> None:
        if kind >> 4 == _PUBLISH and kind & 0b110:
            length = int.from_bytes(body[:2], "big")
            if body[2 : 2 + length].endswith(b"/count"):
                mid = int.from_bytes(body[2 + length : 4 + length], "big")
                sent[mid] = json.loads(body[body.index(b'{"') :])["event_id"]
        elif kind >> 4 == _PUBACK:
            event_id = sent.pop(int.from_bytes(body[:2], "big"), None)
            taken = len(body) < 3 or body[2] < 0x80
            if event_id is not None and taken:
                self.acknowledged.append(event_id)


class Packets:
    """Cuts one direction of an MQTT connection into packets."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take bytes; give the packets that are whole now."""
        self._data += data
        found = []
        while (cut := self._first()) is not None:
            found.append(cut)
        return found

    def _first(self) -> tuple[int, bytes] | None:
        length = 0
        for place, byte in enumerate(self._data[1:5]):
            length |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                end = 2 + place + length
                if len(self._data) < end:
                    return None
                kind, body, self._data = self._data[0], self._data[2 + place : end], self._data[end:]
                return kind, body
        return None


def broker_kills(folder: Path, *, seconds: float, every_s: float, rate: float) -> dict[str, object]:
    """Let the agent count while its broker dies every so many seconds."""
    photos = write_photos(folder / "photos", [n % 6 for n in range(50)])
    state, bundle = folder / "state", make_bundle(folder / "tiny")
    kills, broker = 0, KeepingBroker(folder / "broker")
    with broker, DeliveryLog(broker.port, folder / "delivered.jsonl") as log, Wire(broker.port) as wire:
        camera = f"repeat = true\npause_s = {1 / rate:g}"
        text = config_text(bundle=bundle, source=photos, state=state, port=wire.port, camera=camera)
        agent = AgentProcess.start(folder, text)
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s and agent.process.poll() is None:
            time.sleep(every_s)
            broker.kill()
            kills += 1
            time.sleep(0.2)
            broker.start()
        time.sleep(3.0)
        code = agent.terminate()
        accepted = {count["event_id"] for count in agent.counts}
        log.wait_for(accepted)
        arrived = log.event_ids()
        acknowledged = list(wire.acknowledged)
    queued = read_outbox(state).counts
    return {
        "seconds": seconds,
        "kills": kills,
        "exit_code": code,
        "accepted": len(accepted),
        "acknowledged": len(set(acknowledged)),
        "queued": len(queued),
        "lost": len(accepted - set(acknowledged) - queued),
        "acknowledged_twice": len(acknowledged) - len(set(acknowledged)),
        "not_at_the_subscriber": len(accepted - set(arrived) - queued),
        "arrived_twice": len(arrived) - len(set(arrived)),
    }


@click.command()
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--every-s", default=10.0, show_default=True)
@click.option("--rate", default=50.0, show_default=True, help="Photos a second.")
def main(minutes: float, every_s: float, rate: float) -> None:
    """Kill the broker under a counting agent and print one JSON object; exit code 1 when a count was lost."""
    with tempfile.TemporaryDirectory() as folder:
        found = broker_kills(Path(folder), seconds=minutes * 60, every_s=every_s, rate=rate)
    click.echo(json.dumps(found))
    sys.exit(1 if found["lost"] or found["exit_code"] else 0)


if __name__ == "__main__":
    main()
