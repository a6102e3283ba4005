"""Is the image of a visit worth a human's look, and may it leave the robot?

Pure: values in, values out. The verdict against the record is `bundle.verdict`, the same for robot and cloud.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bundle.counter import Count
    from edge_agent.config import QuotaSection

_HOUR_S = 3600.0
_DAY_S = 86_400.0
MAX_BINS = 20_000
"""Bins whose images are counted."""
_RESCAN_AGAIN_S = 3600.0

UploadReason = Literal["unsure", "audit"]


@dataclass(frozen=True, slots=True)
class UploadBudget:
    """What was let through in the current hour and day, of agent running time.

    Attributes:
        hour: Number of the hour.
        day: Number of the day.
        images_in_hour: Let through.
        images_in_day: Let through.
        bytes_in_day: Let through.
    """

    hour: int = 0
    day: int = 0
    images_in_hour: int = 0
    images_in_day: int = 0
    bytes_in_day: int = 0

    def within(self, now_s: float) -> UploadBudget:
        """The budget as far as it can be true.

        Args:
            now_s: Agent running time; after a kill it goes on from up to a minute before.

        Returns:
            The same; an hour or a day that is far ahead, which only a damaged file tells, is taken for this one.
        """
        hour, day = int(now_s // _HOUR_S) + 1, int(now_s // _DAY_S) + 1
        return replace(self, hour=min(self.hour, hour), day=min(self.day, day))


class BinTally:
    """Images of each bin in the current day, in bounded memory: the bin that was longest without one is forgotten.

    Args:
        day: Number of the day that `images` belong to.
        images: Let through on that day, by bin.
    """

    def __init__(self, day: int = 0, images: Mapping[str, int] = MappingProxyType({})) -> None:
        self._day = day
        self._images = dict(images)

    def admit(self, bin_id: str, most: int | None, now_s: float) -> bool:
        """Ask whether another image of a bin may go, and count it.

        Args:
            bin_id: Which bin.
            most: Images a day; None is no bound.
            now_s: Agent running time, seconds.

        Returns:
            Whether it may.
        """
        if most is None:
            return True
        day = max(self._day, int(now_s // _DAY_S))
        if day != self._day:
            self._day, self._images = day, {}
        used = self._images.pop(bin_id, 0)
        fits = used < most
        self._images[bin_id] = used + fits
        if len(self._images) > MAX_BINS:
            del self._images[next(iter(self._images))]
        return fits


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


def reason_to_upload(count: Count, *, audit_share: float, draw: float) -> UploadReason | None:
    """Decide whether a visit's image should leave the robot.

    Args:
        count: Of the visit.
        audit_share: Share of confident visits to sample, 0..1.
        draw: A uniform random number of this visit, 0 <= draw < 1.

    Returns:
        Why, or None.
    """
    if not count.confident:
        return "unsure"
    return "audit" if draw < audit_share else None


def admit(budget: UploadBudget, quota: QuotaSection, *, size: int, now_s: float) -> tuple[bool, UploadBudget]:
    """Ask whether an image fits the quota.

    Args:
        budget: What was let through so far.
        quota: From the configuration.
        size: Of the image, bytes.
        now_s: Agent running time, seconds: a jump of the wall clock neither opens nor shuts the gate.

    Returns:
        Whether it may go, and the budget after it.
    """
    # After a kill the running time may go back a little: what was let through then still counts.
    hour, day = max(budget.hour, int(now_s // _HOUR_S)), max(budget.day, int(now_s // _DAY_S))
    in_hour = budget.images_in_hour if hour == budget.hour else 0
    in_day, bytes_in_day = (budget.images_in_day, budget.bytes_in_day) if day == budget.day else (0, 0)
    fits = (
        in_hour < quota.images_per_hour and in_day < quota.images_per_day and bytes_in_day + size <= quota.bytes_per_day
    )
    used = int(fits)
    return fits, UploadBudget(hour, day, in_hour + used, in_day + used, bytes_in_day + used * size)
