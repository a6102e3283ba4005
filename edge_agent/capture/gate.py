"""Is this frame worth counting? Pure functions over a few measured numbers.

`measure` runs in the capture process, where the pixels are warm; `judge` runs in the agent and sees numbers only. The
state that `judge` needs is passed in and handed back, and is of fixed size.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edge_agent.capture.frames import FrameStats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.config import GateSection

_THUMBNAIL_WH = (32, 24)
_BLINDING = frozenset({"dark", "bright", "torn"})
"""A robot on the move sees a blur for long, and is not blind."""


@dataclass(frozen=True, slots=True)
class GateState:
    """What the gate remembers of a camera.

    Attributes:
        checksum: Of the last picture.
        since_s: When that picture first appeared.
        sighted_s: When the camera was last not blind; None before the first picture.
    """

    checksum: int | None = None
    since_s: float = 0.0
    sighted_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of a frame.

    Attributes:
        flags: Of "dark", "bright", "blurred", "torn", "repeated"; empty when all is well.
        frozen: The picture has not changed for so long that the camera must be restarted.
        blind: What has kept the camera from seeing anything for long; empty when it sees.
    """

    flags: tuple[str, ...]
    frozen: bool
    blind: tuple[str, ...] = ()


def measure(
    network_bgr: NDArray[np.uint8], before: NDArray[np.uint8] | None, picture_bgr: NDArray[np.uint8] | None = None
) -> tuple[FrameStats, NDArray[np.uint8]]:
    """Measure a picture at the size at which the network will see it: what is lost there cannot be counted.

    Args:
        network_bgr: uint8, (h, w, 3), BGR, 0..255, of the network's size.
        before: Thumbnail of the picture before, from this function; None for the first.
        picture_bgr: uint8, (H, W, 3), the picture as it came, whose end is looked at; None leaves that out.

    Returns:
        The numbers, and this picture's thumbnail: uint8, (24, 32), of the green channel.
    """
    # The green channel stands for grey: converting all three takes longer than everything else here.
    grey = np.ascontiguousarray(network_bgr[:, :, 1])
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S, ksize=1))
    thumbnail = np.asarray(cv2.resize(grey, _THUMBNAIL_WH, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    motion = 0.0 if before is None else float(cv2.absdiff(thumbnail, before).mean())
    stats = FrameStats(
        brightness=round(float(cv2.mean(grey)[0]), 2),
        sharpness=round(float(deviation[0, 0] ** 2), 2),
        motion=round(motion, 3),
        checksum=zlib.crc32(grey.data),
        flat_tail=0.0 if picture_bgr is None else flat_tail(picture_bgr),
    )
    return stats, thumbnail


def flat_tail(picture_bgr: NDArray[np.uint8]) -> float:
    """Measure how much of a picture's end is missing.

    Args:
        picture_bgr: uint8, (H, W, 3), as it came from the camera.

    Returns:
        Share of the rows, counted from the last one up, that equal the row below them: 0..1.
    """
    last = len(picture_bgr) - 1
    row = last
    while row > 0 and np.array_equal(picture_bgr[row - 1], picture_bgr[last]):
        row -= 1
    return (last - row) / len(picture_bgr)


def judge(stats: FrameStats, limits: GateSection, state: GateState, now_s: float) -> tuple[Verdict, GateState]:
    """Judge a frame.

    Args:
        stats: Of the frame.
        limits: From the configuration.
        state: From the frame before.
        now_s: Monotonic time of the frame.

    Returns:
        The verdict, and the state for the next frame.
    """
    repeated = stats.checksum == state.checksum
    since_s = state.since_s if repeated else now_s
    found = {
        "dark": stats.brightness < limits.min_brightness,
        "bright": stats.brightness > limits.max_brightness,
        "blurred": stats.sharpness < limits.min_sharpness,
        "torn": stats.flat_tail > limits.max_flat_tail,
        "repeated": repeated,
    }
    flags = tuple(name for name, wrong in found.items() if wrong)
    frozen = repeated and 0 < limits.frozen_s <= now_s - since_s
    blinding = tuple(flag for flag in flags if flag in _BLINDING)
    sighted_s = state.sighted_s if blinding and state.sighted_s is not None else now_s
    blind = blinding if now_s - sighted_s >= limits.blind_s else ()
    return Verdict(flags, frozen, blind), GateState(stats.checksum, since_s, sighted_s)
