from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from edge_agent.outbox.rescue import open_outbox
from edge_agent.outbox.rows import CommandRecord, Entry
from tests.edge_agent.test_outbox import entry, ledger_in

if TYPE_CHECKING:
    from pathlib import Path


def result(state: str, *, command_id: str = "c1", expires_s: float = 1000.0) -> Entry:
    record = CommandRecord(command_id, "capture", state, expires_s, b'{"the": "command"}')
    return Entry(f"{command_id}-{state}", "result", "t/cmd/capture/result", state.encode(), command=record)


def test_commit_with_a_companion_stores_count_and_result_together(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([result("accepted")], [])
        (known,) = ledger.file.remembered().commands
        assert (known.state, known.is_open, known.request) == ("accepted", True, b'{"the": "command"}')
        stored, _ = ledger.commit([replace(entry(1), companions=(result("succeeded"),))], [])
    assert [row.kind for row in stored] == ["count", "result"]
    with ledger_in(tmp_path) as again:
        (known,) = again.file.remembered().commands
        assert (known.state, known.is_open, known.request, known.result) == ("succeeded", False, b"", b"succeeded")
        assert again.numbers.messages == 3


def test_forget_removes_what_is_over_and_expired_and_remembers_how_far(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        for number, (state, expires_s) in enumerate([("failed", 100.0), ("refused", 200.0), ("running", 50.0)]):
            ledger.commit([result(state, command_id=f"c{number}", expires_s=expires_s)], [])
        with ledger.file.transaction():
            assert ledger.file.commands.forget(150.0) == 1
        known = ledger.file.remembered()
        assert {row.command_id for row in known.commands} == {"c1", "c2"}
        assert known.forgotten_s == 100.0
        with ledger.file.transaction():
            assert ledger.file.commands.forget(150.0) == 0
        assert ledger.file.remembered().forgotten_s == 100.0


def test_damaged_row_of_a_command_is_not_trusted(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([result("succeeded"), result("failed", command_id="c2")], [])
        ledger.commit([replace(result("failed", command_id="c3"), settings=b'{"threshold": 0.9}')], [])
    with closing(sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)) as connection:
        connection.execute("UPDATE command SET state = 'accepted' WHERE command_id = 'c1'")
    with ledger_in(tmp_path) as again:
        known = again.file.remembered()
        assert {row.command_id for row in known.commands} == {"c2", "c3"}
        assert known.settings == b'{"threshold": 0.9}'
        assert known.refuse_before_s > 1.7e9  # c1 may come again: nobody knows any more that it is over


def test_damaged_row_that_was_open_refuses_older_commands_once_and_not_at_every_start(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([result("accepted"), replace(result("failed", command_id="c2"), settings=b"{}")], [])
    with closing(sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)) as connection:
        connection.execute("UPDATE command SET expires_s = 7.0 WHERE command_id = 'c1'")
        connection.execute("UPDATE setting SET value = '[]' WHERE name = 'settings'")
    with ledger_in(tmp_path) as again:
        first = again.file.remembered()
    with ledger_in(tmp_path) as once_more:
        assert once_more.file.remembered() == first
        assert once_more.file.commands.whole
    assert [row.command_id for row in first.commands] == ["c2"]
    assert (first.settings, first.refuse_before_s > 1.7e9) == (None, True)


def test_damaged_mark_of_what_was_forgotten_refuses_older_commands(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([result("succeeded", expires_s=100.0)], [])
        with ledger.file.transaction():
            ledger.file.commands.forget(150.0)
        assert ledger.file.remembered().refuse_before_s == 0.0
    with closing(sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)) as connection:
        connection.execute("UPDATE setting SET value = '0.0' WHERE name = 'forgotten'")
    with ledger_in(tmp_path) as again:
        assert again.file.remembered().refuse_before_s > 1.7e9


def test_rescue_takes_commands_over_and_refuses_older_ones_when_some_are_lost(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([result("succeeded", command_id=f"c{number}") for number in range(300)], [])
    damaged = bytearray((tmp_path / "outbox.db").read_bytes())
    damaged[:100] = bytes(100)  # the header alone: every row can still be read
    (tmp_path / "outbox.db").write_bytes(damaged)
    file, rescue = open_outbox(tmp_path / "outbox.db", 16 << 20)
    assert rescue is not None
    assert len(file.remembered().commands) == 300
    assert file.remembered().refuse_before_s == 0
    file.close()
    (tmp_path / "outbox.db").write_bytes(b"")
    file, rescue = open_outbox(tmp_path / "outbox.db", 16 << 20)
    assert rescue is not None
    assert file.remembered().commands == ()
    assert file.remembered().refuse_before_s > 1e9
    file.close()


def test_long_result_is_kept_without_its_detail(tmp_path: Path) -> None:
    payload = json.dumps({"state": "succeeded", "detail": {"jpeg_base64": "A" * 40_000}}).encode()
    with ledger_in(tmp_path) as ledger:
        stored, _ = ledger.commit([replace(result("succeeded"), payload=payload)], [])
        (known,) = ledger.file.remembered().commands
    assert stored[0].payload == payload
    assert json.loads(known.result) == {"state": "succeeded", "detail": {"left_out_bytes": 40_019}}
