"""A bundle that passes its trial and then brings the real agent down, which is started again and again."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from bundle.probation import read_note
from bundle.store import Store
from tests.edge_agent.commands.sending import Operator, fields
from tests.edge_agent.commands.test_commands import variant
from tests.edge_agent.running import AgentProcess, config_text, write_photos
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import MOSQUITTO, Mosquitto

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary")


class Robot:
    """An agent whose engine is well with the bundle that it begins with, and ill with bundles of version 2.0.0."""

    def __init__(self, folder: Path, bundle: Path, port: int, illness: str) -> None:
        self.folder, self.store = folder, Store(folder / "store")
        self.first = self.store.activate(self.store.install(bundle).digest)
        self.source = folder / "bundles" / "second"
        self.second = variant(self.source, version="2.0.0", created="2026-05-01T00:00:00Z")
        (folder / "control").write_text(f"{illness}@2.0.0", encoding="utf-8")
        rest = f'[telemetry]\ninterval_s = 0.2\n[commands]\nbundle_sources = ["{folder / "bundles"}"]\n'
        photos = write_photos(folder / "photos", [1, 2, 3])
        camera = "repeat = true\npause_s = 0.05"
        self.text = config_text(
            bundle=folder / "store", source=photos, state=folder / "state", port=port, camera=camera, rest=rest
        )

    def start(self) -> AgentProcess:
        command = [sys.executable, "-m", "tests.faults.sick_agent", str(self.folder / "control")]
        return AgentProcess.start(self.folder, self.text, command, SICK_PATIENCE_S="3")


def events(operator: Operator) -> list[dict[str, Any]]:
    return [event for event in operator.of("/event") if event["event"] == "bundle_taken_back"]


@pytest.mark.parametrize(
    ("illness", "code"),
    [
        ("segv", -signal.SIGSEGV),
        pytest.param("kill", -signal.SIGKILL, marks=pytest.mark.soak),
        pytest.param("hang", 1, marks=pytest.mark.soak),
        pytest.param("raise", 70, marks=pytest.mark.soak),
    ],
)
def test_bundle_that_brings_the_agent_down_again_and_again_is_taken_back_once(
    tmp_path: Path, tiny_bundle: Path, illness: str, code: int
) -> None:
    with Mosquitto(tmp_path, "allow_anonymous true\nmax_queued_messages 20000") as broker, Operator(broker.port) as op:
        robot = Robot(tmp_path, tiny_bundle, broker.port, illness)
        agent = robot.start()
        op.wait_for_robot()
        op.send("deploy", fields("deploy-sick", source=str(robot.source), digest=robot.second))
        codes = [agent.wait()]
        while robot.store.current().digest == robot.second and len(codes) < 6:
            agent = robot.start()
            wait_until(lambda: agent.ended or agent.counts, what="a count or an end")  # noqa: B023 - waits in the loop
            if agent.ended:
                codes.append(agent.wait())
        assert codes == [code] * 3
        assert all(count["bundle"].startswith("tiny-1.0.0") for count in agent.counts)
        wait_until(lambda: events(op), what="the event")
        assert events(op)[0]["subject"] == robot.second
        assert "the agent ended 3 times with it" in events(op)[0]["problem"]
        assert op.final("deploy-sick")["state"] == "succeeded"  # it was switched to; what came then is the event's
        wait_until(lambda: read_note(tmp_path / "store").taken_back.told, what="the end of the telling")  # type: ignore[union-attr]  # fails the wait
        agent.kill()
        assert any("was taken back" in line for line in agent.stderr)
        robot.start().kill()
        agent = robot.start()
        wait_until(lambda: agent.counts, what="a count after more kills")
        assert agent.terminate() == 0
        assert len(events(op)) == 1
    assert (robot.store.current().digest, robot.store.previous()) == (robot.first.digest, None)
