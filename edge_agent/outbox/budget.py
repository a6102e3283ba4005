"""How many images may leave the robot: per hour, per day, in bytes, per bin. Pure but for the tally's own memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_agent.config import QuotaSection

_HOUR_S = 3600.0
_DAY_S = 86_400.0
MAX_BINS = 20_000
"""Bins whose images are counted."""


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
