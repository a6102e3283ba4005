"""A real mosquitto with the shipped configuration, access list and certificates."""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from bundle.errors import DeliveryError
from edge_agent.delivery.link import Will
from edge_agent.delivery.mqtt import PahoLink
from edge_agent.delivery.tls import certificate_end
from edge_agent.threads import Waker
from tests.edge_agent.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.config import MqttSection
    from edge_agent.delivery.link import Ack
    from tests.deploy.conftest import Site

_OWN = ("status", "count", "bin/01044", "telemetry", "event", "cmd/ping/result")


@pytest.fixture
def waker() -> Iterator[Waker]:
    made = Waker()
    yield made
    made.close()


def connect(settings: MqttSection, robot: str = "wh1/r1") -> PahoLink:
    will = Will(f"bintally/v1/{robot}/status", b'{"state":"offline"}')
    return PahoLink(settings, client_id=f"bintally-{robot}", version=5, will=will)


def publish(link: PahoLink, waker: Waker, topics: list[str]) -> dict[str, str | None]:
    """Each topic with the broker's refusal, None when it was taken."""
    sent = {link.publish(topic, b"{}", qos=1, retain=False): topic for topic in topics}
    acks: list[Ack] = []
    deadline = time.monotonic() + 20
    while len(acks) < len(sent) and time.monotonic() < deadline:
        acks += link.wait(0.2, waker)
    return {sent[ack.mid]: ack.refusal for ack in acks}


class Client:
    """Any other client: an operator's tool, or a robot that listens."""

    def __init__(self, settings: MqttSection, topics: list[str]) -> None:
        assert settings.tls is not None
        self.heard: list[str] = []
        self.subscribed = False
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.tls_set(str(settings.tls.ca_file), str(settings.tls.cert_file), str(settings.tls.key_file))
        self._client.on_message = lambda _c, _d, message: self.heard.append(message.topic)
        self._client.on_subscribe = lambda *_: setattr(self, "subscribed", True)
        self._client.connect(settings.host, settings.port)
        self._client.loop_start()
        self._client.subscribe([(topic, 1) for topic in topics])
        wait_until(lambda: self.subscribed)

    def say(self, topic: str) -> None:
        self._client.publish(topic, b"{}", qos=1).wait_for_publish(20)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def test_broker_lets_a_robot_speak_as_itself_and_hear_its_own_commands_alone(site: Site, waker: Waker) -> None:
    for name in ("wh1/r1", "operator"):
        site.run("client", name)
    link = connect(site.settings("wh1/r1"))
    own = [f"bintally/v1/wh1/r1/{name}" for name in _OWN]
    foreign = [f"bintally/v1/{other}/{name}" for other in ("wh1/r2", "wh2/r1", "wh1") for name in _OWN]
    foreign += ["bintally/v1/wh1/r1/cmd/ping", "bintally/v1/wh1/r1/other", "homeassistant/device/wh1/r2/config", "x"]
    assert set(publish(link, waker, own).values()) == {None}
    assert set(publish(link, waker, foreign).values()) == {"Not authorized"}
    link.close()

    robot = Client(site.settings("wh1/r1"), ["#", "bintally/v1/+/+/cmd/+", "bintally/v1/wh1/r1/cmd/+"])
    operator = Client(site.settings("operator"), ["bintally/v1/#"])
    for topic in ("wh1/r2/cmd/ping", "wh1/r1/count", "wh1/r1/cmd/ping"):
        operator.say(f"bintally/v1/{topic}")
    robot.say("bintally/v1/wh1/r1/event")
    wait_until(lambda: "bintally/v1/wh1/r1/event" in operator.heard)
    assert set(robot.heard) == {"bintally/v1/wh1/r1/cmd/ping"}
    assert "bintally/v1/wh1/r1/count" not in operator.heard  # an operator reads counts and never makes one
    operator.close()
    robot.close()


def test_broker_refuses_who_has_no_good_certificate_and_says_what_to_check(site: Site) -> None:
    site.run("client", "wh1/r1")
    site.run("client", "wh1/old", days=-1)
    good = site.settings("wh1/r1")
    assert good.tls is not None
    bare = good.model_copy(update={"tls": good.tls.model_copy(update={"cert_file": None, "key_file": None})})
    for bad in (bare, site.settings("wh1/old")):
        with pytest.raises(DeliveryError, match=r"mqtt\.tls"):
            connect(bad)
    connect(good).close()


def test_link_refuses_a_broker_under_another_name_or_authority(site: Site) -> None:
    site.run("client", "wh1/r1")
    settings = site.settings("wh1/r1")
    assert settings.tls is not None
    site.run("server", "elsewhere.example")
    site.broker.kill()
    site.broker.start()
    with pytest.raises(DeliveryError, match=r"Hostname mismatch.*names mqtt\.host"):
        connect(settings)
    for name in ("ca.key", "ca.crt"):
        (site.certificates / name).unlink()
    site.run("init")
    with pytest.raises(DeliveryError, match=r"CERTIFICATE_VERIFY_FAILED.*ca_file"):
        connect(settings)


def test_link_takes_a_rotated_certificate_at_its_next_connect(site: Site) -> None:
    site.run("client", "wh1/r1", days=-1)
    settings = site.settings("wh1/r1")
    with pytest.raises(DeliveryError):
        connect(settings)
    site.run("client", "wh1/r1")
    connect(settings).close()
    site.run("revoke", "wh1/r1")
    assert site.broker._process is not None
    os.kill(site.broker._process.pid, signal.SIGHUP)

    def refused() -> bool:
        try:
            connect(settings).close()
        except DeliveryError:
            return True
        return False

    wait_until(refused, what="the broker to take the certificate back")
    site.run("client", "wh1/r1")
    connect(settings).close()


def test_certificate_end_reads_what_the_authority_wrote(site: Site, tmp_path: Path) -> None:
    site.run("client", "wh1/r1", days=100)
    left = certificate_end(site.certificates / "wh1@r1.crt") - datetime.now(timezone.utc)
    assert timedelta(days=99.9) < left < timedelta(days=100.1)
    assert certificate_end(site.certificates / "ca.crt").year > datetime.now(timezone.utc).year + 8
    broken = tmp_path / "broken.crt"
    for text in ("", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"):
        broken.write_text(text, encoding="ascii")
        with pytest.raises(ValueError, match="certificate"):
            certificate_end(broken)


def test_broker_killed_after_a_save_still_has_what_it_confirmed(site: Site, waker: Waker) -> None:
    for name in ("wh1/r1", "reader"):
        site.run("client", name)
    link = connect(site.settings("wh1/r1"))
    topics = [f"bintally/v1/wh1/r1/bin/{number}" for number in range(20)]
    for topic in topics:
        link.publish(topic, b"{}", qos=1, retain=True)
        assert link.wait(5, waker)
    last = topics[-1].encode()
    wait_until(lambda: site.database.is_file() and last in site.database.read_bytes(), what="a save")
    site.broker.kill()
    link.abort()
    site.broker.start()
    reader = Client(site.settings("reader"), ["bintally/v1/#"])
    wait_until(lambda: set(topics) <= set(reader.heard))
    reader.close()


def test_broker_reads_everything_as_a_user_of_its_own(site: Site) -> None:
    """Beside the distribution's main file, and after it has given up root, where it began with it."""
    modes = {path.name: path.stat().st_mode & 0o777 for path in site.certificates.iterdir()}
    secret = {name for name, mode in modes.items() if mode & 0o77}
    assert secret == {"ca.crt", "ca.crl", "server.crt"}
    assert site.broker._process is not None
    process = Path("/proc", str(site.broker._process.pid))
    if process.is_dir():
        assert process.owner() == site.user
    log = site.log.read_text(encoding="utf-8")
    assert "running" in log
    assert "Error" not in log
