"""A camera with a profile: what the network, a reviewer and a job get to see, and a camera that is bumped."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from contextlib import contextmanager
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from bundle.camera import CameraProfile, ReferenceView, Region, SignOff
from bundle.durable import write_bytes
from bundle.errors import ConfigError, InputError
from bundle.images import decode
from bundle.moved import MovedDetector
from calibration.boards import BoardSpec
from calibration.camera import Request, calibrate_camera
from edge_agent.assemble import assemble
from edge_agent.check import check_references
from edge_agent.config import CameraSection
from edge_agent.visits.camera_profile import MovedWatch
from tests.calibration.bin_scenes import POSE, bin_picture, true_corners
from tests.edge_agent.running import config_text, load_text
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import MOSQUITTO, Mosquitto, Subscriber
from tests.simulators.camera import COMMAND, source_for
from tests.simulators.optics import Pose

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.agent import Agent

_NOW = datetime(2026, 3, 4, tzinfo=timezone.utc)
_SIGNED = SignOff(by="a person", at=_NOW)
_LEFT = Region(corners_px=((0, 0), (31, 0), (31, 47), (0, 47)), size_wh=(32, 48), method="points")
_HALF = CameraProfile(camera="camera", created=_NOW, signed_off=_SIGNED, frame_wh=(64, 48), region=_LEFT)
_BUMPED = Pose(POSE.rotation, (POSE.translation_mm[0] + 14, *POSE.translation_mm[1:]))
_DARK = b64encode(bytes(72 * 96))
_VISITS = "[cameras.visit]\ninterval_s = 0.05\nframes = 1\n[cameras.gate]\nfrozen_s = 0"

needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary")


def _write(profile: CameraProfile, file: Path) -> Path:
    write_bytes(file, profile.model_dump_json().encode())
    return file


class _Site:
    """A running agent with a simulated camera and a profile."""

    def __init__(self, agent: Agent, subscriber: Subscriber, control: Path) -> None:
        self.agent, self._subscriber, self._control = agent, subscriber, control

    def show(self, order: str) -> None:
        self._control.write_text(order, encoding="utf-8")

    def of(self, end: str) -> list[dict[str, Any]]:
        return [json.loads(message.payload) for message in self._subscriber.of(end)]

    def events(self) -> list[str]:
        """What was told of the camera; a count may be unsure as well."""
        return [event["event"] for event in self.of("/event") if event["event"].startswith("camera_")]


@contextmanager
def _site(folder: Path, bundle: Path, profile: CameraProfile, first: str, *, rest: str = "") -> Iterator[_Site]:
    control = folder / "control"
    control.write_text(first, encoding="utf-8")
    camera = f'profile = "{_write(profile, folder / "camera.json").name}"\nmoved_check_s = 0\nlook_fps = 50\n{_VISITS}'
    with Mosquitto(folder) as broker, Subscriber(broker.port) as subscriber:
        text = config_text(
            bundle=bundle,
            source=source_for(control),
            state=folder / "state",
            port=broker.port,
            camera=camera,
            rest=rest,
        )
        agent = assemble(load_text(folder, text), capture_command=COMMAND)
        thread = threading.Thread(target=agent.run)
        thread.start()
        try:
            yield _Site(agent, subscriber, control)
        finally:
            agent.request_stop()
            thread.join(60)


@needs_broker
def test_profile_is_applied_before_the_network_and_to_what_leaves_the_robot(tmp_path: Path, tiny_bundle: Path) -> None:
    uploads = f'[uploads]\nfolder = "{tmp_path / "up"}"\naudit_share = 1.0\n'
    with _site(tmp_path, tiny_bundle, _HALF, "left 4", rest=uploads) as site:
        wait_until(lambda: len(site.of("/count")) >= 3, what="counts")
        wait_until(lambda: list((tmp_path / "up").rglob("*.jpg")), what="an uploaded picture")
        wish = site.agent.parts.commands.exchange.picture("camera")
        assert wish.there.wait(60)
        site.show("resize")
        wait_until(lambda: "camera_lost" in site.events(), what="a camera whose pictures the profile does not fit")
        (lost,) = [event for event in site.of("/event") if event["event"] == "camera_lost"]
    # The whole picture is half black, which the bundle counts as less.
    assert {count["label"] for count in site.of("/count")} == {"4"}
    uploaded = decode(next((tmp_path / "up").rglob("*.jpg")).read_bytes(), name="uploaded")
    for picture in (uploaded, wish.image_bgr):
        assert picture is not None
        assert picture.shape == (48, 32, 3)
        assert picture.min() > 100
    assert "80x60" in lost["problem"]


@needs_broker
def test_camera_that_is_bumped_is_told_once_and_that_it_is_back(tmp_path: Path, tiny_bundle: Path) -> None:
    views = {str(seed): bin_picture(seed) for seed in range(6)}
    asked = Request("camera", "points", true_corners(), signed_off_by="a person")
    profile = calibrate_camera(None, views, BoardSpec(), asked, now=_NOW).profile
    for name, picture in (("here", views["0"]), ("there", bin_picture(0, pose=_BUMPED))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    with _site(tmp_path, tiny_bundle, profile, f"photo {tmp_path / 'here.png'}") as site:
        wait_until(lambda: len(site.of("/count")) >= 40, what="visits of a camera that stands still")
        assert site.events() == []
        site.show(f"photo {tmp_path / 'there.png'}")
        wait_until(lambda: site.of("/status")[-1]["state"] == "degraded", what="a degraded robot")
        (reason,) = site.of("/status")[-1]["reasons"]
        counts = len(site.of("/count"))
        wait_until(lambda: len(site.of("/count")) >= counts + 40, what="visits of a camera that was bumped")
        site.show(f"photo {tmp_path / 'here.png'}")
        wait_until(lambda: site.of("/status")[-1]["state"] == "online", what="a robot that is well again")
        wait_until(lambda: len(site.events()) == 2, what="both events")
    assert site.events() == ["camera_moved", "camera_in_place"]
    assert reason.startswith("camera camera: it has moved by ")


@pytest.mark.parametrize(
    "failure", [cv2.error("no memory"), np.linalg.LinAlgError("singular"), MemoryError(), InputError("another size")]
)
def test_look_that_fails_is_said_once_and_the_next_ones_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    seen: list[int] = []

    def update(_detector: MovedDetector, image_bgr: NDArray[np.uint8]) -> None:
        seen.append(int(image_bgr.max()))
        if len(seen) == 1:
            raise failure

    monkeypatch.setattr(MovedDetector, "update", update)
    view = ReferenceView(edges=_DARK, weights=_DARK, noise_px=0, frames=1)
    camera: Any = SimpleNamespace(profile=_HALF.model_copy(update={"view": view}))
    section = CameraSection(name="camera", source="x", moved_check_s=0)
    watch = MovedWatch({"camera": (section, camera)})

    def look() -> bool:
        watch.visit("camera", np.zeros((48, 64, 3), np.uint8))
        return len(seen) >= 3

    wait_until(look, what="looks after one that failed")
    watch.close()
    assert watch.moved("camera") == ""
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("{", "is no camera profile"),
        (_HALF.model_copy(update={"signed_off": None}).model_dump_json(), "is not signed off"),
        (_HALF.model_copy(update={"camera": "rear"}).model_dump_json(), "is another camera's"),
    ],
)
def test_profile_that_is_broken_ends_the_start_with_what_to_do(
    tmp_path: Path, tiny_bundle: Path, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "camera.json").write_text(content, encoding="utf-8")
    text = config_text(
        bundle=tiny_bundle, source=source_for(tmp_path), state=tmp_path / "state", camera='profile = "camera.json"'
    )
    config = load_text(tmp_path, text)
    for start in (assemble, check_references):
        with pytest.raises(ConfigError, match=words) as caught:
            start(config)
        assert caught.value.exit_code == 78  # systemd does not start the agent again (RestartPreventExitStatus)
