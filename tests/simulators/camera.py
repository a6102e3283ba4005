"""A camera that obeys: `python -m tests.simulators.camera` stands in for the capture process.

The configured source is `/dev/simulated/<path of a control file>`. The file's content is read before every frame: a
number is the count that the picture shows; "stall" hangs as a dead camera does; "die" ends the process; "freeze"
repeats the last picture; "black" sends black ones; "torn" sends pictures whose lower half is missing; "resize" sends
larger ones; "leak" takes more memory with every picture; "close" fails like an unplugged camera, and "never",
at the start, like one that can never work; "left N" shows the count on the left half and black on the right; "photo
PATH" shows a picture.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bundle.errors import CameraError, InputError
from edge_agent.capture.process import run
from edge_agent.capture.sources import Picture, Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from edge_agent.capture.order import CaptureOrder

PREFIX = "/dev/simulated"
COMMAND = (sys.executable, "-m", "tests.simulators.camera")
_FRAME_S = 0.01
_LEAK_BYTES = 512 << 10


class SimulatedCamera:
    """A live source whose pictures follow a control file."""

    live = True
    wanted_s = 0.0

    def __init__(self, control: Path) -> None:
        self._control = control
        self._noise = np.random.default_rng(0)
        self._last = self._with_noise(_grey(1))
        self._leaked: list[bytes] = []

    def read(self, start: int, mark: Callable[[int], None]) -> Iterator[Picture | Unusable]:
        """Yield pictures for ever."""
        del start
        index = 0
        while True:
            mark(index)
            now = time.time(), time.monotonic()  # before the file is read: a later stamp knows a later order
            order = self._control.read_text(encoding="utf-8").strip()
            if order == "leak":
                self._leaked.append(b"x" * _LEAK_BYTES)
                order = "2"
            image = self._picture(order)
            yield Picture(index, f"frame-{index:06d}", image, b"", *now)
            index += 1
            time.sleep(_FRAME_S)

    def _picture(self, order: str) -> NDArray[np.uint8]:
        if order == "stall":
            threading.Event().wait()
        if order == "die":
            os._exit(3)
        if order == "close":
            raise CameraError("the simulated camera is unplugged")
        if order == "black":
            return self._with_noise(np.zeros((48, 64, 3), np.uint8))
        if order == "resize":
            return self._with_noise(np.full((60, 80, 3), 80, np.uint8))
        if order == "torn":
            image = self._with_noise(_grey(1))
            image[24:] = 128
            return image
        if order.startswith("left "):
            image = self._with_noise(_grey(float(order.removeprefix("left "))))
            image[:, 32:] = 0
            return image
        if order.startswith("photo "):
            return self._with_noise(np.asarray(cv2.imread(order.removeprefix("photo ")), np.uint8))
        if order not in ("freeze", ""):  # a file that is just being written is empty
            self._last = self._with_noise(_grey(float(order)))
        return self._last

    def _with_noise(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        noise = self._noise.integers(-3, 4, image.shape)
        noisy: NDArray[np.uint8] = np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)
        return noisy


def _grey(count: float) -> NDArray[np.uint8]:
    """As `bundle_factory.grey`, which this process does not import because it brings onnx along."""
    image: NDArray[np.uint8] = np.full((48, 64, 3), round(20 + 30 * count), np.uint8)
    return image


def source_for(control: Path) -> str:
    """What to write into the configuration."""
    return f"{PREFIX}{control}"


def open_simulated(order: CaptureOrder) -> SimulatedCamera:
    """Choose the source for an order, as the real capture process does."""
    control = Path(str(order.source).removeprefix(PREFIX))
    if control.read_text(encoding="utf-8").strip() == "never":
        raise InputError("the simulated camera can never work")
    return SimulatedCamera(control)


if __name__ == "__main__":
    run(sys.argv[1:], open_simulated)
