"""How far the rows of damaged outboxes were taken over; on the outbox's own connection, in the same transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

SCHEMA = """
CREATE TABLE IF NOT EXISTS salvage (
    folder TEXT NOT NULL, part TEXT NOT NULL, reached INTEGER NOT NULL, PRIMARY KEY (folder, part)
) WITHOUT ROWID;
"""


class SalvageTable:
    """The record. Every method that writes is called inside a transaction.

    Args:
        connection: The outbox's.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def reached(self, folder: str, part: str) -> int | None:
        """Id of the last row that was looked at.

        Args:
            folder: Name in the quarantine.
            part: "command", "image" or "message".

        Returns:
            The id in the damaged file, None before the first one.
        """
        query = "SELECT reached FROM salvage WHERE folder = ? AND part = ?"
        row = self._connection.execute(query, (folder, part)).fetchone()
        return None if row is None else int(row[0])

    def note(self, folder: str, part: str, reached: int) -> None:
        """Note how far it came; see `reached`."""
        self._connection.execute("INSERT OR REPLACE INTO salvage VALUES (?, ?, ?)", (folder, part, reached))

    def forget(self, folder: str) -> None:
        """Forget a folder that is finished."""
        self._connection.execute("DELETE FROM salvage WHERE folder = ?", (folder,))
