"""Is the image of a visit worth a human's look, and may it leave the robot?

Pure: values in, values out. The verdict against the record is `bundle.verdict`, the same for robot and cloud.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bundle.counter import Count
    from edge_agent.config import QuotaSection

_HOUR_S = 3600.0
_DAY_S = 86_400.0


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


def reason_to_upload(count: Count, *, audit_share: float, draw: float) -> Literal["unsure", "audit"] | None:
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
        now_s: Monotonic seconds: a jump of the wall clock neither opens nor shuts the gate.

    Returns:
        Whether it may go, and the budget after it.
    """
    hour, day = int(now_s // _HOUR_S), int(now_s // _DAY_S)
    in_hour = budget.images_in_hour if hour == budget.hour else 0
    in_day, bytes_in_day = (budget.images_in_day, budget.bytes_in_day) if day == budget.day else (0, 0)
    fits = (
        in_hour < quota.images_per_hour and in_day < quota.images_per_day and bytes_in_day + size <= quota.bytes_per_day
    )
    used = int(fits)
    return fits, UploadBudget(hour, day, in_hour + used, in_day + used, bytes_in_day + used * size)
