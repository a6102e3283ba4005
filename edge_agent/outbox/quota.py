"""How many images may leave the robot, also across restarts: what was let through is stored with each image.

Hours and days are those of the agent's running time: a jump of the wall clock neither opens nor shuts the gate, and a
restart does not open it. The numbers go into the transaction that stores the image, so they cost no fsync of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_agent.outbox.budget import MAX_BINS, BinTally, UploadBudget, admit

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from edge_agent.config import QuotaSection

SCHEMA = """
CREATE TABLE IF NOT EXISTS quota (
    scope TEXT PRIMARY KEY, number INTEGER NOT NULL, images INTEGER NOT NULL, bytes INTEGER NOT NULL
) WITHOUT ROWID;
"""
_HOUR, _DAY, _BIN = "hour", "day", "bin:"
_ADD = """
INSERT INTO quota VALUES (?, ?, 1, ?) ON CONFLICT (scope) DO UPDATE SET
    images = 1 + CASE WHEN number = excluded.number THEN images ELSE 0 END,
    bytes = excluded.bytes + CASE WHEN number = excluded.number THEN bytes ELSE 0 END,
    number = excluded.number
"""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one image takes from the quotas.

    Attributes:
        hour: Of running time.
        day: Of running time.
        bin_id: Whose quota it takes from; None when bins have none.
    """

    hour: int
    day: int
    bin_id: str | None


@dataclass(frozen=True, slots=True)
class Stored:
    """What was let through before this start.

    Attributes:
        budget: In the hour and the day that were the last.
        bins: Images of each bin in that day.
    """

    budget: UploadBudget = field(default_factory=UploadBudget)
    bins: dict[str, int] = field(default_factory=dict)


class QuotaTable:
    """What was let through, in the outbox's file. Every method that writes is called inside a transaction.

    Args:
        connection: The outbox's.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def put(self, spent: Spent, size: int) -> None:
        """Store what an image takes.

        Args:
            spent: From `Quota.admit`.
            size: Of the image, bytes.
        """
        rows = [(_HOUR, spent.hour, size), (_DAY, spent.day, size)]
        if spent.bin_id is not None:
            rows.append((_BIN + spent.bin_id, spent.day, size))
        self._connection.executemany(_ADD, rows)

    def forget(self) -> None:
        """Remove bins that had no image in the last day."""
        self._connection.execute(
            "DELETE FROM quota WHERE scope LIKE 'bin:%' AND number < (SELECT number FROM quota WHERE scope = ?)",
            (_DAY,),
        )

    def stored(self) -> Stored:
        """Read everything, at the start; the bins only of the last day."""
        rows = self._connection.execute("SELECT number, images, bytes FROM quota WHERE scope = ?", (_HOUR,))
        hour, in_hour, _ = rows.fetchone() or (0, 0, 0)
        rows = self._connection.execute("SELECT number, images, bytes FROM quota WHERE scope = ?", (_DAY,))
        day, in_day, bytes_in_day = rows.fetchone() or (0, 0, 0)
        bins = self._connection.execute(
            "SELECT scope, images FROM quota WHERE scope LIKE 'bin:%' AND number = ? LIMIT ?", (day, MAX_BINS)
        )
        counted = {str(scope).removeprefix(_BIN): int(images) for scope, images in bins}
        return Stored(UploadBudget(int(hour), int(day), int(in_hour), int(in_day), int(bytes_in_day)), counted)


class Quota:
    """Says of each image whether it may leave the robot. Belongs to the frame path's thread.

    Args:
        stored: From the outbox's file.
        running_s: Agent running time, seconds.
    """

    def __init__(self, stored: Stored, running_s: Callable[[], float]) -> None:
        self._running_s = running_s
        self._budget = stored.budget.within(running_s())
        self._bins = BinTally(self._budget.day, stored.bins)

    def admit(self, bin_id: str, size: int, limits: QuotaSection) -> Spent | None:
        """Ask for one image.

        Args:
            bin_id: Whose picture it is.
            size: Of the image file, bytes.
            limits: From the configuration.

        Returns:
            What it takes, to be stored with it; None when it may not leave the robot.
        """
        now_s, per_bin = self._running_s(), limits.images_per_bin_per_day
        fits, budget = admit(self._budget, limits, size=size, now_s=now_s)
        if not fits or not self._bins.admit(bin_id, per_bin, now_s):
            return None
        self._budget = budget
        return Spent(budget.hour, budget.day, None if per_bin is None else bin_id)
