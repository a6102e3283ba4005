from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bundle.errors import DeliveryError
from edge_agent.config import MqttSection
from edge_agent.delivery.link import Ack, HandshakeError, VersionRefusedError
from edge_agent.delivery.publisher import Publisher
from edge_agent.messages import Topics
from edge_agent.outbox.newest import NewestPerBin
from edge_agent.outbox.outbox import Outbox
from edge_agent.outbox.rows import Entry, StoredMessage
from tests.edge_agent.test_outbox import open_ledger
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker_link import Publication, SimulatedLink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SETTINGS = MqttSection(reconnect_max_s=0.1, ack_timeout_s=1)


class World:
    """A publisher over an outbox of its own; each connection comes from `links`, the last one again and again."""

    def __init__(self, folder: Path, settings: MqttSection = _SETTINGS) -> None:
        self.topics = Topics("wh1", "r1")
        self.outbox = Outbox(open_ledger(folder))
        self.links: list[SimulatedLink | DeliveryError] = []
        self.opened: list[SimulatedLink] = []
        self.versions: list[int] = []
        self.publisher = Publisher(settings, self.topics, self.outbox, connect=self._connect)

    def _connect(self, version: int) -> SimulatedLink:
        self.versions.append(version)
        link = self.links.pop(0) if self.links else SimulatedLink()
        if isinstance(link, DeliveryError):
            raise link
        self.opened.append(link)
        return link

    def start(self, *links: SimulatedLink | DeliveryError) -> None:
        self.links = list(links)
        self.outbox.start()
        self.publisher.set_status((b'{"state":"online"}',))
        self.publisher.worker.start()

    def put(self, *numbers: int) -> None:
        for number in numbers:
            payload = json.dumps({"event_id": f"e{number}", "is_historical": False}).encode()
            self.put_payload(payload, number)

    def put_payload(self, payload: bytes, number: int = 0) -> None:
        entry = Entry(f"e{number}", "count", self.topics.count, payload, self.topics.bin(f"b{number % 3}"))
        assert self.outbox.put(entry, timeout_s=5)

    def published(self, topic: str) -> list[Publication]:
        return [p for link in self.opened for p in list(link.published) if p.topic == topic]

    def stop(self) -> None:
        self.publisher.finish((b'{"state":"offline"}',), 5)
        self.outbox.close(5)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.stop()


def test_publisher_sends_birth_counts_in_order_and_last_words(world: World) -> None:
    world.start()
    world.put(*range(50))
    wait_until(lambda: world.outbox.is_empty)
    world.stop()
    (link,) = world.opened
    assert [json.loads(p.payload)["event_id"] for p in world.published(world.topics.count)] == [
        f"e{n}" for n in range(50)
    ]
    assert link.published[0] == Publication(world.topics.status, b'{"state":"online"}', 1, retain=True)
    assert link.published[-1] == Publication(world.topics.status, b'{"state":"offline"}', 1, retain=True)
    assert link.closed
    assert all(p.retain for p in link.published if "/bin/" in p.topic)
    assert world.publisher.counts_delivered == 50


@pytest.mark.parametrize("window", [1, 2, 20])
def test_publisher_never_has_more_in_flight_than_the_window(world: World, window: int) -> None:
    link = SimulatedLink(window=window)
    world.start(link)
    world.put(*range(60))
    wait_until(lambda: world.outbox.is_empty)
    assert link.most_in_flight <= window


def test_publisher_lost_connection_sends_the_unacknowledged_again_first(world: World) -> None:
    silent = SimulatedLink(answer=lambda _: None, breaks_after=8)
    world.start(silent)
    world.put(*range(30))
    wait_until(lambda: world.outbox.is_empty)
    ids = [json.loads(p.payload)["event_id"] for p in world.opened[1].published if p.topic == world.topics.count]
    assert ids == [f"e{n}" for n in range(30)]
    assert world.publisher.counts_delivered == 30


def test_publisher_connection_that_breaks_again_and_again_loses_nothing(world: World) -> None:
    world.start(*[SimulatedLink(answer=lambda _: None, breaks_after=n) for n in (30, 3, 1, 7)])
    world.put(*range(30))
    wait_until(lambda: world.outbox.is_empty)
    ids = [json.loads(p.payload)["event_id"] for p in world.opened[4].published if p.topic == world.topics.count]
    assert ids == [f"e{n}" for n in range(30)]


def test_publisher_silent_broker_is_left_after_the_timeout(world: World) -> None:
    world.start(SimulatedLink(answer=lambda _: None))
    world.put(1)
    wait_until(lambda: world.outbox.is_empty)
    assert len(world.opened) == 2


def test_publisher_refused_for_ever_is_set_aside_and_the_rest_goes_on(world: World) -> None:
    def answer(p: Publication) -> Ack | None:
        bad = p.topic == world.topics.count and json.loads(p.payload)["event_id"] == "e3"
        return Ack(0, "topic name invalid", for_ever=True) if bad else Ack(0)

    world.start(SimulatedLink(answer=answer))
    world.put(*range(6))
    wait_until(lambda: world.outbox.is_empty)
    assert world.publisher.counts_delivered == 5
    assert world.publisher.counts_refused == 1
    assert world.outbox.numbers().drops == {"messages_refused": 1}


def test_publisher_status_that_is_refused_is_told_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def answer(p: Publication) -> Ack | None:
        return Ack(0, "larger than the broker takes", for_ever=True) if p.topic == world.topics.status else Ack(0)

    world.start(SimulatedLink(answer=answer))
    for number in range(3):
        world.publisher.set_status((json.dumps({"state": "online", "number": number}).encode(),))
        wait_until(lambda: len(world.published(world.topics.status)) > number)  # noqa: B023 - called at once
        world.put(number)
        wait_until(lambda: world.outbox.is_empty)
    told = [record.getMessage() for record in caplog.records if world.topics.status in record.getMessage()]
    assert told == [f"{world.topics.status}: the broker refuses it: larger than the broker takes"]
    assert world.publisher.direct.refused == {world.topics.status: "larger than the broker takes"}
    assert world.publisher.direct.refusals >= 3


def test_publisher_refused_for_now_is_sent_again_before_the_later_ones_of_its_bin(tmp_path: Path) -> None:
    world = World(tmp_path)
    refused: list[Publication] = []

    def answer(p: Publication) -> Ack | None:
        if p.topic == world.topics.count and json.loads(p.payload)["event_id"] == "e0" and not refused:
            refused.append(p)
            return Ack(0, "quota exceeded")
        return Ack(0)

    world.start(SimulatedLink(answer=answer))
    try:
        world.put(0, 3)  # both of bin b0
        wait_until(lambda: world.outbox.is_empty)
        for topic in (world.topics.count, world.topics.bin("b0")):
            assert [json.loads(p.payload)["event_id"] for p in world.published(topic)] == ["e0", "e0", "e3"]
        assert world.publisher.counts_delivered == 2
    finally:
        world.stop()


def test_publisher_refused_for_now_stays_before_the_later_ones_of_its_bin_after_a_restart_too(tmp_path: Path) -> None:
    before = World(tmp_path)
    refuse = lambda p: Ack(0, "quota exceeded" if p.topic == before.topics.count else None)  # noqa: E731
    before.start(SimulatedLink(answer=refuse))
    before.put(0, 3)  # both of bin b0
    wait_until(lambda: before.published(before.topics.count) and before.outbox.is_stored)
    before.stop()
    after = World(tmp_path)
    after.start()
    try:
        wait_until(lambda: after.outbox.is_empty)
        assert [json.loads(p.payload)["event_id"] for p in after.published(after.topics.count)] == ["e0", "e3"]
        assert [json.loads(p.payload)["event_id"] for p in after.published(after.topics.bin("b0"))] == ["e3"]
    finally:
        after.stop()


def test_publisher_counts_that_are_refused_for_long_are_all_delivered_in_the_order_of_their_bins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.delivery.held._FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("edge_agent.delivery.held._LONGEST_PAUSE_S", 0.05)
    mistaken, refused = True, 0

    def answer(p: Publication) -> Ack | None:
        nonlocal refused
        if mistaken and p.topic == world.topics.count:
            refused += 1
            return Ack(0, "Not authorized")
        return Ack(0)

    world.start(SimulatedLink(answer=answer))
    world.put(*range(30))
    assert world.outbox.put(Entry("note", "event", world.topics.event, b"{}"), timeout_s=5)
    wait_until(lambda: refused > 20 and world.published(world.topics.event))
    assert world.publisher.refusals == ("broker: it refuses counts: Not authorized",)
    mistaken = False
    wait_until(lambda: world.outbox.is_empty)
    wait_until(lambda: world.publisher.refusals == ())
    taken = [json.loads(p.payload)["event_id"] for p in world.published(world.topics.count)][refused:]
    for bin_number in range(3):
        expected = [f"e{number}" for number in range(bin_number, 30, 3)]
        assert [event_id for event_id in taken if int(event_id[1:]) % 3 == bin_number] == expected
        shown = world.published(world.topics.bin(f"b{bin_number}"))[-1]
        assert json.loads(shown.payload)["event_id"] == expected[-1]
    assert (world.publisher.counts_delivered, world.publisher.counts_refused) == (30, 0)
    assert world.outbox.numbers().drops == {}


def test_publisher_count_whose_bin_topic_is_refused_is_delivered_and_that_is_said(world: World) -> None:
    world.start(SimulatedLink(answer=lambda p: Ack(0, "Not authorized" if "/bin/" in p.topic else None)))
    world.put(1, 2)
    wait_until(lambda: world.outbox.is_empty)
    assert len(world.published(world.topics.count)) == 2
    assert world.publisher.refusals == ("broker: it refuses bin topics: Not authorized",)


def test_publisher_backlog_has_never_two_counts_of_a_bin_under_way(tmp_path: Path) -> None:
    world = World(tmp_path)
    under_way: list[str] = []
    first_refused = True

    def answer(p: Publication) -> Ack | None:
        nonlocal first_refused
        if p.topic == world.topics.count:
            under_way.append(json.loads(p.payload)["event_id"])
            if first_refused:
                first_refused = False
                return Ack(0, "quota exceeded")
        return Ack(0)

    world.outbox.start()
    for number in range(600):
        payload = json.dumps({"event_id": f"e{number}", "is_historical": False}).encode()
        entry = Entry(f"e{number}", "count", world.topics.count, payload, world.topics.bin(f"b{number // 2}"))
        assert world.outbox.put(entry, timeout_s=5)
    wait_until(lambda: world.outbox.is_stored)
    world.links = [SimulatedLink(answer=answer)]
    world.publisher.worker.start()
    try:
        wait_until(lambda: world.outbox.is_empty)
        assert under_way.index("e1") > 1  # behind e0, which was refused and came again
        assert sorted(under_way) == sorted(["e0", *(f"e{number}" for number in range(600))])
        assert [e for e in under_way if e in ("e0", "e1")] == ["e0", "e0", "e1"]
    finally:
        world.stop()


def test_publisher_late_counts_say_that_they_are_historical(tmp_path: Path) -> None:
    before = World(tmp_path)
    before.outbox.start()
    before.put(1)
    wait_until(lambda: before.outbox.is_stored)
    before.stop()
    after = World(tmp_path)
    after.start()
    try:
        after.put(2)
        wait_until(lambda: after.outbox.is_empty)
        flags = {
            json.loads(p.payload)["event_id"]: json.loads(p.payload)["is_historical"]
            for p in after.published(after.topics.count)
        }
        assert flags == {"e1": True, "e2": False}
    finally:
        after.stop()


def test_publisher_history_passes_over_no_bin_topic_but_its_newest_count_stands_there(tmp_path: Path) -> None:
    before = World(tmp_path)
    before.outbox.start()
    before.put(0, 1, 3, 6, 4)  # bins b0, b1, b0, b0, b1
    wait_until(lambda: before.outbox.is_stored)
    before.stop()
    after = World(tmp_path)
    after.outbox.start()
    after.put(9)  # bin b0 once more, before anything could be delivered
    wait_until(lambda: after.outbox.is_stored)
    after.publisher.worker.start()
    try:
        wait_until(lambda: after.outbox.is_empty)
        assert len(after.published(after.topics.count)) == 6
        shown = {
            name: [json.loads(p.payload)["event_id"] for p in after.published(after.topics.bin(name))]
            for name in ("b0", "b1")
        }
        assert shown == {"b0": ["e9"], "b1": ["e4"]}
    finally:
        after.stop()


def test_newest_per_bin_forgets_the_bins_counted_longest_ago_and_then_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NewestPerBin, "MAX_BINS", 2)
    newest = NewestPerBin([("a", 1), ("b", 2)])
    rows = [
        StoredMessage(number, f"e{number}", "count", "t", bin_topic, b"", 0.0)
        for number, bin_topic in ((1, "a"), (2, "b"), (3, "a"), (4, "c"))
    ]
    newest.note(rows[2:])
    assert [newest.is_newest(row) for row in rows] == [False, False, True, True]


def test_publisher_falls_back_to_the_older_version_and_tries_the_newer_one_first_again(world: World) -> None:
    refused = VersionRefusedError("no version 5")
    world.start(refused, SimulatedLink(breaks_after=2), refused, SimulatedLink(breaks_after=2), SimulatedLink())
    world.put(1, 2, 3)
    wait_until(lambda: world.outbox.is_empty)
    assert world.versions == [5, 4, 5, 4, 5]
    assert world.publisher.version == 5


def test_publisher_broker_that_never_spoke_the_newer_version_and_hangs_up_is_asked_with_the_other(world: World) -> None:
    world.start(HandshakeError("closed"), HandshakeError("closed"), HandshakeError("closed"), SimulatedLink())
    world.put(1)
    wait_until(lambda: world.outbox.is_empty)
    assert world.versions == [5, 5, 5, 4]
    assert world.publisher.version == 4


@pytest.mark.parametrize("heard", ["in this run", "before"])
def test_publisher_broker_that_spoke_the_newer_version_and_hangs_up_stays_with_it(world: World, heard: str) -> None:
    world.publisher.speaks_newest = heard == "before"
    first = [SimulatedLink(breaks_after=2)] if heard == "in this run" else []
    world.start(*first, *[HandshakeError("the proxy has no broker")] * 5, SimulatedLink())
    world.put(1)
    wait_until(lambda: world.outbox.is_empty)
    assert set(world.versions) == {5}


def test_publisher_crash_in_a_session_is_survived(world: World) -> None:
    def explode(_: Publication) -> Ack | None:
        raise RuntimeError("nobody thought of this")

    world.start(SimulatedLink(answer=explode), SimulatedLink())
    world.put(1)
    wait_until(lambda: world.outbox.is_empty)
    assert world.publisher.worker.crashes == 1


def test_publisher_telemetry_is_sent_once_and_only_the_newest(world: World) -> None:
    world.publisher.send_telemetry((b"old",))
    world.publisher.send_telemetry((b"new",))
    world.start()
    wait_until(lambda: world.published(world.topics.telemetry))
    assert [p.payload for p in world.published(world.topics.telemetry)] == [b"new"]
    assert world.published(world.topics.telemetry)[0].qos == 0


def test_publisher_says_directly_what_fits_and_tells_what_does_not(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    link = SimulatedLink(most_bytes=20)
    world.publisher.announcement = ("homeassistant/x", b"x" * 21)
    world.publisher.send_telemetry((b"t" * 30, b"t" * 20, b"t"))
    world.start(link)
    wait_until(lambda: world.published(world.topics.telemetry))
    assert [p.payload for p in world.published(world.topics.telemetry)] == [b"t" * 20]
    assert [p.payload for p in world.published(world.topics.status)] == [b'{"state":"online"}']
    assert world.publisher.direct.refused == {"homeassistant/x": "too long"}
    world.publisher.send_telemetry((b"t" * 30, b"t" * 25))
    wait_until(lambda: world.publisher.direct.refusals == 2)
    assert world.publisher.direct.refused == {"homeassistant/x": "too long", world.topics.telemetry: "too long"}
    world.publisher.send_telemetry((b"t",))
    wait_until(lambda: world.topics.telemetry not in world.publisher.direct.refused)
    said = [record.getMessage() for record in caplog.records if record.name == "edge_agent.delivery.direct"]
    assert said == [
        "homeassistant/x: the broker refuses it: too long",
        f"{world.topics.telemetry}: it is sent shorter: too long",
        f"{world.topics.telemetry}: the broker refuses it: too long",
    ]
    world.publisher.finish((b"l" * 30, b"bye"), 5)
    assert world.published(world.topics.status)[-1].payload == b"bye"
