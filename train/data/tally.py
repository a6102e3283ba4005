"""What a download amounts to: totals while it runs, lists that are left in the folder, a summary at the end."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bundle.errors import BintallyError, DeliveryError
from train.data.listed import Listed, write_listed

if TYPE_CHECKING:
    from pathlib import Path

MISSING_NAME = "missing.jsonl"
REMARKS_NAME = "remarks.jsonl"
_FAILURES_IN_A_ROW = 20


@dataclass(frozen=True, slots=True)
class Photo:
    """What came of one wanted photo and its record.

    Attributes:
        count: Items in the bin.
        fetched: How many of the two objects were fetched.
        present: How many were there already.
        bytes: Bytes fetched.
        problem: Why the photo could not be fetched, or None.
    """

    count: int
    fetched: int
    present: int
    bytes: int
    problem: Listed | None


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What a run did.

    Attributes:
        photos: Wanted photos that are there now, with their records.
        fetched: Objects that this run fetched.
        present: Objects that were there already.
        bytes: Bytes that this run fetched.
        looked_up: Photos whose record was read and that were not wanted.
        by_count: Photos that are there now, by count.
        missing: What could not be fetched.
        remarks: Records that contradict the list they were chosen from.
        seconds: Time taken.
    """

    photos: int
    fetched: int
    present: int
    bytes: int
    looked_up: int
    by_count: dict[int, int]
    missing: tuple[Listed, ...]
    remarks: tuple[Listed, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the summary for programs.

        Returns:
            Numbers; `missing` and `remarks` as numbers too, their lists lie in the folder.
        """
        return {
            "photos": self.photos,
            "fetched": self.fetched,
            "present": self.present,
            "bytes": self.bytes,
            "looked_up": self.looked_up,
            "by_count": {str(count): number for count, number in sorted(self.by_count.items())},
            "missing": len(self.missing),
            "remarks": len(self.remarks),
            "seconds": round(self.seconds, 3),
        }


class Tally:
    """Totals and lists of a download. Not safe for threads: the one that decides keeps it."""

    def __init__(self) -> None:
        self.photos = self.fetched = self.present = self.bytes = self.looked_up = 0
        self._by_count: dict[int, int] = {}
        self._missing: list[Listed] = []
        self._remarks: list[Listed] = []
        self._failures_in_a_row = 0

    def worked(self) -> None:
        """Note that an object arrived: the failures before it were not the endpoint's end."""
        self._failures_in_a_row = 0

    def failed(self, problem: Listed) -> None:
        """Note an object that could not be fetched.

        Args:
            problem: The object and why.

        Raises:
            DeliveryError: It was one of too many in a row.
        """
        self._missing.append(problem)
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= _FAILURES_IN_A_ROW:
            raise DeliveryError(
                f"{self._failures_in_a_row} objects in a row could not be fetched, the last one {problem.name}",
                got=problem.reason,
                fix="Check the bucket, the endpoint and the network, then run the same command again.",
            )

    def arrived(self, photo: Photo) -> None:
        """Note what came of a wanted photo.

        Args:
            photo: What came of it.

        Raises:
            DeliveryError: It failed, as too many in a row before it.
        """
        self.fetched += photo.fetched
        self.present += photo.present
        self.bytes += photo.bytes
        if photo.problem is not None:
            self.failed(photo.problem)
            return
        self.worked()
        self.photos += 1
        self._by_count[photo.count] = self._by_count.get(photo.count, 0) + 1

    def remark(self, remark: Listed) -> None:
        """Note a record that contradicts the list it was chosen from.

        Args:
            remark: The record and how.
        """
        self._remarks.append(remark)

    def write_lists(self, out: Path) -> None:
        """Say in the folder what is missing, also when the work was broken off.

        Args:
            out: The folder that is downloaded into.
        """
        # A disk too full for the lists is too full for photos as well: that error is on its way already.
        with suppress(BintallyError):
            write_listed(out / MISSING_NAME, self._missing)
            write_listed(out / REMARKS_NAME, self._remarks)

    def summary(self, seconds: float) -> Downloaded:
        """Sum up.

        Args:
            seconds: Time taken.

        Returns:
            What was done.
        """
        return Downloaded(
            photos=self.photos,
            fetched=self.fetched,
            present=self.present,
            bytes=self.bytes,
            looked_up=self.looked_up,
            by_count=self._by_count,
            missing=tuple(self._missing),
            remarks=tuple(self._remarks),
            seconds=seconds,
        )
