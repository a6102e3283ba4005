"""Disks that are full, out of inodes, read-only or damaged: nothing accepted is lost, and the agent recovers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        assert ledger.numbers.messages == 100
        opened += 1
        ledger.file.close()
filler.unlink()
ledger, rescue = open_ledger(state)
assert rescue is None, rescue
assert ledger.numbers.messages == 100, ledger.numbers
print(opened, refused)
"""


def test_starts_on_a_full_disk_take_no_sound_outbox_for_a_damaged_one(tmp_path: Path) -> None:
    assert on_small_disk(tmp_path, f"RESERVE = False\n{_STARTS_ON_A_FULL_DISK}") == "0 6\n"


def test_start_on_a_full_disk_gives_the_reserve_up_and_works(tmp_path: Path) -> None:
    assert on_small_disk(tmp_path, f"RESERVE = True\n{_STARTS_ON_A_FULL_DISK}") == "6 0\n"
