from __future__ import annotations

import json
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

from edge_agent.commands.desk import Desk
from edge_agent.commands.memory import Memory
from edge_agent.commands.table import Remembered, StoredCommand
from edge_agent.messages import new_event_id
from tests.edge_agent.commands.sending import fields

_NOW_S = datetime(2026, 11, 21, tzinfo=timezone.utc).timestamp()


def _open(command_id: str, state: str, after_s: float) -> StoredCommand:
    said = json.dumps({"event_id": new_event_id(_NOW_S + after_s)}).encode()
    request = json.dumps(fields(command_id)).encode()
    return StoredCommand(command_id, "ping", state, _NOW_S, request, said)


def _desk(*rows: StoredCommand) -> Desk:
    unused: Any = SimpleNamespace()
    return Desk(Memory(Remembered(rows)), unused, unused, unused, give=lambda _: None)


def test_commands_left_open_go_on_in_the_order_of_their_acceptance_after_what_had_begun() -> None:
    rows = [_open("set-b-0001", "accepted", 1), _open("set-a-0002", "accepted", 2), _open("job-z-001", "running", 3)]
    left = _desk(*sorted(rows, key=lambda row: row.command_id)).left_open()  # as the file gives them
    assert [order.id for order in left] == ["job-z-001", "set-b-0001", "set-a-0002"]
    assert all(order.resumed for order in left)


def test_command_left_open_whose_last_message_is_not_kept_is_not_forgotten() -> None:
    row = _open("job-z-001", "running", 0)
    left = _desk(StoredCommand(row.command_id, "ping", "running", _NOW_S, row.request, b"")).left_open()
    assert [order.id for order in left] == ["job-z-001"]
