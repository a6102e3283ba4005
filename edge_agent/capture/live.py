"""Live cameras through OpenCV, inside the capture process: V4L2 devices, CSI sensors, GStreamer pipelines, streams.

A live source is drained at its own pace and decoded only when a picture is due (`look_fps`): taking a frame out of a
driver's queue is cheap, decoding each of thirty a second is not, and a robot that waits between visits should cost
next to nothing.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from cv2 import videoio_registry

from bundle.errors import CameraError, ConfigError
from edge_agent.capture.devices import is_local, plugged_in
from edge_agent.capture.sources import Picture, Unusable
from edge_agent.masking import shown_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

Backend = Literal["v4l2", "gstreamer", "stream"]

_CSI, _GSTREAMER = "csi://", "gst://"
_NETWORK_TIMEOUT_MS = 10_000
_CSI_WH, _CSI_FPS = (1280, 720), 30.0
_CSI_PIPELINE = (
    "nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM), width=(int){width}, height=(int){height}, "
    "framerate=(fraction){fps}/1 ! nvvidconv ! video/x-raw, format=(string)BGRx ! videoconvert ! "
    "video/x-raw, format=(string)BGR ! appsink drop=true max-buffers=1 sync=false"
)


def backend_of(device: int | str) -> Backend:
    """Tell what opens a device.

    Args:
        device: A number, a path, `csi://SENSOR`, `gst://PIPELINE` or an address.
    """
    if isinstance(device, str) and device.startswith((_CSI, _GSTREAMER)):
        return "gstreamer"
    return "v4l2" if is_local(device) else "stream"


def pipeline(device: str, size_wh: tuple[int | None, int | None], fps: float | None) -> str:
    """Write the GStreamer pipeline of a device.

    Args:
        device: `csi://SENSOR` for a camera of a Jetson, or `gst://` and a whole pipeline that ends in an appsink.
        size_wh: Asked of the sensor; a pipeline of one's own says that itself.
        fps: Asked of the sensor.

    Returns:
        For GStreamer. It keeps one picture, the newest.

    Raises:
        ConfigError: The sensor is no number, or the pipeline hands no pictures over.
    """
    if device.startswith(_CSI):
        sensor = device.removeprefix(_CSI) or "0"
        if not sensor.isdecimal():
            raise ConfigError("cameras.source names no sensor", got=device, expected="csi://0, csi://1, ...")
        width, height = (given or usual for given, usual in zip(size_wh, _CSI_WH, strict=True))
        return _CSI_PIPELINE.format(sensor=sensor, width=width, height=height, fps=round(fps or _CSI_FPS))
    text = device.removeprefix(_GSTREAMER)
    if "appsink" not in text:
        raise ConfigError(
            "cameras.source has a pipeline that hands no pictures over",
            got=shown_source(device),
            expected="... ! videoconvert ! video/x-raw, format=BGR ! appsink drop=true max-buffers=1",
        )
    return text


class CameraSource:
    """A camera or a network stream.

    Args:
        device: A number, a path, `csi://SENSOR`, `gst://PIPELINE` or an address.
        size_wh: Asked of the camera, which may give another.
        fps: Asked of the camera.
        look_fps: So many pictures a second are decoded at most; the others are taken from the camera and forgotten.
        open_capture: Opens OpenCV's reader, for tests.
    """

    live = True
    wanted_s = 0.0

    def __init__(
        self,
        device: int | str,
        *,
        size_wh: tuple[int | None, int | None],
        fps: float | None,
        look_fps: float = 1000.0,
        open_capture: Callable[..., cv2.VideoCapture] = cv2.VideoCapture,
    ) -> None:
        self._device = device
        self._size_wh = size_wh
        self._fps = fps
        self._pause_s = 1.0 / look_fps
        self._open_capture = open_capture

    def read(self, start: int, mark: Callable[[int], None]) -> Iterator[Picture | Unusable]:
        """Yield frames until the camera fails; see `Source.read`."""
        del start
        camera = self._open()
        try:
            index, due_s = 0, 0.0
            while True:
                mark(index)
                if not camera.grab():
                    raise self._ended()
                now_s, now_mono_s = time.time(), time.monotonic()
                if now_mono_s < max(due_s, self.wanted_s):
                    continue
                due_s = max(due_s + self._pause_s, now_mono_s)
                yield Picture(index, f"frame-{index:06d}", self._decoded(camera), b"", now_s, now_mono_s)
                index += 1
        finally:
            camera.release()

    def _decoded(self, camera: cv2.VideoCapture) -> NDArray[np.uint8]:
        done, image = camera.retrieve()
        if not done:
            raise self._ended()
        return np.asarray(image, dtype=np.uint8)

    def _ended(self) -> CameraError:
        return CameraError(
            f"camera {shown_source(self._device)} gives no more frames", fix="Check its cable; it is opened again."
        )

    def _open(self) -> cv2.VideoCapture:
        backend = backend_of(self._device)
        if backend == "gstreamer":
            camera = self._open_gstreamer()
        elif backend == "v4l2":
            camera = self._open_capture(self._device, cv2.CAP_V4L2)
        else:
            timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _NETWORK_TIMEOUT_MS]
            timeouts += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, _NETWORK_TIMEOUT_MS]
            camera = self._open_capture(self._device, cv2.CAP_FFMPEG, timeouts)
        if not camera.isOpened():
            camera.release()
            raise CameraError(f"camera {shown_source(self._device)} cannot be opened", fix=self._advice(backend))
        if backend != "gstreamer":
            self._wish(camera)
        return camera

    def _open_gstreamer(self) -> cv2.VideoCapture:
        text = pipeline(str(self._device), self._size_wh, self._fps)
        if not videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise ConfigError(
                f"camera {shown_source(self._device)} needs GStreamer",
                got=f"OpenCV {cv2.__version__} in {Path(cv2.__file__).parent}, built without it",
                expected="an OpenCV built with GStreamer, as JetPack brings it",
                fix="On a Jetson: make the environment with --system-site-packages, remove opencv-python-headless from "
                "it, and check `python3 -c 'import cv2; print(cv2.getBuildInformation())'` for GStreamer: YES.",
            )
        return self._open_capture(text, cv2.CAP_GSTREAMER)

    def _wish(self, camera: cv2.VideoCapture) -> None:
        wishes = {
            cv2.CAP_PROP_FRAME_WIDTH: self._size_wh[0],
            cv2.CAP_PROP_FRAME_HEIGHT: self._size_wh[1],
            cv2.CAP_PROP_FPS: self._fps,
        }
        for wish, value in wishes.items():
            if value is not None:
                camera.set(wish, value)

    def _advice(self, backend: Backend) -> str:
        if backend == "stream":
            return "Check the address, its user name and password, and the network."
        if backend == "gstreamer":
            return "Try the pipeline with gst-launch-1.0; a CSI sensor may need `systemctl restart nvargus-daemon`."
        return f"Check that it is plugged in and that this user is in group video; there are: {plugged_in()}."
