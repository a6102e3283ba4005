"""A camera that fails in every way it can, before the real agent and a real broker: noticed, survived, nothing counted.

The soak runs with the default settings and prints what it measured:
`pytest tests/edge_agent/test_camera_faults.py -m soak -s`
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import pytest

from edge_agent.assemble import assemble
from edge_agent.machine import private_bytes
from tests.edge_agent.running import config_text, load_text
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import MOSQUITTO, Mosquitto, Subscriber
from tests.simulators.camera import COMMAND, source_for

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary")

_FAULTS = {
    "close": "unplugged",
    "die": "died",
    "stall": "no frame",
    "freeze": "frozen",
    "black": "dark",
    "torn": "torn",
    "resize": "changed the size",
}
"""What each fault is called in the robot's status. On a busy machine a camera may be lost for a moment by itself: then
no further event says that it is lost, but the status says why it is."""
_BLINDING = ("black", "torn")
_QUICK = """stall_s = 1.0
open_timeout_s = 5.0
[cameras.gate]
frozen_s = 0.5
blind_s = 0.5
[cameras.visit]
interval_s = 0.05
frames = 2
"""
_DEFAULTS = """[cameras.visit]
interval_s = 0.5
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """What one fault led to.

    Attributes:
        order: Given to the simulated camera.
        detected_s: Until the event reached a subscriber.
        recovered_s: From the cure to a right count at a subscriber.
        false_counts: Counts of frames taken while the fault lasted.
    """

    order: str
    detected_s: float
    recovered_s: float
    false_counts: int


class _Bench:
    """The agent's subscriber and the camera's control file."""

    def __init__(self, subscriber: Subscriber, control: Path) -> None:
        self._subscriber = subscriber
        self._control = control

    def _events(self, name: str) -> int:
        return sum(json.loads(message.payload)["event"] == name for message in self._subscriber.of("/event"))

    def _reasons(self, since: int) -> list[str]:
        """Why the robot was degraded, in every status from the so many-th on."""
        found = [json.loads(message.payload)["reasons"] for message in self._subscriber.of("/status")[since:]]
        return [reason for reasons in found for reason in reasons]

    def counts_between(self, begin_s: float, end_s: float, label: str | None = None) -> int:
        found = 0
        for message in self._subscriber.of("/count"):
            fields = json.loads(message.payload)
            taken_s = datetime.fromisoformat(fields["captured_at"].replace("Z", "+00:00")).timestamp()
            found += begin_s <= taken_s < end_s and label in (None, fields["label"])
        return found

    def show(self, order: str) -> float:
        self._control.write_text(order, encoding="utf-8")
        return time.time()

    def suffer(self, order: str) -> Fault:
        """Let the camera fail, wait until it is said, cure it, wait for a right count."""
        bad = "camera_blind" if order in _BLINDING else "camera_lost"
        since = len(self._subscriber.of("/status"))
        began_s, clock_s = self.show(order), time.monotonic()
        wait_until(
            lambda: self._events(bad) and any(_FAULTS[order] in reason for reason in self._reasons(since)),
            what=f"{bad} after {order}",
        )
        detected_s = time.monotonic() - clock_s
        # Before the cure: a frame stamped just before it may show it.
        false_counts = self.counts_between(began_s, time.time())
        cured_s, clock_s = self.show("2"), time.monotonic()
        wait_until(lambda: not self._reasons(-1), what=f"a status without reasons after {order}", timeout_s=90)
        wait_until(lambda: self.counts_between(cured_s, time.time(), "2"), what=f"a count after {order}")
        return Fault(
            order,
            round(detected_s, 2),
            round(time.monotonic() - clock_s, 2),
            false_counts,
        )


def _suffer_all(folder: Path, bundle: Path, camera: str) -> tuple[list[Fault], list[str]]:
    control = folder / "control"
    control.write_text("2", encoding="utf-8")
    with Mosquitto(folder) as broker, Subscriber(broker.port) as subscriber:
        text = config_text(
            bundle=bundle, source=source_for(control), state=folder / "state", port=broker.port, camera=camera
        )
        agent = assemble(load_text(folder, text), capture_command=COMMAND)
        thread = threading.Thread(target=agent.run)
        thread.start()
        try:
            wait_until(lambda: subscriber.of("/count"), what="the first count")
            faults = [_Bench(subscriber, control).suffer(order) for order in _FAULTS]
        finally:
            agent.request_stop()
            thread.join(60)
        return faults, [json.loads(message.payload)["label"] for message in subscriber.of("/count")]


@pytest.mark.slow
def test_camera_faults_are_noticed_survived_and_not_counted(tmp_path: Path, tiny_bundle: Path) -> None:
    faults, labels = _suffer_all(tmp_path, tiny_bundle, _QUICK)
    assert {fault.order: fault.false_counts for fault in faults} == dict.fromkeys(_FAULTS, 0)
    assert set(labels) == {"2"}


def _captures() -> list[int]:
    children = Path("/proc/self/task").glob("*/children")
    pids = [int(pid) for file in children for pid in file.read_text(encoding="ascii").split()]
    return [pid for pid in pids if _is_camera(pid)]


def _is_camera(pid: int) -> bool:
    """A child that is just being forked still weighs what this process weighs."""
    try:
        return b"tests.simulators.camera" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.slow
def test_capture_process_that_leaks_is_started_anew_again_and_again_and_the_rest_goes_on(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    control, limit, largest = tmp_path / "control", 128 << 20, 0
    control.write_text("2", encoding="utf-8")
    camera = f"max_memory_bytes = {limit}\n{_QUICK}"
    with Mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        text = config_text(
            bundle=tiny_bundle, source=source_for(control), state=tmp_path / "state", port=broker.port, camera=camera
        )
        agent = assemble(load_text(tmp_path, text), capture_command=COMMAND)
        thread = threading.Thread(target=agent.run)
        thread.start()

        def said(event: str) -> list[str]:
            found = [json.loads(message.payload) for message in subscriber.of("/event")]
            return [fields["problem"] for fields in found if fields["event"] == event]

        def three_times() -> bool:
            nonlocal largest
            largest = max([largest, *(private_bytes(pid) or 0 for pid in _captures())])
            return sum("MiB of memory" in problem for problem in said("camera_lost")) >= 3

        try:
            wait_until(lambda: subscriber.of("/count"), what="the first count")
            control.write_text("leak", encoding="utf-8")
            wait_until(three_times, what="the third loss of a camera whose process leaks", timeout_s=120)
            control.write_text("3", encoding="utf-8")
            wait_until(lambda: subscriber.of("/count") and b'"label":"3"' in subscriber.of("/count")[-1].payload)
        finally:
            agent.request_stop()
            thread.join(60)
    # Weighed once a second, it grows by at most fifty megabytes until then; a starved agent comes later.
    assert limit < largest < limit + (256 << 20)


@pytest.mark.soak
def test_camera_faults_with_default_settings_are_noticed_within_ten_seconds(tmp_path: Path, tiny_bundle: Path) -> None:
    faults, labels = _suffer_all(tmp_path, tiny_bundle, _DEFAULTS)
    for fault in faults:
        print(json.dumps(asdict(fault)))  # noqa: T201 - the figures are what it is for
    assert all(fault.detected_s <= 10 and fault.false_counts == 0 for fault in faults)
    assert set(labels) == {"2"}
