"""Is the image of a visit worth a human's look, and is the bin worth another?

What the quotas say to it is `budget`; the verdict against the record is `bundle.verdict`, the same for robot and cloud.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bundle.counter import Count
    from bundle.verdict import VerdictWord

_RESCAN_AGAIN_S = 3600.0

UploadReason = Literal["unsure", "audit", "mismatch"]


class Rescans:
    """Which bins a camera has asked another look at, in the last hour."""

    def __init__(self) -> None:
        self._asked: dict[str, float] = {}

    def admit(self, bin_id: str, most: int, now_s: float) -> bool:
        """Ask whether another look may be asked for, and count it.

        Args:
            bin_id: Which bin.
            most: An hour, all bins together.
            now_s: Monotonic seconds.

        Returns:
            Whether it may; a bin is asked for once an hour.
        """
        self._asked = {name: at_s for name, at_s in self._asked.items() if now_s - at_s < _RESCAN_AGAIN_S}
        fits = bin_id not in self._asked and len(self._asked) < most
        if fits:
            self._asked[bin_id] = now_s
        return fits


def reason_to_upload(
    count: Count, *, audit_share: float, draw: float, verdict: VerdictWord | None = None
) -> UploadReason | None:
    """Decide whether a visit's image should leave the robot.

    Args:
        count: Of the visit.
        audit_share: Share of confident visits to sample, 0..1.
        draw: A uniform random number of this visit, 0 <= draw < 1.
        verdict: Against the record, if there is one.

    Returns:
        Why, or None.
    """
    if not count.confident:
        return "unsure"
    if draw < audit_share:
        return "audit"  # asked first: the sample says nothing unless every sure visit may be in it
    return "mismatch" if verdict in ("short", "over") else None
