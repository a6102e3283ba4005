"""A camera's profile on the robot: read once at the start, and the watch over whether the camera still stands there.

The capture process applies the profile before the preprocessing, in one remap (`capture.process`); what leaves the
robot is rectified the same way (`Camera.rectified`). The view is compared in a thread of its own, one picture at a time
and no more often than `moved_check_s`, so that counting never waits for it.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bundle.camera import read_profile
from bundle.errors import ConfigError, InputError
from bundle.moved import MovedDetector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from bundle.camera import CameraProfile
    from bundle.moved import Motion
    from edge_agent.capture.camera import Camera
    from edge_agent.config import CameraSection

_LOG = logging.getLogger(__name__)

_NO_FINDING = (cv2.error, np.linalg.LinAlgError, InputError, MemoryError)
"""What comparing two views can end with: the next look finds out more, and counting goes on."""


def load_profile(section: CameraSection) -> CameraProfile | None:
    """Read the profile that a camera's section names.

    Args:
        section: Of the configuration.

    Returns:
        The profile; None when none is named.

    Raises:
        ConfigError: The file cannot be read, is no profile, is another camera's, or nobody has signed it off.
    """
    if section.profile is None:
        return None
    profile = read_profile(section.profile)
    if profile.camera != section.name:
        raise ConfigError(
            f"cameras.profile {section.profile} is another camera's",
            got=profile.camera,
            expected=section.name,
            fix="Name the right file; `bintally calibrate camera --name` says whose a profile is.",
        )
    if profile.signed_off is None:
        raise ConfigError(
            f"cameras.profile {section.profile} is not signed off",
            fix="Look at its preview, then run `bintally calibrate camera` again with --sign-off NAME.",
        )
    return profile


@dataclass(slots=True)
class _Watched:
    detector: MovedDetector
    every_s: float
    due_s: float
    check: Future[Motion | None] | None = None
    words: str = ""


class MovedWatch:
    """Compares what cameras see with the reference views of their profiles. Belongs to one thread.

    Args:
        cameras: Settings and sources, by name; those without a profile that has a view are not watched.
        clock: Monotonic seconds.
    """

    def __init__(
        self, cameras: Mapping[str, tuple[CameraSection, Camera]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._watched = {
            name: _Watched(MovedDetector(profile, profile.view), section.moved_check_s, clock())
            for name, (section, camera) in cameras.items()
            if (profile := camera.profile) is not None and profile.view is not None
        }
        self._thread = ThreadPoolExecutor(1, "moved") if self._watched else None

    def visit(self, camera: str, image_bgr: NDArray[np.uint8]) -> None:
        """Look at a usable frame of a visit, if a look is due and none is under way.

        Args:
            camera: Its name.
            image_bgr: uint8, (H, W, 3), BGR, as the camera gave it; copied when it is looked at.
        """
        watched = self._watched.get(camera)
        if watched is None or self._thread is None:
            return
        _take_result(camera, watched)
        if watched.check is None and self._clock() >= watched.due_s:
            watched.due_s = self._clock() + watched.every_s
            watched.check = self._thread.submit(watched.detector.update, image_bgr.copy())

    def moved(self, camera: str) -> str:
        """Where a camera points now.

        Args:
            camera: Its name.

        Returns:
            By how much it has moved, in words; empty when it stands where it stood, or is not watched.
        """
        watched = self._watched.get(camera)
        return "" if watched is None else watched.words

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)


def _take_result(camera: str, watched: _Watched) -> None:
    if watched.check is None or not watched.check.done():
        return
    check, watched.check = watched.check, None
    try:
        motion = check.result()
    except _NO_FINDING as exc:
        _LOG.warning("camera %s: whether it still stands there could not be seen: %r", camera, exc)
        return
    if motion is not None:
        x, y = motion.shift_px
        watched.words = f"by {x:+.0f},{y:+.0f} pixels, turned by {motion.turn_deg:+.1f} degrees"
    elif not watched.detector.moved:
        watched.words = ""
