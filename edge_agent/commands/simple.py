"""Commands that are done in a moment: ping, set, capture, snapshot."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, cast

import cv2

from bundle.images import encode_jpeg
from edge_agent.commands.order import Done, Handler
from edge_agent.commands.reasons import CommandError, Reason
from edge_agent.commands.visit_requests import VisitRequest
from edge_agent.delivery.uploads import image_key
from edge_agent.messages import SnapshotSidecar, utc
from edge_agent.outbox.rows import ImageEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from pydantic import JsonValue

    from edge_agent.commands.exchange import Exchange, Picture
    from edge_agent.commands.order import Order, Progress
    from edge_agent.commands.schema import Capture, Set, Snapshot
    from edge_agent.commands.settings import Settings
    from edge_agent.commands.visit_requests import VisitRequests

_MAX_MQTT_JPEG = 30 << 10
_QUALITIES = (85, 70, 50, 30)
_LEAST_SIDE = 64
_MAX_PICTURES = 8


class PingHandler(Handler):
    """Says that the agent is there, and what it is.

    Args:
        about: What to say.
    """

    def __init__(self, about: Callable[[], dict[str, JsonValue]]) -> None:
        self._about = about

    def run(self, order: Order, progress: Progress) -> Done:
        """Answer; see `Handler.run`."""
        del order, progress
        return Done("here", self._about())

    resume = run


class SetHandler(Handler):
    """Changes settings, durably.

    Args:
        settings: Those in force.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def run(self, order: Order, progress: Progress) -> Done:
        """Change settings: they are stored in one transaction with the result; see `Handler.run`."""
        del progress
        overrides = self._settings.changed(cast("Set", order.command))
        self._settings.keep(overrides)
        given = overrides.given()
        return Done("set", {"settings": given}, settings=json.dumps(given).encode())

    resume = run


class CaptureHandler(Handler):
    """Asks the frame path for a visit, which stores the answer with its count.

    Args:
        requests: Where the frame path takes them.
        cameras: Names; the first one is meant when none is named.
        clock: Monotonic seconds.
    """

    def __init__(
        self, requests: VisitRequests, cameras: Sequence[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._requests = requests
        self._cameras = cameras
        self._clock = clock

    def run(self, order: Order, progress: Progress) -> None:
        """Ask for the visit; see `Handler.run`."""
        del progress
        command = cast("Capture", order.command)
        now_s = self._clock()
        request = VisitRequest(
            command_id=order.id,
            camera=camera_of(command.camera, self._cameras),
            bin_id=command.bin_id,
            record=command.record,
            frames=command.frames,
            asked_mono_s=now_s,
            give_up_mono_s=_give_up_s(order, command.wait_s),
            order=order,
        )
        if not self._requests.put(request):
            raise CommandError(Reason.TOO_MANY_VISITS)

    def tick(self, end: Callable[[Order, Done | CommandError], None]) -> None:
        """End visits that no frame has begun in time; see `Handler.tick`."""
        for request in self._requests.overdue():
            if request.order is not None:
                words = f"camera {request.camera} gave no frame for it"
                end(request.order, CommandError(Reason.NO_VISIT, words, state="failed"))


class SnapshotHandler(Handler):
    """Sends the next frame of a camera.

    Args:
        exchange: Gives the frame.
        cameras: Names; the first one is meant when none is named.
        prefix: Of object keys; None when images go nowhere.
    """

    def __init__(self, exchange: Exchange, cameras: Sequence[str], prefix: str | None) -> None:
        self._exchange = exchange
        self._cameras = cameras
        self._prefix = prefix
        self._waiting: list[tuple[Order, Picture, float]] = []

    def run(self, order: Order, progress: Progress) -> None:
        """Ask for a frame; see `Handler.run`."""
        del progress
        command = cast("Snapshot", order.command)
        camera = camera_of(command.camera, self._cameras)
        if command.to == "store" and self._prefix is None:
            raise CommandError(Reason.NO_TARGET)
        if len(self._waiting) >= _MAX_PICTURES:
            raise CommandError(Reason.TOO_MANY_VISITS, f"{_MAX_PICTURES} snapshots wait already")
        self._waiting.append((order, self._exchange.picture(camera), _give_up_s(order, command.wait_s)))

    def tick(self, end: Callable[[Order, Done | CommandError], None]) -> None:
        """Send pictures that have come; see `Handler.tick`."""
        waiting, self._waiting = self._waiting, []
        for order, wish, until_s in waiting:
            if wish.image_bgr is not None and wish.there.is_set():
                end(order, self._sent(order, wish.camera, wish.image_bgr, wish.captured_s))
            elif time.monotonic() < until_s:
                self._waiting.append((order, wish, until_s))
            else:
                self._exchange.forget(wish)
                end(order, CommandError(Reason.NO_FRAME, f"camera {wish.camera} gave none", state="failed"))

    def _sent(self, order: Order, camera: str, image_bgr: NDArray[np.uint8], captured_s: float) -> Done:
        command = cast("Snapshot", order.command)
        detail: dict[str, JsonValue] = {"camera": camera, "captured_at": utc(captured_s).isoformat()}
        if command.to == "mqtt" or self._prefix is None:
            jpeg = small_jpeg(image_bgr, command.max_side)
            text = base64.b64encode(jpeg).decode()
            return Done("the picture is in detail.jpeg_base64", {**detail, "jpeg_base64": text})
        jpeg = encode_jpeg(_shrunk(image_bgr, command.max_side))
        key = image_key(self._prefix, jpeg)
        sidecar = SnapshotSidecar(
            image_key=key,
            bytes=len(jpeg),
            why="snapshot",
            command_id=order.id,
            camera=camera,
            captured_at=utc(captured_s),
        )
        stored = ImageEntry(key, jpeg, sidecar.to_bytes())
        return Done("the picture is on its way", {**detail, "image_key": key}, image=stored)


def _give_up_s(order: Order, wait_s: float) -> float:
    """Monotonic time after which a frame comes too late: `wait_s` counts from the reception."""
    return min(order.received_mono_s + wait_s, order.begin_by_mono_s)


def camera_of(name: str | None, cameras: Sequence[str]) -> str:
    """Find the camera that a command means.

    Args:
        name: As the command says; None means the first.
        cameras: Those of the robot.

    Returns:
        Its name.

    Raises:
        CommandError: There is none of this name.
    """
    if name is not None and name not in cameras:
        raise CommandError(Reason.UNKNOWN_CAMERA, f"{name} is none of {', '.join(cameras)}")
    return name or cameras[0]


def small_jpeg(image_bgr: NDArray[np.uint8], max_side: int) -> bytes:
    """Encode a picture so that it fits into a message.

    Args:
        image_bgr: uint8, (H, W, 3), BGR, 0..255.
        max_side: Longest side, pixels; less when it does not fit otherwise.

    Returns:
        A JPEG file of at most 30 KiB.
    """
    while True:
        small = _shrunk(image_bgr, max_side)
        for quality in _QUALITIES:
            jpeg = encode_jpeg(small, quality)
            if len(jpeg) <= _MAX_MQTT_JPEG or (max_side <= _LEAST_SIDE and quality == _QUALITIES[-1]):
                return jpeg
        max_side //= 2


def _shrunk(image_bgr: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    height, width = image_bgr.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return image_bgr
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cast("NDArray[np.uint8]", cv2.resize(image_bgr, size, interpolation=cv2.INTER_AREA))
