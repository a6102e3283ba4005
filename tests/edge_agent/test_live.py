from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from cv2 import videoio_registry

from bundle.errors import CameraError, ConfigError
from edge_agent.capture.live import CameraSource, backend_of, pipeline
from edge_agent.capture.sources import Picture
from tests.simulators.broker import free_port

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ANY = {"size_wh": (None, None), "fps": None}


def _mark(_: int) -> None:
    """Nobody wants to know."""


class Reader:
    """OpenCV's reader as `CameraSource` uses it: grabs for ever, or so many times."""

    def __init__(self, grabs: int | None = None) -> None:
        self.left = grabs
        self.grabbed = self.decoded = 0
        self.asked: tuple[object, ...] = ()
        self.wishes: dict[int, float] = {}
        self.released = False

    def __call__(self, *arguments: object) -> Reader:
        self.asked = arguments
        return self

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self.left != 0

    def set(self, wish: int, value: float) -> bool:
        self.wishes[wish] = value
        return False

    def grab(self) -> bool:
        self.grabbed += 1
        return self.left is None or self.grabbed <= self.left

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
        self.decoded += 1
        return True, np.zeros((4, 4, 3), np.uint8)

    def release(self) -> None:
        self.released = True


def test_camera_source_decodes_only_what_is_due() -> None:
    reader = Reader()
    source = CameraSource(0, size_wh=(640, None), fps=30, look_fps=20, open_capture=reader)  # type: ignore[arg-type]  # a double
    frames = list(itertools.islice(source.read(0, _mark), 3))
    assert all(isinstance(frame, Picture) for frame in frames)
    assert reader.decoded == 3
    assert reader.grabbed > 100  # it waits for nothing: OpenCV's grab sets the pace
    assert reader.asked == (0, cv2.CAP_V4L2)
    assert reader.wishes == {cv2.CAP_PROP_FRAME_WIDTH: 640, cv2.CAP_PROP_FPS: 30}


def test_camera_source_that_ends_is_a_camera_error_and_released() -> None:
    reader = Reader(grabs=2)
    source = CameraSource("/dev/video0", open_capture=reader, **_ANY)  # type: ignore[arg-type]  # a double
    with pytest.raises(CameraError, match="gives no more frames"):
        list(source.read(0, _mark))
    assert reader.released


def test_camera_source_address_error_hides_the_password_and_gives_no_advice_about_devices() -> None:
    address = f"rtsp://user:s3cret@127.0.0.1:{free_port()}/x?token=t0ken"
    with pytest.raises(CameraError, match=r"rtsp://\*\*\*@127\.0\.0\.1.*Check the address") as caught:
        next(iter(CameraSource(address, **_ANY).read(0, _mark)))  # type: ignore[arg-type]  # a dictionary
    assert "s3cret" not in str(caught.value)
    assert "t0ken" not in str(caught.value)
    assert "/dev/v4l" not in str(caught.value)


def test_camera_source_that_is_not_there_is_a_camera_error_that_names_what_is() -> None:
    source = CameraSource("/dev/video-that-is-not-there", **_ANY)  # type: ignore[arg-type]  # a dictionary
    with pytest.raises(CameraError, match="group video; there are: "):
        next(iter(source.read(0, _mark)))


@pytest.mark.parametrize("device", ["csi://0", "gst://videotestsrc ! appsink"])
def test_camera_source_without_gstreamer_says_what_is_missing_and_how_to_get_it(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videoio_registry, "hasBackend", lambda _: False)
    with pytest.raises(ConfigError, match="needs GStreamer") as caught:
        next(iter(CameraSource(device, **_ANY).read(0, _mark)))  # type: ignore[arg-type]  # a dictionary
    assert caught.value.got
    assert caught.value.expected
    assert "system-site-packages" in str(caught.value.fix)


def test_camera_source_with_gstreamer_is_given_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videoio_registry, "hasBackend", lambda _: True)
    reader = Reader()
    next(iter(CameraSource("csi://1", open_capture=reader, **_ANY).read(0, _mark)))  # type: ignore[arg-type]  # a double
    text, backend = reader.asked
    assert str(text).startswith("nvarguscamerasrc sensor-id=1 ! ")
    assert backend == cv2.CAP_GSTREAMER


def test_pipeline_asks_the_sensor_for_the_configured_size() -> None:
    text = pipeline("csi://0", (1920, 1080), 60.0)
    assert "width=(int)1920, height=(int)1080, framerate=(fraction)60/1" in text
    assert text.endswith("appsink drop=true max-buffers=1 sync=false")


@pytest.mark.parametrize("device", ["csi://front", "gst://videotestsrc ! fakesink"])
def test_pipeline_that_cannot_work_is_a_config_error(device: str) -> None:
    with pytest.raises(ConfigError, match=r"cameras\.source"):
        pipeline(device, (None, None), None)


@pytest.mark.parametrize(
    ("device", "backend"),
    [
        (0, "v4l2"),
        ("/dev/v4l/by-id/x", "v4l2"),
        ("rtsp://h/x", "stream"),
        ("csi://0", "gstreamer"),
        ("gst://a", "gstreamer"),
    ],
)
def test_backend_of_each_kind_of_device(device: int | str, backend: str) -> None:
    assert backend_of(device) == backend
