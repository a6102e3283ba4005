"""Rescues that are cut short: nothing newer is dropped for them, and nothing that waits is taken for finished."""

from __future__ import annotations

import errno
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from edge_agent.outbox.damaged_file import DamagedFile
from edge_agent.outbox.quarantine import Quarantine
from edge_agent.outbox.rescue import open_outbox
from tests.edge_agent.test_outbox import entry, ledger_in

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 16 << 20


def leave_damaged(folder: Path, numbers: range, *, size: int = 300) -> None:
    """Add counts to an outbox, and destroy its header."""
    with ledger_in(folder) as ledger:
        ledger.commit([entry(number, size=size) for number in numbers], [])
    with (folder / "outbox.db").open("r+b") as file:
        file.write(bytes(100))


def test_rescue_that_the_disk_refuses_evicts_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(Quarantine, "finish", broken)
    leave_damaged(tmp_path, range(3))
    with ledger_in(tmp_path) as ledger:
        _, images = ledger.commit([entry(number, image=b"picture") for number in range(10, 40)], [])
        for _ in range(3):
            ledger.keep_house()
        assert ledger.numbers.images == len(images) == 30


def test_rescue_leaves_room_for_new_counts_beside_the_old_ones(tmp_path: Path) -> None:
    leave_damaged(tmp_path, range(7_000), size=1000)
    with ledger_in(tmp_path) as ledger:
        assert 1_000 < ledger.numbers.messages < 7_000
        ledger.commit([entry(number, size=1000) for number in range(10_000, 10_300)], [])
        assert not ledger.numbers.drops


def test_quarantine_with_a_clock_that_went_back_keeps_what_was_put_away_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = tmp_path / "outbox.db"
    quarantine = Quarantine(outbox)
    outbox.write_bytes(b"older")
    quarantine.take()
    monkeypatch.setattr(time, "time_ns", lambda: 3_000_000_000)  # 1970: a boot without a battery
    outbox.write_bytes(b"newer")
    newest = quarantine.take()
    assert quarantine.bound(0) == 1
    assert quarantine.unfinished == [newest]


def test_evicted_images_that_are_damaged_are_counted_out(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([entry(1, image=b"one"), entry(2, image=b"two")], [])
        ledger.file._connection.execute("UPDATE image SET key = 'another' WHERE id = 1")
        assert ledger.stock.evict_images()
        assert ledger.numbers.images == 0
        assert ledger.numbers.drops == {"images_damaged": 1, "images_evicted": 1}


def lock(file: Path) -> sqlite3.Connection:
    """Open a database so that nobody else can read it."""
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN IMMEDIATE")
    return other


def test_rescue_of_a_file_that_another_process_locks_waits_for_it(tmp_path: Path) -> None:
    leave_damaged(tmp_path, range(20))
    path = tmp_path / "outbox.db"
    with closing(DamagedFile(path)):  # its header is mended
        pass
    with closing(lock(Quarantine(path).take() / path.name)):
        file, rescue = open_outbox(path, _MAX_BYTES)
        file.close()
        assert rescue is not None
        assert (rescue.saved, rescue.stopped) == (0, "database is locked")
    file, rescue = open_outbox(path, _MAX_BYTES)
    file.close()
    assert rescue is not None
    assert (rescue.saved, rescue.stopped) == (20, "")


def test_rescue_of_a_file_that_another_process_reads_waits_for_nobody(tmp_path: Path) -> None:
    leave_damaged(tmp_path, range(20))
    path = tmp_path / "outbox.db"
    with closing(DamagedFile(path)) as reader:
        assert reader.connection.execute("SELECT count(*) FROM message").fetchone() == (20,)
        file, rescue = open_outbox(path, _MAX_BYTES)
        file.close()
    assert rescue is not None
    assert (rescue.saved, rescue.stopped) == (20, "")


class SickDisk:
    """A database whose disk gives some rows back, and others not."""

    def __init__(self, connection: sqlite3.Connection, bad: range) -> None:
        self._connection = connection
        self._bad = bad

    def execute(self, query: str, arguments: tuple[int, ...] = ()) -> sqlite3.Cursor:
        if arguments and self._bad.start <= arguments[0] < self._bad.stop:
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(query, arguments)


def test_damaged_file_with_a_bad_sector_is_read_behind_it_and_one_without_its_disk_does_not_end(tmp_path: Path) -> None:
    leave_damaged(tmp_path, range(20))
    with closing(DamagedFile(tmp_path / "outbox.db")) as damaged:
        whole = damaged.connection
        damaged.connection = SickDisk(whole, range(5, 10))  # type: ignore[assignment]  # the fault that is injected
        assert [row[0] for row in damaged.rows("message", "id", 0)] == [*range(1, 6), *range(11, 21)]
        damaged.connection = SickDisk(whole, range(5, 1 << 62))  # type: ignore[assignment]  # the fault that is injected
        with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
            list(damaged.rows("message", "id", 0))
        damaged.connection = whole
