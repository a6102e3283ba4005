"""What the outbox's SQLite file consists of, and how it is opened.

Invariants:
- `max_page_count` bounds the file; deleting still works at the bound.
- Tables that came later are made where an older version's file lacks them.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from edge_agent.outbox.command_table import SCHEMA as COMMAND_SCHEMA
from edge_agent.outbox.quota import SCHEMA as QUOTA_SCHEMA
from edge_agent.outbox.salvage_table import SCHEMA as SALVAGE_SCHEMA

if TYPE_CHECKING:
    from pathlib import Path

APPLICATION_ID = 0x62696E74  # "bint"
FORMAT = 1
PAGE_BYTES = 4096
LOG_BYTES = 2 << 20
"""The log is folded into the file long before it is so large, and cut back to it when it was larger."""
_WAL_RESERVE_BYTES = 4 << 20
_CHECKPOINT_PAGES = 400
"""Rarely: the one count in hundreds that has to wait for it is above the 99th percentile."""
_SCHEMA = """
CREATE TABLE message (
    id INTEGER PRIMARY KEY, event_id TEXT NOT NULL, kind TEXT NOT NULL, topic TEXT NOT NULL, retained_topic TEXT,
    payload BLOB NOT NULL, created_up_s REAL NOT NULL, checksum BLOB NOT NULL
);
CREATE TABLE image (
    id INTEGER PRIMARY KEY, event_id TEXT NOT NULL, key TEXT NOT NULL, size INTEGER NOT NULL, sidecar BLOB NOT NULL,
    created_up_s REAL NOT NULL, checksum BLOB NOT NULL
);
CREATE TABLE dead (
    id INTEGER PRIMARY KEY, event_id TEXT NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL, reason TEXT NOT NULL
);
CREATE TABLE tally (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
"""
_LATER = COMMAND_SCHEMA + QUOTA_SCHEMA + SALVAGE_SCHEMA
_PRAGMAS = (
    f"page_size={PAGE_BYTES}",
    "auto_vacuum=INCREMENTAL",
    "journal_mode=WAL",
    "synchronous=FULL",
    f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
    f"journal_size_limit={LOG_BYTES}",
    "trusted_schema=OFF",
    "cell_size_check=ON",
    "mmap_size=0",
    "temp_store=MEMORY",
)


def open_database(path: Path, max_bytes: int) -> sqlite3.Connection:
    """Open the file, and make what it lacks.

    Args:
        path: Created when missing.
        max_bytes: Bound of the file and its log.

    Returns:
        The connection, which any one thread may use.

    Raises:
        sqlite3.Error: The disk refuses, or the file is damaged.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            marks = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={FORMAT};"
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {marks} COMMIT;")
        connection.executescript(f"BEGIN IMMEDIATE; {_LATER} COMMIT;")
        # After the tables: an older version's file may stand at its bound and lack one of them.
        bound = max(64, (max_bytes - _WAL_RESERVE_BYTES) // PAGE_BYTES)
        connection.execute(f"PRAGMA max_page_count={bound}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
