"""Which picture of a visit leaves the robot, and in which form: chosen, blurred, bounded by the quotas."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from bundle.images import encode_jpeg
from edge_agent.visits import decide
from edge_agent.visits.privacy import blur_outside
from edge_agent.visits.view import Best

if TYPE_CHECKING:
    from bundle.counter import Count
    from bundle.verdict import VerdictWord
    from edge_agent.capture.camera import Camera
    from edge_agent.capture.frames import Frame
    from edge_agent.config import UploadsSection
    from edge_agent.health.telemetry import Telemetry
    from edge_agent.outbox.quota import Quota, Spent
    from edge_agent.visits.view import View

_MAX_ORIGINAL_BYTES = 8 << 20
"""Larger photo files are uploaded as a JPEG of their pixels."""


class Evidence:
    """Pictures for a human to look at. Belongs to the frame path's thread.

    Args:
        settings: Which images leave the robot.
        prefix: Of object keys; None when there is nowhere to upload to.
        telemetry: Counts what the quotas keep back.
        quota: How many images may leave the robot.
        rng: Draws the audit sample.

    Attributes:
        settings: Which images leave the robot, from the next visit on.
        prefix: As given.
    """

    def __init__(
        self,
        settings: UploadsSection,
        prefix: str | None,
        telemetry: Telemetry,
        quota: Quota,
        rng: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self.prefix = prefix
        self._telemetry = telemetry
        self._rng = rng or random.Random()  # noqa: S311 - a sample, not a secret
        self._quota = quota

    def encoded(self, camera: Camera, frame: Frame) -> bytes:
        """A frame as a file: as it came, or as JPEG.

        Args:
            camera: Where it came from.
            frame: The frame.

        Returns:
            A whole image file.
        """
        return camera.encoded(frame) or encode_jpeg(camera.rectified(frame.image_bgr), self.settings.jpeg_quality)

    def keep_best(self, view: View, camera: Camera, frame: Frame) -> None:
        """Copy the frame when it is the sharpest so far: its memory goes back to the capture process.

        Args:
            view: With an open visit.
            camera: Where it came from.
            frame: A usable frame.
        """
        sharpness = frame.message.stats.sharpness
        if self.prefix is None or (view.best is not None and view.best.sharpness >= sharpness):
            return
        view.best = Best(sharpness, camera.rectified(frame.image_bgr).copy(), camera.encoded(frame))

    def choose(
        self,
        count: Count,
        verdict: VerdictWord | None,
        view: View,
        best: Best | None,
        last: tuple[Camera, Frame] | None,
    ) -> tuple[decide.UploadReason, bytes] | None:
        """Choose the picture of a visit that is worth a human's look.

        Args:
            count: Of the visit.
            verdict: Against the record, if there is one.
            view: Of its camera.
            best: Its sharpest frame before the last.
            last: Its last frame, if that was usable.

        Returns:
            Why, and the image file; None when no picture leaves the robot.
        """
        why = decide.reason_to_upload(
            count, audit_share=self.settings.audit_share, draw=self._rng.random(), verdict=verdict
        )
        if why is None or self.prefix is None:
            return None
        if last is not None and (best is None or last[1].message.stats.sharpness > best.sharpness):
            camera, frame = last
            best = Best(frame.message.stats.sharpness, camera.rectified(frame.image_bgr), camera.encoded(frame))
        return None if best is None else (why, self._shown(view, best))

    def _shown(self, view: View, best: Best) -> bytes:
        """The photo as it was, or as JPEG, or with what lies outside the bin blurred."""
        if self.settings.blur_outside:
            pixels = blur_outside(best.image_bgr, view.settings.region or ())
            return encode_jpeg(pixels, self.settings.jpeg_quality)
        if not 0 < len(best.encoded) <= _MAX_ORIGINAL_BYTES:
            return encode_jpeg(best.image_bgr, self.settings.jpeg_quality)
        return best.encoded

    def admit(self, bin_id: str, size: int) -> Spent | None:
        """Ask the quotas for one image.

        Args:
            bin_id: Whose picture it is.
            size: Of the image file, bytes.

        Returns:
            What it takes from them, to be stored with it; None when it may not leave the robot.
        """
        spent = self._quota.admit(bin_id, size, self.settings.quota)
        if spent is None:
            self._telemetry.count("images_over_quota")
        return spent
