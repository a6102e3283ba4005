from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from bundle.errors import ConfigError, DeliveryError
from edge_agent.config import StateSection
from edge_agent.outbox.file import OutboxFile, StoreFullError
from edge_agent.outbox.ledger import Ledger
from edge_agent.outbox.outbox import Outbox
from edge_agent.outbox.rescue import open_outbox
from edge_agent.outbox.rows import Entry, ImageEntry, StoredMessage
from edge_agent.outbox.spool import Spool
from tests.edge_agent.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


def entry(number: int, *, kind: str = "count", image: bytes | None = None, size: int = 300) -> Entry:
    return Entry(
        event_id=f"event-{number:06d}",
        kind="event" if kind == "event" else "count",
        topic="t/count",
        payload=b"x" * size,
        retained_topic="t/bin/1",
        image=None if image is None else ImageEntry(f"p/{number}.jpg", image, b"{}"),
        captured_mono_s=0.0,
    )


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def open_ledger(
    folder: Path, clock: Callable[[], float] | None = None, max_bytes: int = 16 << 20, max_age_s: float = 3600
) -> Ledger:
    file, _ = open_outbox(folder / "outbox.db", max_bytes)
    limits = StateSection(path=folder, max_bytes=max_bytes, max_age_s=max_age_s)
    spool = Spool(folder / "images")
    return Ledger(file, spool, limits, clock) if clock else Ledger(file, spool, limits)


@contextmanager
def ledger_in(folder: Path, clock: Callable[[], float] | None = None, max_bytes: int = 16 << 20) -> Iterator[Ledger]:
    ledger = open_ledger(folder, clock, max_bytes)
    try:
        yield ledger
    finally:
        ledger.close()


def take_all(outbox: Outbox, count: int) -> list[StoredMessage]:
    """Take so many messages from the lane, as the delivery thread does."""
    taken: list[StoredMessage] = []

    def enough() -> bool:
        taken.extend(outbox.messages.take(50))
        return len(taken) >= count

    wait_until(enough)
    return taken


def event_ids(ledger: Ledger) -> list[str]:
    return [row.event_id for row in ledger.file.messages(0, 100_000).rows]


def test_ledger_commit_survives_reopening_in_order(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([entry(1), entry(2, image=b"picture")], [])
        ledger.commit([entry(3)], [1])
    with ledger_in(tmp_path) as again:
        assert event_ids(again) == ["event-000002", "event-000003"]
        assert again.numbers.messages == 2
        assert again.numbers.images == 1
        assert Spool(tmp_path / "images").read("event-000002") == b"picture"


def test_outbox_that_fails_in_an_unforeseen_way_names_the_cause(tmp_path: Path) -> None:
    def explode(_: Sequence[Entry]) -> None:
        raise RuntimeError("nobody thought of this")

    outbox = Outbox(open_ledger(tmp_path), on_accepted=explode)
    outbox.start()
    assert outbox.put(entry(1), timeout_s=5)
    wait_until(lambda: outbox.failure is not None)
    with pytest.raises(DeliveryError, match="RuntimeError: nobody thought of this"):
        outbox.put(entry(2), timeout_s=5)
    assert outbox.close(5)
    with ledger_in(tmp_path) as again:
        assert event_ids(again) == ["event-000001"]


def test_ledger_ids_never_repeat_within_a_process(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        first, _ = ledger.commit([entry(1)], [])
        second, _ = ledger.commit([entry(2)], [first[0].id])
        ledger.stock.remove_messages([second[0].id])
        third, _ = ledger.commit([entry(3)], [])
        assert [first[0].id, second[0].id, third[0].id] == [1, 2, 3]


def test_ledger_oldest_images_go_before_any_count(tmp_path: Path) -> None:
    picture = b"p" * (1 << 20)
    with ledger_in(tmp_path) as ledger:
        for number in range(30):
            ledger.commit([entry(number, image=picture)], [])
        kept = [row.event_id for row in ledger.file.images(0, 100).rows]
        files = {file.name.split(".")[0] for file in (tmp_path / "images").iterdir()}
        assert len(event_ids(ledger)) == 30
        assert kept[-1] == "event-000029"
        assert kept[0] > "event-000010"
        assert files == set(kept)
        assert ledger.numbers.drops["images_evicted"] == 30 - len(kept)
        used = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
        assert used <= 16 << 20
    with ledger_in(tmp_path) as again:
        assert again.numbers.drops["images_evicted"] == 30 - len(kept)


def test_ledger_full_of_counts_drops_events_then_the_oldest_counts(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([entry(0, kind="event")], [])
        number, refused = 1, 0
        while refused < 3:
            try:
                ledger.commit([entry(n, size=4000) for n in range(number, number + 50)], [])
                number += 50
            except StoreFullError:
                refused += 1
                assert ledger.make_room([])
        ids = event_ids(ledger)
        assert ids[-1] == f"event-{number - 1:06d}"
        assert ledger.numbers.drops["events_evicted"] == 1
        assert ledger.numbers.drops["counts_evicted"] == number - 1 - len(ids)
        assert ledger.numbers.messages == len(ids)
        assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) <= 16 << 20


def test_ledger_after_a_backlog_images_find_the_room_that_messages_left(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        number, is_full = 0, False
        while not is_full:
            try:
                ledger.commit([entry(n, size=4000) for n in range(number, number + 50)], [])
                number += 50
            except StoreFullError:
                is_full = True
        ids = [message.id for message in ledger.file.messages(0, number).rows]
        ledger.stock.remove_messages(ids)
        swollen = ledger.file.used_bytes
        for n in range(60):
            ledger.commit([entry(number + n, image=bytes(50_000))], [])
        assert (ledger.numbers.images, ledger.numbers.drops["images_evicted"]) == (60, 0)
        for _ in range(20):
            ledger.keep_house()
        assert ledger.file.used_bytes < swollen / 4
        assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) <= 16 << 20


def test_outbox_file_only_the_oldest_rows_are_asked_for_their_age(tmp_path: Path) -> None:
    clock = Clock()
    with ledger_in(tmp_path, clock) as ledger:
        for number in range(5):
            ledger.commit([entry(number)], [])
            clock.now_s += 10
        began_s = ledger.uptime_s - 50
        assert ledger.file.ids_before("message", began_s + 25, 10) == [1, 2, 3]
        assert ledger.file.ids_before("message", began_s + 25, 2) == [1, 2]
        assert ledger.file.newest_up_s() == pytest.approx(began_s + 40)


def test_ledger_age_is_running_time_not_wall_time(tmp_path: Path) -> None:
    clock = Clock()
    with ledger_in(tmp_path, clock) as ledger:
        ledger.commit([entry(1, image=b"x")], [])
        clock.now_s += 3000
        ledger.commit([entry(2, image=b"y")], [])
        ledger.keep_house()
        assert len(event_ids(ledger)) == 2
        ledger.save_uptime()
    clock.now_s = 5.0  # another boot: the monotonic clock starts anew
    with ledger_in(tmp_path, clock) as again:
        clock.now_s += 700
        again.keep_house()
        assert event_ids(again) == ["event-000002"]
        assert again.numbers.drops["messages_aged"] == 1
        assert again.numbers.drops["images_aged"] == 1
        assert again.numbers.images == 1


def test_ledger_refused_messages_are_set_aside_not_lost(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([entry(1), entry(2)], [])
        ledger.stock.bury_message(1, "topic name invalid")
        assert event_ids(ledger) == ["event-000002"]
        assert ledger.file.last_id("dead") == 1
        assert ledger.numbers.drops["messages_refused"] == 1


def test_ledger_sweeps_what_a_kill_left_behind(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([entry(1, image=b"one"), entry(2, image=b"two")], [])
    images = tmp_path / "images"
    (images / "event-000001.image").unlink()
    (images / "orphan.image").write_bytes(b"no row")
    (images / "event-000009.part").write_bytes(b"half")
    (images / "event-000007.image").symlink_to("/etc/hostname")
    with ledger_in(tmp_path) as again:
        assert sorted(file.name for file in images.iterdir()) == ["event-000002.image"]
        assert again.numbers.images == 1
        assert again.numbers.drops["images_damaged"] == 1


@pytest.mark.parametrize("damage", ["zeroed header", "garbage", "half", "empty", "gone"])
def test_open_outbox_damaged_file_goes_to_quarantine_and_counting_goes_on(tmp_path: Path, damage: str) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([entry(number, size=2000) for number in range(200)], [])
    path = tmp_path / "outbox.db"
    data = bytearray(path.read_bytes())
    if damage == "zeroed header":
        data[:100] = bytes(100)
    elif damage == "garbage":
        data[:] = b"not a database" * 100
    elif damage == "half":
        del data[len(data) // 2 :]
    elif damage == "empty":
        data.clear()
    path.write_bytes(data)
    if damage == "gone":
        path.unlink()
    file, rescue = open_outbox(path, 16 << 20)
    assert rescue is not None
    assert str(rescue.quarantine) in str(rescue)
    saved = file.messages(0, 1000)
    assert len(saved.rows) == rescue.saved
    assert not saved.damaged
    if damage in ("zeroed header", "half"):
        assert rescue.saved >= {"zeroed header": 200, "half": 60}[damage]
    file.close()
    again, second = open_outbox(path, 16 << 20)
    again.close()
    assert second is None


def test_open_outbox_flipped_payload_bits_are_never_delivered(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([entry(number) for number in range(50)], [])
    path = tmp_path / "outbox.db"
    data = bytearray(path.read_bytes())
    spot = data.index(b"x" * 300)
    data[spot + 10] ^= 1
    path.write_bytes(data)
    with ledger_in(tmp_path) as again:
        page = again.file.messages(0, 100)
        assert len(page.rows) == 49
        assert len(page.damaged) == 1
        again.stock.drop_damaged("message", page.damaged)
        assert again.numbers.messages == 49
        assert again.numbers.drops["messages_damaged"] == 1


def test_open_outbox_newer_format_is_refused_untouched(tmp_path: Path) -> None:
    import sqlite3

    with ledger_in(tmp_path) as ledger:
        ledger.commit([entry(1)], [])
    connection = sqlite3.connect(tmp_path / "outbox.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(ConfigError, match="newer version"):
        open_outbox(tmp_path / "outbox.db", 16 << 20)
    assert not (tmp_path / "quarantine").exists()


def test_open_outbox_keeps_three_quarantines(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    for _ in range(5):
        open_outbox(path, 16 << 20)[0].close()
        path.write_bytes(b"garbage" * 1000)
    assert len(list((tmp_path / "quarantine").iterdir())) == 3


def test_outbox_puts_are_accepted_in_groups_and_delivered_in_order(tmp_path: Path) -> None:
    accepted: list[str] = []
    outbox = Outbox(open_ledger(tmp_path), on_accepted=lambda batch: accepted.extend(e.event_id for e in batch))
    outbox.start()
    try:
        for number in range(500):
            assert outbox.put(entry(number), timeout_s=10)
        wait_until(lambda: outbox.is_stored)
        taken = take_all(outbox, 500)
        assert [row.event_id for row in taken] == accepted == [f"event-{n:06d}" for n in range(500)]
        assert outbox.numbers().commits < 500
        outbox.delivered(taken)
        wait_until(lambda: outbox.is_empty)
    finally:
        assert outbox.close(10)


def test_outbox_started_again_offers_what_was_not_delivered(tmp_path: Path) -> None:
    first = Outbox(open_ledger(tmp_path))
    first.start()
    for number in range(400):
        assert first.put(entry(number), timeout_s=10)
    wait_until(lambda: first.is_stored)
    first.delivered(first.messages.take(100))
    assert first.close(10)

    second = Outbox(open_ledger(tmp_path))
    second.start()
    try:
        taken = take_all(second, 300)
        assert [row.event_id for row in taken] == [f"event-{n:06d}" for n in range(100, 400)]
        assert all(second.is_late(row, 3600) for row in taken)
        assert second.put(entry(999), timeout_s=10)
        assert not second.is_late(take_all(second, 1)[0], 3600)
    finally:
        assert second.close(10)


def test_outbox_broken_disk_fails_the_next_put(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    outbox = Outbox(ledger)

    def broken(*_: object) -> None:
        raise DeliveryError("the disk is broken")

    ledger.commit = broken  # type: ignore[method-assign,assignment]  # the fault that is injected
    outbox.start()
    assert outbox.put(entry(1), timeout_s=1)
    wait_until(lambda: outbox.failure is not None)
    with pytest.raises(DeliveryError, match="broken"):
        outbox.put(entry(2), timeout_s=1)
    outbox.close(5)


def test_outbox_full_disk_keeps_entries_until_there_is_room(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    outbox = Outbox(ledger)
    real_commit, full = ledger.commit, [True]

    def commit(entries: list[Entry], delivered: list[int]) -> object:
        if full[0]:
            raise StoreFullError("database or disk is full")
        return real_commit(entries, delivered)

    ledger.commit = commit  # type: ignore[method-assign,assignment]  # the fault that is injected
    outbox.start()
    try:
        assert outbox.put(entry(1), timeout_s=1)
        wait_until(lambda: outbox.numbers().full)
        assert not outbox.is_stored
        full[0] = False
        wait_until(lambda: outbox.is_stored)
        assert outbox.numbers().accepted_counts == 1
        assert not outbox.numbers().full
    finally:
        assert outbox.close(10)


_WRITER = """
import sys
from pathlib import Path
from tests.edge_agent.test_outbox import entry, open_ledger
ledger = open_ledger(Path(sys.argv[1]))
start = int(sys.argv[2])
for number in range(start, start + 100_000, 3):
    delivered = [row.id for row in ledger.file.messages(0, 1).rows] if number % 2 else []
    batch = [entry(n, image=b"i" * 5000 if n % 3 == 0 else None) for n in range(number, number + 3)]
    rows, _ = ledger.commit(batch, delivered)
    for row in rows:
        print("accepted", row.event_id)
    for key in delivered:
        print("delivered", f"{key}")
    sys.stdout.flush()
"""


def test_ledger_killed_at_random_moments_loses_nothing_accepted(tmp_path: Path) -> None:
    accepted: set[str] = set()
    rng_moments = (5, 11, 17, 2, 29, 8)
    for turn, lines in enumerate(rng_moments):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), str(turn * 100_000)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        said += process.stdout.readlines()
        process.stdout.close()
        process.wait(10)
        accepted |= {line.split()[1] for line in said if line.startswith("accepted") and line.endswith("\n")}
    with ledger_in(tmp_path) as ledger:
        kept = {row.event_id for row in ledger.file.messages(0, 1_000_000).rows}
        images = {row.event_id for row in ledger.file.images(0, 1_000_000).rows}
        files = {file.name.removesuffix(".image") for file in (tmp_path / "images").iterdir()}
        delivered = ledger.numbers.drops  # nothing may have been dropped
        assert not delivered
        missing = accepted - kept
        # Only rows that the writer itself removed as delivered may be gone: they are the oldest ones.
        assert all(event_id < min(kept) for event_id in missing)
        assert images == files


def test_outbox_file_durability_settings_are_in_force(tmp_path: Path) -> None:
    file = OutboxFile(tmp_path / "outbox.db", 16 << 20)
    try:
        assert file._pragma("synchronous") == 2
        assert str(file._read("PRAGMA journal_mode")[0][0]) == "wal"
        assert file._pragma("max_page_count") < (16 << 20) / 4096
    finally:
        file.close()


def test_outbox_file_of_an_older_version_opens_at_its_bound(tmp_path: Path) -> None:
    file = OutboxFile(tmp_path / "outbox.db", 1 << 20)  # 64 pages
    file._read("DROP TABLE quota")  # the newest table

    def fill(into: OutboxFile, first: int) -> None:
        for number in range(first, first + 100):
            with into.transaction(durable=False):
                into.insert(StoredMessage(number, f"event-{number}", "count", "t/count", None, b"x" * 3500, 0.0))

    with pytest.raises(StoreFullError):
        fill(file, 1)
    stored = file.count("message")
    file.close()
    again = OutboxFile(tmp_path / "outbox.db", 1 << 20)
    try:
        assert again.count("message") == stored > 0
        assert not again.quota_stored().bins
        with pytest.raises(StoreFullError):
            fill(again, 1000)
    finally:
        again.close()


_FULL_DISK = """
import os, sys, time
from pathlib import Path
from tests.edge_agent.test_outbox import entry, open_ledger
from edge_agent.outbox.outbox import Outbox
from tests.edge_agent.waiting import wait_until
folder = Path(sys.argv[1])
accepted = []
ledger = open_ledger(folder / "state")
outbox = Outbox(ledger, on_accepted=lambda batch: accepted.extend(e.event_id for e in batch))
outbox.start()
for number in range(20):
    assert outbox.put(entry(number, image=b"i" * 20_000), timeout_s=5)
wait_until(lambda: outbox.is_stored)
with (folder / "other").open("wb", buffering=0) as other:  # somebody else fills the disk
    try:
        while True:
            other.write(b"x" * 4096)
    except OSError:
        pass
number = 20
while not outbox.is_full or outbox.numbers().images:  # the oldest images go, then nothing more fits
    if outbox.put(entry(number, size=3000), timeout_s=0.1):
        number += 1
assert outbox.numbers().drops["images_evicted"] == 20, outbox.numbers()
assert "counts_evicted" not in outbox.numbers().drops
(folder / "other").unlink()
wait_until(lambda: outbox.is_stored)
assert outbox.put(entry(number), timeout_s=5)
wait_until(lambda: outbox.is_stored)
assert accepted == [f"event-{n:06d}" for n in range(number + 1)]
assert outbox.close(10)
with_all = open_ledger(folder / "state")
assert with_all.numbers.messages == number + 1
print("recovered")
"""


def test_outbox_disk_full_of_other_things_keeps_every_count_and_recovers_alone(tmp_path: Path) -> None:
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=10m tmpfs "$0" && mkdir "$0/state" && exec "$@"']
    if shutil.which("unshare") is None or subprocess.run([*mount, str(tmp_path), "true"], check=False).returncode:
        pytest.skip("this user may not mount a small disk (unshare -rm)")
    done = subprocess.run(
        [*mount, str(tmp_path), sys.executable, "-c", _FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "recovered\n", done.stderr
