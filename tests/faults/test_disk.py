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
if RESERVE:
    ledger._reserve.restore(above_bytes=0)
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
from edge_agent.rows import Entry
from tests.faults.small_disk import fill
from tests.faults.writer import open_ledger
root = Path(sys.argv[1])
state = root / "state"
ledger, _ = open_ledger(state)
ledger.commit([Entry(f"event-{number}", "count", "t/count", bytes(1200)) for number in range(256)], [])
for message in ledger.file.messages(0, 250).rows:
    ledger.receipts.note(message.event_id)
ledger._reserve.restore(above_bytes=0)
ledger.file.close()
filler = fill(root)
os.truncate(filler, filler.stat().st_size - (192 << 10))  # enough to open, not to remove
ledger, rescue = open_ledger(state)
assert rescue is None, rescue
print(ledger.numbers.messages)
"""


def test_start_on_a_nearly_full_disk_removes_what_was_delivered(tmp_path: Path) -> None:
    assert on_small_disk(tmp_path, _REMOVES_ON_A_NEARLY_FULL_DISK) == "6\n"


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
