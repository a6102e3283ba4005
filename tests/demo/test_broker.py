"""The embedded broker and the witness, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from bundle.errors import DeliveryError
from demo.broker import EmbeddedBroker
from demo.subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BASE = "bintally/v1/demo/tour-1"


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as running:
        yield running


@pytest.fixture
def publisher(broker: EmbeddedBroker) -> Iterator[mqtt.Client]:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="robot", protocol=mqtt.MQTTv311)
    client.connect(broker.host, broker.port)
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


def test_broker_listens_on_loopback_only_and_frees_its_port_at_the_end() -> None:
    before = threading.active_count()
    with EmbeddedBroker() as broker:
        assert broker.host == "127.0.0.1"
        socket.create_connection((broker.host, broker.port), timeout=5).close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((broker.host, broker.port), timeout=5)
    assert threading.active_count() == before


@pytest.mark.parametrize("will_bytes", [0, 5, 300])
def test_broker_refuses_version_5_at_once_with_or_without_a_will(broker: EmbeddedBroker, will_bytes: int) -> None:
    answers: list[str] = []
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id="five", protocol=mqtt.MQTTv5, reconnect_on_failure=False
    )
    client.on_connect = lambda _client, _data, _flags, reason, _properties: answers.append(str(reason))
    if will_bytes:
        client.will_set(f"{_BASE}/status", b"x" * will_bytes, qos=1, retain=True)
    client.connect(broker.host, broker.port)
    client.loop_start()
    _wait_until(lambda: bool(answers))
    client.loop_stop()
    assert answers == ["Unsupported protocol version"]


def test_two_brokers_run_side_by_side(broker: EmbeddedBroker) -> None:
    with EmbeddedBroker() as other:
        assert other.port != broker.port


def test_broker_delivers_qos_1_retained_and_last_will(broker: EmbeddedBroker, publisher: mqtt.Client) -> None:
    _publish(publisher, "status", {"state": "online"}, retain=True)
    doomed = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="doomed", protocol=mqtt.MQTTv311)
    doomed.will_set(f"{_BASE}/status", json.dumps({"state": "offline"}), qos=1, retain=True)
    with Subscriber(broker.host, broker.port, _BASE) as witness:
        assert _next(witness) == ("status", {"state": "online"})  # retained: it was sent before anybody listened
        doomed.connect(broker.host, broker.port)
        doomed.loop_start()
        _wait_until(doomed.is_connected)
        connection = doomed.socket()
        assert isinstance(connection, socket.socket)
        connection.shutdown(socket.SHUT_RDWR)  # the cable, not a DISCONNECT
        assert _next(witness) == ("status", {"state": "offline"})
    doomed.disconnect()
    doomed.loop_stop()


def test_subscriber_counts_distinct_event_ids_and_hands_each_on_once(
    broker: EmbeddedBroker, publisher: mqtt.Client
) -> None:
    with Subscriber(broker.host, broker.port, _BASE) as witness:
        for event_id in ("a", "b", "a", "c", "b"):
            _publish(publisher, "count", {"event_id": event_id})
        _publish(publisher, "telemetry", {"last": True})
        heard = [_next(witness) for _ in range(4)]
        assert [content.get("event_id") for _, content in heard] == ["a", "b", "c", None]
        assert witness.received == 3


def test_subscriber_ignores_other_robots_and_what_is_no_json_object(
    broker: EmbeddedBroker, publisher: mqtt.Client
) -> None:
    with Subscriber(broker.host, broker.port, _BASE) as witness:
        publisher.publish("bintally/v1/demo/other/count", json.dumps({"event_id": "x"}), qos=1)
        publisher.publish(f"{_BASE}/count", b"\xff not json", qos=1)
        publisher.publish(f"{_BASE}/count", b"[1]", qos=1)
        _publish(publisher, "count", {"event_id": "mine"})
        assert _next(witness) == ("count", {"event_id": "mine"})
        assert witness.received == 1


def test_subscriber_forget_robot_removes_what_was_retained(broker: EmbeddedBroker, publisher: mqtt.Client) -> None:
    with Subscriber(broker.host, broker.port, _BASE) as witness:
        for name in ("status", "bin/1"):
            _publish(publisher, name, {"n": 1}, retain=True)
            _next(witness)
        witness.forget_robot()
    with Subscriber(broker.host, broker.port, _BASE) as late:
        _publish(publisher, "event", {"n": 2})
        assert _next(late) == ("event", {"n": 2})  # nothing retained came first


def test_subscriber_without_a_broker_says_where_and_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        port = taken.getsockname()[1]
        with (
            pytest.raises(DeliveryError, match=rf"127\.0\.0\.1:{port}.*--broker"),
            Subscriber("127.0.0.1", port, _BASE),
        ):
            pass


def _publish(client: mqtt.Client, name: str, content: dict[str, Any], *, retain: bool = False) -> None:
    client.publish(f"{_BASE}/{name}", json.dumps(content), qos=1, retain=retain).wait_for_publish(5)


def _next(witness: Subscriber) -> tuple[str, dict[str, Any]]:
    message = witness.next(5)
    assert message is not None
    return message.name, message.content


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
