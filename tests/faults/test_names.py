"""Names of broker and store that do not resolve, or late: counting goes on, and delivery comes back by itself."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.edge_agent.running import ROOT, AgentProcess, config_text, write_photos
from tests.edge_agent.waiting import wait_until
from tests.faults.kills import read_outbox
from tests.simulators.broker import MOSQUITTO, Mosquitto, Subscriber
from tests.simulators.names import NameServer, can_rename

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulators.names import Answers
    from tests.simulators.object_store import MotoStore

pytestmark = [
    pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary"),
    pytest.mark.skipif(not can_rename(), reason="needs root and mount namespaces"),
]
_STOP_S = 25.0
"""stop_timeout_s of 10, and the good-byes of two threads; see `Agent._finish`."""


class Robot:
    """An agent whose broker and store are known by name."""

    def __init__(self, folder: Path, bundle: Path, names: NameServer, port: int, store: MotoStore) -> None:
        photos = write_photos(folder / "photos", [1, 1.5, 2, 3])
        text = config_text(
            bundle=bundle,
            source=photos,
            state=folder / "state",
            port=port,
            camera="repeat = true\npause_s = 0.05",
            rest=f'[s3]\nbucket = "{store.bucket}"\nendpoint_url = "http://store:{store.port}"\nretry_max_s = 0.3\n',
        )
        self._text = text.replace("[mqtt]", '[mqtt]\nhost = "broker.bins.test"')
        self._folder, self.state = folder, folder / "state"
        run = [sys.executable, str(ROOT / "bintally.py"), "agent", "run", "--json", "--config"]
        self._command = names.command(run)

    def start(self) -> AgentProcess:
        return AgentProcess.start(self._folder, self._text, self._command)


def ends(agent: AgentProcess) -> None:
    """Ask it to end, and see that it does in its time."""
    began_s = time.monotonic()
    assert agent.terminate() == 0
    assert time.monotonic() - began_s < _STOP_S


@pytest.mark.parametrize(
    "mode", ["silent", *(pytest.param(mode, marks=pytest.mark.soak) for mode in ("unknown", "late"))]
)
def test_names_that_do_not_resolve_hold_no_count_up_and_delivery_begins_when_they_do(
    tmp_path: Path, tiny_bundle: Path, store: MotoStore, mode: Answers
) -> None:
    broker = Mosquitto(tmp_path)
    with NameServer(tmp_path) as names, broker, Subscriber(broker.port) as subscriber:
        robot = Robot(tmp_path, tiny_bundle, names, broker.port, store)
        names.mode = mode
        agent = robot.start()
        wait_until(lambda: len(agent.counts) >= 40 and names.asked >= 3, what="counts without a network")
        accepted = {count["event_id"] for count in agent.counts}
        if mode != "late":
            assert not subscriber.of("/count")
            ends(agent)
            accepted = {count["event_id"] for count in agent.counts}
            assert accepted <= read_outbox(robot.state).counts
            agent = robot.start()
            wait_until(lambda: len(agent.counts) >= 5)
            names.mode = "well"
        wait_until(lambda: len(subscriber.of("/count")) >= len(accepted), what="delivery")
        wait_until(store.keys, what="an upload")
        ends(agent)
        assert not [line for line in agent.stderr if "Traceback" in line or "no progress" in line]


@pytest.mark.soak
def test_name_servers_that_are_silent_for_minutes_end_no_agent(
    tmp_path: Path, tiny_bundle: Path, store: MotoStore
) -> None:
    with NameServer(tmp_path, "timeout:30 attempts:5") as names:
        names.mode = "silent"
        agent = Robot(tmp_path, tiny_bundle, names, 1883, store).start()
        began_s = time.monotonic()
        wait_until(lambda: agent.ended or time.monotonic() - began_s > 150, timeout_s=200, what="150 s")
        assert not agent.ended
        before = len(agent.counts)
        wait_until(lambda: len(agent.counts) > before, what="a further count")
        ends(agent)
