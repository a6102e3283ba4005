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

from edge_agent.frames import FrameStats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.config import GateSection

_THUMBNAIL_WH = (32, 24)


@dataclass(frozen=True, slots=True)
class GateState:
    """What the gate remembers of a camera: the last picture's checksum and when it first appeared."""

    checksum: int | None = None
    since_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of a frame.

    Attributes:
        flags: Of "dark", "bright", "blurred", "repeated"; empty when all is well.
        frozen: The picture has not changed for so long that the camera must be restarted.
    """

    flags: tuple[str, ...]
    frozen: bool


def measure(network_bgr: NDArray[np.uint8], before: NDArray[np.uint8] | None) -> tuple[FrameStats, NDArray[np.uint8]]:
    """Measure a picture at the size at which the network will see it: what is lost there cannot be counted.

    Args:
        network_bgr: uint8, (h, w, 3), BGR, 0..255, of the network's size.
        before: Thumbnail of the picture before, from this function; None for the first.

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
    )
    return stats, thumbnail


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
    after = state if repeated else GateState(stats.checksum, now_s)
    found = {
        "dark": stats.brightness < limits.min_brightness,
        "bright": stats.brightness > limits.max_brightness,
        "blurred": stats.sharpness < limits.min_sharpness,
        "repeated": repeated,
    }
    frozen = repeated and 0 < limits.frozen_s <= now_s - after.since_s
    return Verdict(tuple(name for name, wrong in found.items() if wrong), frozen), after
