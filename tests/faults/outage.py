"""Broker and store are away for days, in compressed time: what waits stays within its bound, then all is delivered.

    python -m tests.faults.outage --hours 72

One count a second, some with an image, go through the production outbox, publisher and uploader, whose clock jumps by a
second per count. Then broker and store come back. The last line is one JSON object: `lost` and `out_of_order` must be
0, `highest_bytes` at most `max_bytes`, and every image must have been uploaded or counted as evicted.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import click

from bundle.errors import DeliveryError
from edge_agent.config import MqttSection, StateSection
from edge_agent.delivery.publisher import Publisher
from edge_agent.delivery.uploads import Uploader, UploadError, image_key
from edge_agent.messages import Topics
from edge_agent.outbox.ledger import Ledger
from edge_agent.outbox.outbox import Outbox
from edge_agent.outbox.rescue import open_outbox
from edge_agent.outbox.rows import Entry, ImageEntry
from edge_agent.outbox.spool import Spool
from tests.faults.soak import folder_bytes
from tests.simulators.broker_link import SimulatedLink

_LOOK_EVERY = 2000
_SILENCE_S = 60.0
_TOPICS = Topics("wh1", "r1")
_PAYLOAD = '{{"event_id": "e{0:07d}", "is_historical": false, "posterior": "{1}"}}'


class Clock:
    """Real seconds, plus those that were skipped."""

    def __init__(self) -> None:
        self.skipped_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skipped_s


@dataclass(slots=True)
class Consumer:
    """A broker and an object store that are there or not.

    Attributes:
        up: Whether they are there.
        numbers: Of the counts, in order of arrival.
        said_late: How many of them said that they are late.
        objects: Images that arrived.
    """

    name: str = "simulated"
    up: bool = False
    numbers: list[int] = field(default_factory=list)
    said_late: int = 0
    objects: set[str] = field(default_factory=set)

    def connect(self, _version: int) -> NotingLink:
        if not self.up:
            raise DeliveryError("the simulated broker is away")
        return NotingLink(self)

    def note(self, payload: bytes) -> None:
        """Take a count."""
        message = json.loads(payload)
        self.numbers.append(int(message["event_id"][1:]))
        self.said_late += message["is_historical"]

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Take an object; the interface of `Target`."""
        del data, content_type
        if not self.up:
            raise UploadError("the simulated store is away")
        if not key.endswith(".json"):
            self.objects.add(key)


class NotingLink(SimulatedLink):
    """A link that hands counts to the consumer and keeps no payloads."""

    def __init__(self, consumer: Consumer) -> None:
        super().__init__()
        self._consumer = consumer

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> int:
        if topic == _TOPICS.count:
            self._consumer.note(payload)
        return super().publish(topic, b"", qos=qos, retain=retain)


def entry(number: int, image_every: int, image_bytes: int) -> Entry:
    """The n-th count, of the size that a real one has."""
    payload = _PAYLOAD.format(number, "0.123456, " * 30).encode()
    image = None
    if number % image_every == 0:
        data = number.to_bytes(8, "big") * (image_bytes // 8)
        image = ImageEntry(image_key("wh1/r1", data), data, b"{}")
    return Entry(f"e{number:07d}", "count", _TOPICS.count, payload, _TOPICS.bin(f"b{number % 500}"), image, 0.0)


def outage(folder: Path, *, counts: int, image_every: int, image_bytes: int, max_bytes: int) -> dict[str, object]:
    """Store so many counts while nobody listens, then deliver them."""
    clock, consumer = Clock(), Consumer()
    file, _ = open_outbox(folder / "outbox.db", max_bytes)
    spool = Spool(folder / "images")
    ledger = Ledger(file, spool, StateSection(path=folder, max_bytes=max_bytes), clock)
    outbox = Outbox(ledger, clock=clock)
    publisher = Publisher(MqttSection(), _TOPICS, outbox, connect=consumer.connect, clock=clock)
    uploader = Uploader(consumer, outbox, spool, retry_max_s=60.0, clock=clock)
    outbox.start()
    publisher.worker.start()
    uploader.worker.start()
    began_s, highest = time.monotonic(), 0
    for number in range(counts):
        while not outbox.put(entry(number, image_every, image_bytes), timeout_s=5):
            continue
        clock.skipped_s += 1.0
        if number % _LOOK_EVERY == 0:
            highest = max(highest, folder_bytes(folder))
            sys.stderr.write(f"{number} counts, {folder_bytes(folder)} bytes\n")
    stored_s = time.monotonic() - began_s
    while not outbox.is_stored:
        time.sleep(0.01)
    highest = max(highest, folder_bytes(folder))
    waiting = outbox.numbers()
    consumer.up, began_s = True, time.monotonic()
    _deliver(outbox, consumer, clock)
    drained_s = time.monotonic() - began_s
    numbers = outbox.numbers()
    publisher.finish((b"{}",), 10)
    uploader.finish(10)
    outbox.close(30)
    arrived = consumer.numbers
    return {
        "counts": counts,
        "hours": round(counts / 3600, 1),
        "max_bytes": max_bytes,
        "highest_bytes": highest,
        "bytes_above_bound": max(0, highest - max_bytes),
        "waited_messages": waiting.messages,
        "waited_images": waiting.images,
        "lost": counts - len(set(arrived)),
        "repeats": len(arrived) - len(set(arrived)),
        "out_of_order": sum(after <= before for before, after in pairwise(arrived)),
        "said_late": consumer.said_late,
        "drops": numbers.drops,
        "images": -(-counts // image_every),
        "images_uploaded": len(consumer.objects),
        "images_unaccounted": -(-counts // image_every)
        - len(consumer.objects)
        - numbers.drops.get("images_evicted", 0),
        "stored_per_s": round(counts / stored_s),
        "drained_per_s": round(counts / drained_s),
    }


def _deliver(outbox: Outbox, consumer: Consumer, clock: Clock) -> None:
    """Wait until all is delivered, or nothing more comes; pauses between attempts pass quickly."""
    seen, since_s = -1, time.monotonic()
    while not outbox.is_empty and time.monotonic() < since_s + _SILENCE_S:
        progress = len(consumer.numbers) + len(consumer.objects)
        if progress != seen:
            seen, since_s = progress, time.monotonic()
        clock.skipped_s += 0.5
        time.sleep(0.05)


@click.command()
@click.option("--hours", default=72.0, show_default=True, help="At one count a second.")
@click.option("--image-every", default=50, show_default=True, help="Every so many-th count has an image.")
@click.option("--image-bytes", default=40_000, show_default=True)
@click.option("--max-bytes", default=256 << 20, show_default=True, help="state.max_bytes.")
def main(hours: float, image_every: int, image_bytes: int, max_bytes: int) -> None:
    """Sit an outage out and print one JSON object; exit code 1 when a promise was broken."""
    with tempfile.TemporaryDirectory() as folder:
        found = outage(
            Path(folder),
            counts=int(hours * 3600),
            image_every=image_every,
            image_bytes=image_bytes,
            max_bytes=max_bytes,
        )
    click.echo(json.dumps(found))
    broken = found["lost"] or found["out_of_order"] or found["images_unaccounted"] or found["bytes_above_bound"]
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
