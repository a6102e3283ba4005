from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from edge_agent.outbox.file import OutboxFile
from edge_agent.outbox.outbox import Outbox
from edge_agent.outbox.receipts import Receipts
from tests.edge_agent.test_outbox import entry, event_ids, ledger_in, open_ledger, take_all
from tests.edge_agent.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.edge_agent.test_outbox import entry, open_ledger
ledger = open_ledger(Path(sys.argv[1]))
messages, _ = ledger.commit([entry(number) for number in range(5)], [])
for message in messages[1:3]:
    ledger.receipts.note(message.event_id)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_receipts_of_a_killed_run_remove_what_it_had_delivered(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], timeout=60, check=False)
    assert done.returncode < 0
    with ledger_in(tmp_path) as ledger:
        assert event_ids(ledger) == [f"event-{number:06d}" for number in (0, 3, 4)]
        assert ledger.numbers.messages == 3
        assert not ledger.numbers.drops


def test_receipts_are_forgotten_once_their_messages_are_gone(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        messages, _ = ledger.commit([entry(1)], [])
        ledger.receipts.note(messages[0].event_id)
    with ledger_in(tmp_path) as ledger:
        assert event_ids(ledger) == []
        ledger.commit([entry(1)], [])
    with ledger_in(tmp_path) as ledger:
        assert event_ids(ledger) == ["event-000001"]


def test_receipts_are_looked_up_without_a_backlog_in_memory(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        messages, _ = ledger.commit([entry(number, size=10) for number in range(10_000)], [])
        ledger.receipts.note(messages[5].event_id)
    tracemalloc.start()
    with ledger_in(tmp_path) as ledger:
        _, most_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert ledger.numbers.messages == 9_999
    assert most_bytes < 1_000_000


def test_receipts_that_name_nothing_spare_the_backlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([entry(1)], [])
    monkeypatch.delattr(OutboxFile, "events")
    with ledger_in(tmp_path) as ledger:
        assert ledger.numbers.messages == 1


@pytest.mark.parametrize("kept", [0, 1, 15])
def test_receipts_note_that_was_cut_in_two_names_nothing(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "receipts"
    receipts = Receipts(path)
    receipts.note("event-1")
    receipts.close()
    os.truncate(path, kept)
    again = Receipts(path)
    assert not again.names("event-1")
    again.close()


def test_receipts_without_a_disk_note_nothing_and_say_nothing(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path / "missing" / "receipts")
    receipts.note("event-1")
    receipts.forget()
    assert not receipts.names("event-1")


def test_outbox_delivered_messages_are_removed_together_and_a_kill_before_that_repeats_none(tmp_path: Path) -> None:
    running, killed = tmp_path / "running", tmp_path / "killed"
    running.mkdir()
    outbox = Outbox(open_ledger(running))
    outbox.start()
    for number in range(20):
        assert outbox.put(entry(number), timeout_s=10)
    taken = take_all(outbox, 20)
    wait_until(lambda: outbox.is_stored)
    outbox.delivered(taken[:10])
    # What a kill at this moment would leave: the folder as it is, opened by the next run.
    shutil.copytree(running, killed)
    assert outbox.close(10)
    with ledger_in(killed) as ledger:
        assert event_ids(ledger) == [f"event-{number:06d}" for number in range(10, 20)]
