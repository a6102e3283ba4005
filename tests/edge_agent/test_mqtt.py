from __future__ import annotations

import gc
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from bundle.errors import DeliveryError
from edge_agent.config import MqttSection, TlsSection
from edge_agent.delivery import tls
from edge_agent.delivery.link import Ack, HandshakeError, VersionRefusedError, Will
from edge_agent.delivery.mqtt import PahoLink
from edge_agent.threads import Waker
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import (
    MOSQUITTO,
    EmbeddedBroker,
    Mosquitto,
    Script,
    ScriptedBroker,
    Subscriber,
    free_port,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

_WILL = Will("bintally/v1/wh1/r1/status", b'{"state":"offline"}')
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary")


@pytest.fixture
def waker() -> Iterator[Waker]:
    made = Waker()
    yield made
    made.close()


def connect(port: int, *, version: int = 5, **settings: object) -> PahoLink:
    section = MqttSection.model_validate({"port": port, **settings})
    return PahoLink(section, client_id="test-agent", version=version, will=_WILL)


def acks_of(link: PahoLink, waker: Waker, count: int) -> list[Ack]:
    found: list[Ack] = []
    deadline = time.monotonic() + 10
    while len(found) < count and time.monotonic() < deadline:
        found += link.wait(0.2, waker)
    return found


@needs_mosquitto
@pytest.mark.parametrize("version", [5, 4])
def test_link_mosquitto_acknowledges_and_a_subscriber_receives(tmp_path: Path, waker: Waker, version: int) -> None:
    with Mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        link = connect(broker.port, version=version)
        mids = [link.publish("bintally/x", str(n).encode(), qos=1, retain=False) for n in range(10)]
        assert [ack.mid for ack in acks_of(link, waker, 10)] == mids
        wait_until(lambda: len(subscriber.messages) == 10)
        link.close()
        assert not subscriber.of("/status")


@needs_mosquitto
def test_link_broken_connection_leaves_the_will_retained(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        connect(broker.port).abort()
        with Subscriber(broker.port) as subscriber:
            wait_until(lambda: subscriber.of("/status"))
            assert subscriber.of("/status")[0].payload == _WILL.payload


@needs_mosquitto
def test_link_refused_by_acl_is_a_refusal_not_a_delivery(tmp_path: Path, waker: Waker) -> None:
    (tmp_path / "acl").write_text("topic read #\ntopic write bintally/allowed\n", encoding="utf-8")
    settings = f"allow_anonymous true\nacl_file {tmp_path / 'acl'}"
    with Mosquitto(tmp_path, settings) as broker:
        link = connect(broker.port)
        link.publish("bintally/allowed", b"x", qos=1, retain=False)
        link.publish("bintally/forbidden", b"x", qos=1, retain=False)
        first, second = acks_of(link, waker, 2)
        assert first.refusal is None
        assert second.refusal == "Not authorized"
        assert not second.for_ever
        link.close()


@needs_mosquitto
def test_link_wrong_password_names_the_keys_to_check(tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text("", encoding="utf-8")
    with Mosquitto(tmp_path, f"allow_anonymous false\npassword_file {tmp_path / 'passwords'}") as broker:
        secret = tmp_path / "secret"
        secret.write_text("wrong\n", encoding="utf-8")
        with pytest.raises(DeliveryError, match=r"Not authorized.*mqtt\.password_file"):
            connect(broker.port, username="r1", password_file=secret)


@needs_mosquitto
def test_link_broker_killed_is_noticed(tmp_path: Path, waker: Waker) -> None:
    with Mosquitto(tmp_path) as broker:
        link = connect(broker.port)
        broker.kill()
        with pytest.raises(DeliveryError, match="connection is lost"):
            acks_of(link, waker, 1)
        link.abort()


def test_link_amqtt_refuses_version_5_and_speaks_the_older_one(waker: Waker, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedBroker() as broker:
        section = MqttSection(port=broker.port)
        with pytest.raises(VersionRefusedError):
            PahoLink(section, client_id="test-agent", version=5, will=None)
        monkeypatch.setattr("edge_agent.delivery.mqtt._CONNACK_TIMEOUT_S", 0.5)
        with pytest.raises(HandshakeError):
            connect(broker.port, version=5)
        monkeypatch.undo()
        link = connect(broker.port, version=4)
        link.publish("bintally/x", b"1", qos=1, retain=True)
        assert acks_of(link, waker, 1)[0].refusal is None
        link.close()


def test_link_broker_that_closes_on_a_version_is_told_apart() -> None:
    with ScriptedBroker(Script(closes_on_version=5)) as broker:
        with pytest.raises(HandshakeError):
            connect(broker.port, version=5)
        connect(broker.port, version=4).close()
        assert broker.versions == [5, 4]


def test_link_silent_broker_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.delivery.mqtt._CONNACK_TIMEOUT_S", 0.3)
    with ScriptedBroker(Script(connack=False)) as broker, pytest.raises(DeliveryError, match="does not answer"):
        connect(broker.port)


def test_link_receive_maximum_lowers_the_window() -> None:
    with ScriptedBroker(Script(receive_maximum=3)) as broker:
        link = connect(broker.port)
        assert link.window == 3
        link.close()


@pytest.mark.parametrize(("reason", "for_ever"), [(0x80, False), (0x97, False), (0x90, True), (0x99, True)])
def test_link_puback_reason_says_whether_to_try_again(waker: Waker, reason: int, *, for_ever: bool) -> None:
    with ScriptedBroker(Script(reason=lambda _: reason)) as broker:
        link = connect(broker.port)
        link.publish("bintally/x", b"1", qos=1, retain=False)
        (ack,) = acks_of(link, waker, 1)
        assert ack.refusal
        assert ack.for_ever is for_ever
        link.close()


def test_link_nobody_listens_is_a_delivery_error() -> None:
    with pytest.raises(DeliveryError, match=r"cannot be reached.*mqtt\.host"):
        connect(free_port())


def test_link_connections_that_are_over_wait_for_no_garbage_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[object]] = []
    make_context = tls.make_context

    def watched(settings: TlsSection) -> ssl.SSLContext:
        context = make_context(settings)
        made.append(weakref.ref(context))  # Each holds about 1 MB of certificates.
        return context

    monkeypatch.setattr("edge_agent.delivery.tls.make_context", watched)
    gc.disable()
    try:
        for host in ("127.0.0.1", "broker.invalid"):
            with pytest.raises(DeliveryError, match="cannot be reached"):
                connect(free_port(), host=host, tls=TlsSection().model_dump())
        with ScriptedBroker(Script()) as broker:
            link = connect(broker.port)
            made.append(weakref.ref(link))
            link.abort()
            del link
        assert [one() for one in made] == [None] * 3
    finally:
        gc.enable()


def test_link_missing_certificate_is_a_delivery_error_that_names_the_section(tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match=r"\[mqtt\.tls\]"):
        connect(free_port(), tls=TlsSection(ca_file=tmp_path / "none.pem").model_dump())
