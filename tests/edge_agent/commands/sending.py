"""An operator for tests: publishes commands, collects what becomes of them."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.edge_agent.waiting import wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

BASE = "bintally/v1/wh1/r1"
FINAL = ("succeeded", "failed", "refused")


def fields(
    command_id: str = "command-1", *, age_s: float = 0.0, life_s: float = 600.0, **more: object
) -> dict[str, Any]:
    """A command that is fresh, unless told otherwise."""
    issued = datetime.fromtimestamp(time.time(), timezone.utc) - timedelta(seconds=age_s)
    times = {"issued_at": issued.isoformat(), "expires_at": (issued + timedelta(seconds=life_s)).isoformat()}
    return {"command_id": command_id, **times, "actor": "tests", **more}


class Operator:
    """A client that sends commands and notes every message of a robot.

    Args:
        port: Of the broker.
    """

    def __init__(self, port: int) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe("bintally/#", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._note
        self._client.max_inflight_messages_set(100)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._ready.wait(30)

    def _note(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        if "/cmd/" not in message.topic or message.topic.endswith("/result"):
            self.messages.append((message.topic, json.loads(message.payload)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait_for_robot(self) -> None:
        wait_until(lambda: any(f["state"] != "offline" for f in self.of("/status")), what="the robot's status")

    def send(self, name: str, content: dict[str, Any] | bytes, *, retain: bool = False, base: str = BASE) -> None:
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self._client.publish(f"{base}/cmd/{name}", payload, qos=1, retain=retain)

    def of(self, end: str) -> list[dict[str, Any]]:
        """What came on topics with this end."""
        return [content for topic, content in list(self.messages) if topic.endswith(end)]

    def results(self, command_id: str | None) -> list[dict[str, Any]]:
        return [content for content in self.of("/result") if content["command_id"] == command_id]

    def final(self, command_id: str | None, timeout_s: float = 60.0) -> dict[str, Any]:
        """The final result of a command."""
        wait_until(lambda: self._finals(command_id), timeout_s=timeout_s, what=f"the result of {command_id}")
        return self._finals(command_id)[0]

    def _finals(self, command_id: str | None) -> list[dict[str, Any]]:
        return [content for content in self.results(command_id) if content["state"] in FINAL]
