"""Brokers and networks that misbehave, under the real agent or its real connection: nothing lost, nothing stuck."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from edge_agent.config import MqttSection
from edge_agent.delivery.link import Will
from edge_agent.delivery.mqtt import PahoLink
from tests.edge_agent.running import AgentProcess, config_text, write_photos
from tests.edge_agent.test_publisher import World
from tests.edge_agent.waiting import wait_until
from tests.faults.network import Network
from tests.simulators.broker import MOSQUITTO, Mosquitto, Script, ScriptedBroker, Subscriber

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.delivery.publisher import Publisher
    from tests.faults.network import Mode

needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary")


class RealWorld(World):
    """The publisher over paho, towards any port."""

    def __init__(self, folder: Path, port: int, reconnect_max_s: float = 0.2) -> None:
        self.settings = MqttSection(port=port, reconnect_max_s=reconnect_max_s, ack_timeout_s=1, keepalive_s=5)
        super().__init__(folder, self.settings)

    def _connect(self, version: int) -> PahoLink:  # type: ignore[override]  # the real one
        will = Will(self.topics.status, b'{"state":"offline"}')
        return PahoLink(self.settings, client_id="wh1-r1", version=version, will=will)

    @property
    def the(self) -> Publisher:
        return self.publisher

    def is_empty(self) -> bool:
        return self.outbox.is_empty


def counts(subscriber: Subscriber) -> list[str]:
    return [json.loads(message.payload)["event_id"] for message in subscriber.of("/count")]


def test_broker_whose_acknowledgements_repeat_or_are_for_nothing_confirms_no_other_message(tmp_path: Path) -> None:
    held = {"bintally/v1/wh1/r1/bin/b0"}
    script = Script(stray=True, reason=lambda topic: None if topic in held else 0)
    with ScriptedBroker(script) as broker:
        world = RealWorld(tmp_path, broker.port)
        world.start()
        world.put(1, 2, 3, 4, 5)
        wait_until(lambda: broker.published.count("bintally/v1/wh1/r1/bin/b0") >= 2, what="the message sent again")
        wait_until(lambda: len(world.outbox._ledger.file.messages(0, 9).rows) <= 3)  # 3 is held, perhaps 4, 5 behind it
        assert "e3" in {row.event_id for row in world.outbox._ledger.file.messages(0, 9).rows}
        held.clear()
        wait_until(world.is_empty, what="the end of it")
        world.stop()
    assert world.the.counts_delivered == 5
    assert world.the.worker.crashes == 0


@needs_mosquitto
def test_broker_that_takes_small_packets_alone_gets_those_and_the_large_ones_are_set_aside(tmp_path: Path) -> None:
    settings = "allow_anonymous true\nmax_packet_size 400"
    with Mosquitto(tmp_path, settings) as broker, Subscriber(broker.port) as subscriber:
        world = RealWorld(tmp_path, broker.port)
        world.start()
        world.put(1)
        large = json.dumps({"event_id": "large", "is_historical": False, "x": "x" * 600}).encode()
        world.put_payload(large)
        world.put(2, 3)
        wait_until(lambda: counts(subscriber) == ["e1", "e2", "e3"], what="what fits")
        wait_until(world.is_empty)
        world.stop()
    assert world.outbox.numbers().drops == {"messages_refused": 1}
    assert world.the.connects == 1


@needs_mosquitto
def test_agent_whose_telemetry_a_broker_refuses_says_so_and_counts_on(tmp_path: Path, tiny_bundle: Path) -> None:
    photos = write_photos(tmp_path / "photos", [1, 2, 3])
    with (
        Mosquitto(tmp_path, "allow_anonymous true\nmax_packet_size 540") as broker,
        Subscriber(broker.port) as listener,
    ):
        text = config_text(
            bundle=tiny_bundle,
            source=photos,
            state=tmp_path / "state",
            port=broker.port,
            camera="repeat = true\npause_s = 0.05",
            rest="[telemetry]\ninterval_s = 0.2\n",
        )
        agent = AgentProcess.start(tmp_path, text)
        wait_until(lambda: b"report_refused" in b"".join(event.payload for event in listener.of("/event")), what="it")
        wait_until(lambda: json.loads(listener.of("/status")[-1].payload)["state"] == "degraded", what="the status")
        wait_until(lambda: len(listener.of("/count")) >= 5)
        assert agent.terminate() == 0
        wait_until(lambda: json.loads(listener.of("/status")[-1].payload)["state"] == "offline", what="the last words")
    reasons = [reason for status in listener.of("/status") for reason in json.loads(status.payload)["reasons"]]
    topic = "bintally/v1/wh1/r1/telemetry"
    assert f"broker: it refuses {topic}: larger than the broker takes (540 B)" in reasons
    assert not listener.of("/telemetry")
    assert sum(topic in line for line in agent.stderr) == 1


@pytest.mark.parametrize("reason", [0x8E, 0x93, 0x8B])
def test_broker_that_says_good_bye_is_quoted_and_tried_again(tmp_path: Path, reason: int) -> None:
    script = Script(leave=reason)
    with ScriptedBroker(script) as broker:
        world = RealWorld(tmp_path, broker.port)
        world.start()
        world.put(1)
        wait_until(lambda: "has ended the connection" in (world.the.worker.problem or ""), what="the broker's words")
        script.leave = None
        wait_until(world.is_empty)
        world.stop()
    assert world.the.counts_delivered == 1
    assert world.the.worker.crashes == 0


@needs_mosquitto
@pytest.mark.parametrize(
    "mode", ["hole", "portal", *(pytest.param(mode, marks=pytest.mark.soak) for mode in ("refuse", "mute", "slow"))]
)
def test_broker_behind_an_ill_network_gets_every_count_once_it_is_well(tmp_path: Path, mode: Mode) -> None:
    with Mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber, Network(broker.port) as network:
        world = RealWorld(tmp_path, network.port)
        world.start()
        world.put(*range(5))
        wait_until(world.is_empty)
        network.mode = mode
        began_s = time.monotonic()
        world.put(*range(5, 25))
        wait_until(lambda: mode == "slow" or not world.the.connected, what="the break")
        noticed_s = time.monotonic() - began_s
        wait_until(lambda: mode == "slow" or network.connections >= 3, what="another attempt")
        network.mode = "well"
        wait_until(world.is_empty, what="the rest")
        world.stop()
        assert noticed_s < 20
        assert {f"e{number}" for number in range(25)} <= set(counts(subscriber))
    assert world.the.worker.crashes == 0
