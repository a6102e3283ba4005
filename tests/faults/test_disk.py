"""Disks that are full, out of inodes, read-only or damaged: nothing accepted is lost, and the agent recovers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.small_disk import on_small_disk

if TYPE_CHECKING:
    from pathlib import Path

_STARTS_ON_A_FULL_DISK = """
import subprocess, sys
from pathlib import Path
from bundle.errors import DeliveryError
from tests.faults.small_disk import fill
from tests.faults.writer import entry, open_ledger
root = Path(sys.argv[1])
state = root / "state"
ledger, _ = open_ledger(state)
for number in range(100):
    ledger.commit([entry(2 * number)], [])
for message in ledger.file.messages(0, NOTED).rows:
    ledger.receipts.note(message.event_id)  # delivered, and not removed when the agent was killed
if not RESERVE:
    ledger._reserve.release()
ledger.file.close()  # in order: SQLite has to make its log anew, and finds no room
filler = fill(root)
opened = refused = 0
for _ in range(6):  # more often than damaged files are kept
    try:
        ledger, rescue = open_ledger(state)
    except DeliveryError:
        refused += 1
    else:
        assert rescue is None, rescue
        assert ledger.numbers.messages == 100 - NOTED
        opened += 1
        ledger.file.close()
filler.unlink()
ledger, rescue = open_ledger(state)
assert rescue is None, rescue
assert ledger.numbers.messages == 100 - NOTED, ledger.numbers
print(opened, refused)
"""


@pytest.mark.parametrize("noted", [0, 40])
def test_starts_on_a_full_disk_take_no_sound_outbox_for_a_damaged_one(tmp_path: Path, noted: int) -> None:
    assert on_small_disk(tmp_path, f"RESERVE = False\nNOTED = {noted}\n{_STARTS_ON_A_FULL_DISK}") == "0 6\n"


@pytest.mark.parametrize("noted", [0, 40])
def test_start_on_a_full_disk_gives_the_reserve_up_and_works(tmp_path: Path, noted: int) -> None:
    assert on_small_disk(tmp_path, f"RESERVE = True\nNOTED = {noted}\n{_STARTS_ON_A_FULL_DISK}") == "6 0\n"


_REMOVES_ON_A_NEARLY_FULL_DISK = """
import os, sys
from pathlib import Path
from edge_agent.outbox.rows import Entry
from tests.faults.small_disk import fill
from tests.faults.writer import open_ledger
root = Path(sys.argv[1])
state = root / "state"
ledger, _ = open_ledger(state)
ledger.commit([Entry(f"event-{number}", "count", "t/count", bytes(1200)) for number in range(256)], [])
for message in ledger.file.messages(0, 250).rows:
    ledger.receipts.note(message.event_id)
ledger.file.close()
filler = fill(root)
os.truncate(filler, filler.stat().st_size - (192 << 10))  # enough to open, not to remove
ledger, rescue = open_ledger(state)
assert rescue is None, rescue
print(ledger.numbers.messages)
"""


def test_start_on_a_nearly_full_disk_removes_what_was_delivered(tmp_path: Path) -> None:
    assert on_small_disk(tmp_path, _REMOVES_ON_A_NEARLY_FULL_DISK) == "6\n"


_RESCUE_ON_A_FULL_DISK = """
import os, subprocess, sys, time
from pathlib import Path
from tests.faults.small_disk import fill
from tests.faults.writer import inspect_rescue, make_foreign, open_ledger
root = Path(sys.argv[1])
state = root / "state"
ROWS = 6000
make_foreign(state, ROWS)
filler = fill(root)
os.truncate(filler, filler.stat().st_size - (3 << 20))  # enough to begin with, not for all
for turn in range(4):
    life = subprocess.Popen([sys.executable, "-m", "tests.faults.writer", "rescue", str(state)])
    while life.poll() is None and not (list(state.glob("quarantine/*.unfinished")) and (state / "outbox.db").exists()):
        time.sleep(0.001)
    time.sleep(0.002 * turn)
    life.kill()
    life.wait()
ledger, rescue = open_ledger(state)
assert "the rest has to wait: " in rescue, rescue
kept = ledger.numbers.messages
assert 0 < kept < ROWS, ledger.numbers
if RESTART:
    ledger.close()
filler.unlink()
if RESTART:
    print(inspect_rescue(state, ROWS))
else:
    seen = []
    while rows := ledger.file.messages(0, ROWS).rows:
        seen += rows
        ledger.stock.remove_messages([row.id for row in rows])
        ledger.keep_house()
    names = {row.event_id for row in seen}
    assert len(names) == len(seen) == ROWS + 10, (len(names), len(seen))
    assert all(row.retained_topic is None for row in seen[kept:])  # newer ones may have gone before them
    assert all(later.id > sooner.id for sooner, later in zip(seen, seen[1:]))
    assert ledger.numbers.messages == 0 and ledger.numbers.images == 10, ledger.numbers
    assert len(list((state / "quarantine").iterdir())) == 1
    print([])
"""


@pytest.mark.parametrize("restart", [True, False])
def test_rescue_that_a_full_disk_and_kills_interrupt_is_taken_up_again_and_loses_nothing(
    tmp_path: Path, *, restart: bool
) -> None:
    assert on_small_disk(tmp_path, f"RESTART = {restart}\n{_RESCUE_ON_A_FULL_DISK}") == "[]\n"


_COUNTS_ON_A_FULL_DISK = """
import os, sys, time
from pathlib import Path
from edge_agent.outbox.outbox import Outbox
from tests.edge_agent.waiting import wait_until
from tests.faults.small_disk import fill
from tests.faults.writer import entry, open_ledger
root = Path(sys.argv[1])
ledger, _ = open_ledger(root / "state")
for number in range(101):
    ledger.commit([entry(number)], [])
ledger.close()
ledger._reserve.release()
filler = fill(root)
os.truncate(filler, filler.stat().st_size - (200 << 10))  # enough to start, not for a whole reserve
ledger, _ = open_ledger(root / "state")
more = fill(root, "more")
assert os.statvfs(root).f_bavail == 0
outbox = Outbox(ledger)
outbox.start()
for number in range(1000, 1400, 2):
    while not outbox.put(entry(number), timeout_s=0.1):
        outbox.delivered(outbox.messages.take(8))
    outbox.delivered(outbox.messages.take(8))
accepted = outbox.numbers().accepted_counts
assert accepted > 100, outbox.numbers()
assert outbox.numbers().drops == {"images_evicted": 50}, outbox.numbers()
more.unlink()
wait_until(lambda: outbox.is_stored)
assert outbox.numbers().accepted_counts == 200, outbox.numbers()
assert outbox.close(10)
print("counted")
"""


def test_outbox_on_a_disk_without_a_free_byte_goes_on_counting_while_delivery_keeps_up(tmp_path: Path) -> None:
    assert on_small_disk(tmp_path, _COUNTS_ON_A_FULL_DISK) == "counted\n"


_NO_INODES = """
import sys
from pathlib import Path
from tests.faults.writer import entry, open_ledger
root = Path(sys.argv[1])
state = root / "state"
ledger, _ = open_ledger(state)
ledger.commit([entry(0)], [])
others = 0
try:
    while True:
        (root / f"other{others}").touch()
        others += 1
except OSError:
    pass
for number in range(2, 12):
    ledger.commit([entry(number)], [])
assert ledger.numbers.messages == 11, ledger.numbers
assert ledger.numbers.drops == {"images_not_stored": 5}, ledger.numbers.drops
for number in range(others):
    (root / f"other{number}").unlink()
_, images = ledger.commit([entry(13)], [])
assert len(images) == 1
ledger.file.close()
ledger, rescue = open_ledger(state)
assert rescue is None and ledger.numbers.messages == 12 and ledger.numbers.images == 1, ledger.numbers
print("counted")
"""


def test_disk_without_inodes_costs_images_which_are_counted_and_no_count(tmp_path: Path) -> None:
    assert on_small_disk(tmp_path, _NO_INODES, "size=32m,nr_inodes=60") == "counted\n"
