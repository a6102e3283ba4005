"""Was the robot carried on between two frames of a camera? A pure decision over the stamps of frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_agent.capture.frames import FrameMessage

_SUSPENDED_S = 1.0
"""A machine that slept for so long may stand elsewhere; less is the noise of two clocks, read one after the other."""


class Continuity:
    """Follows the frames of one camera.

    Args:
        allowed_s: Time that a working camera may let pass between two frames.
    """

    def __init__(self, allowed_s: float) -> None:
        self._allowed_s = allowed_s
        self._captured_s = self._slept_s = 0.0

    def broken_before(self, message: FrameMessage) -> bool:
        """Take the next frame.

        Args:
            message: Of the frame.

        Returns:
            Between it and the one before lies more time than a working camera ever lets pass, or the machine was
            suspended, while the monotonic clock stands still.
        """
        gone_s, suspended_s = message.captured_mono_s - self._captured_s, message.slept_s - self._slept_s
        self._captured_s, self._slept_s = message.captured_mono_s, message.slept_s
        return gone_s > self._allowed_s or suspended_s > _SUSPENDED_S
