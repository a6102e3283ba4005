"""Rescues that are cut short: nothing newer is dropped for them, and nothing that waits is taken for finished."""

from __future__ import annotations

import errno
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from edge_agent.assemble import assemble
from edge_agent.config import StateSection
from edge_agent.outbox.damaged_file import DamagedFile
from edge_agent.outbox.file import OutboxFile, StoreFullError
from edge_agent.outbox.ledger import Ledger
from edge_agent.outbox.quarantine import Quarantine
from edge_agent.outbox.rescue import open_outbox
from edge_agent.outbox.salvage import Salvage
from edge_agent.outbox.spool import Spool
from tests.edge_agent.running import config_text, load_text, write_photos
from tests.edge_agent.test_outbox import entry, event_ids, ledger_in
from tests.simulators.broker import Script, ScriptedBroker

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 16 << 20


def leave_damaged(folder: Path, numbers: range, *, size: int = 300) -> None:
    """Add counts to an outbox, and destroy its header."""
    with ledger_in(folder) as ledger:
        ledger.commit([entry(number, size=size) for number in numbers], [])
    destroy_header(folder)


def destroy_header(folder: Path) -> None:
    with (folder / "outbox.db").open("r+b") as file:
        file.write(bytes(100))


def no_room(*_: object) -> None:
    raise StoreFullError("the disk is nearly full")


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


def test_rescue_that_had_to_wait_repeats_nothing_delivered_and_counts_what_it_drops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([entry(number) for number in range(20)], [])
        ledger.file._connection.execute("UPDATE message SET payload = 'another' WHERE id = 20")
        for number in range(5):
            ledger.receipts.note(f"event-{number:06d}")  # and killed before their removal
    destroy_header(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Salvage, "_require_room", no_room)
        for _ in range(2):
            with ledger_in(tmp_path) as ledger:
                assert ledger.rescue_waits
    waiting = OutboxFile(tmp_path / "outbox.db", _MAX_BYTES)
    with closing(Ledger(waiting, Spool(tmp_path / "images"), StateSection(path=tmp_path))) as ledger:
        ledger.keep_house()
        assert not ledger.rescue_waits
        assert event_ids(ledger) == [f"event-{number:06d}" for number in range(5, 19)]
        assert ledger.numbers.drops == {"messages_damaged": 1}
    with ledger_in(tmp_path) as ledger:
        assert ledger.numbers.drops == {"messages_damaged": 1}


class SickDisk:
    """A database whose disk gives some rows back, and others not."""

    def __init__(self, connection: sqlite3.Connection, bad: range) -> None:
        self._connection = connection
        self._bad = bad

    def execute(self, query: str, arguments: tuple[int, ...] = ()) -> sqlite3.Cursor:
        if arguments and self._bad.start <= arguments[0] < self._bad.stop:
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(query, arguments)

    def close(self) -> None:
        self._connection.close()


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


def test_rescue_takes_what_lies_before_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([entry(1, image=b"picture")], [])
    leave_damaged(tmp_path, range(10, 20))
    real = DamagedFile.__init__

    def on_sick_disk(self: DamagedFile, path: Path) -> None:
        real(self, path)
        self.connection = SickDisk(self.connection, range(5, 1 << 62))  # type: ignore[assignment]  # the fault

    monkeypatch.setattr(DamagedFile, "__init__", on_sick_disk)
    file, rescue = open_outbox(tmp_path / "outbox.db", _MAX_BYTES)
    file.close()
    assert rescue is not None
    assert (rescue.saved, rescue.stopped) == (6, "disk I/O error")


def test_agent_says_in_its_status_that_rows_of_a_damaged_outbox_wait(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    leave_damaged(state, range(20))
    monkeypatch.setattr(Salvage, "_require_room", no_room)
    photos = write_photos(tmp_path / "photos", [1, 2])
    with ScriptedBroker(Script()) as broker:
        agent = assemble(
            load_text(tmp_path, config_text(bundle=tiny_bundle, source=photos, state=state, port=broker.port))
        )
        assert agent.run()["delivered"] == 2
    assert agent.parts.alarms.reasons == ("outbox: rows of a damaged file wait in quarantine",)
