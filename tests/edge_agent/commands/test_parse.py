from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.commands.memory import Memory
from edge_agent.commands.parse import MAX_BYTES, MAX_DEPTH, command_id_of, parse
from edge_agent.commands.reasons import CommandError, Reason
from edge_agent.commands.schema import COMMANDS, Capture, Set
from edge_agent.outbox.command_table import Remembered, StoredCommand
from edge_agent.outbox.rows import CommandRecord
from tests.simulators.hostile import hostile, valid

if TYPE_CHECKING:
    from edge_agent.commands.schema import Command

_NOW = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)


def content(**more: object) -> dict[str, Any]:
    times = {"issued_at": "2026-11-21T12:00:00Z", "expires_at": "2026-11-21T12:10:00+00:00"}
    return {"command_id": "command-1", **times, "actor": "someone", **more}


def parsed(name: str, **more: object) -> Command:
    return parse(name, json.dumps(content(**more)).encode(), retained=False)


def reason_of(name: str, payload: bytes, *, retained: bool = False) -> str:
    with pytest.raises(CommandError) as caught:
        parse(name, payload, retained=retained)
    return caught.value.reason.code


def test_parse_of_sound_commands_gives_their_fields() -> None:
    capture = parsed("capture", bin_id="A/1", record=3)
    assert isinstance(capture, Capture)
    assert (capture.bin_id, capture.record, capture.expires_s) == ("A/1", 3, 1795263000.0)
    changes = parsed("set", threshold=1, reset=["log_level"])
    assert isinstance(changes, Set)
    assert changes.given() == {"threshold": 1.0}
    rng = random.Random(5)
    for number in range(200):
        name, fields = valid(rng, number, _NOW)
        assert type(parse(name, json.dumps(fields).encode(), retained=False)) is COMMANDS[name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"command_id": "../../etc"}, "command_id"),
        ({"command_id": "short"}, "command_id"),
        ({"command_id": "command-1\n"}, "command_id"),
        ({"issued_at": 1_795_262_400}, "issued_at"),
        ({"issued_at": "2026-11-21T12:00:00"}, "issued_at"),
        ({"issued_at": "1795262400"}, "issued_at"),
        ({"expires_at": "2026-11-21T11:00:00Z"}, "expires_at"),
        ({"expires_at": "2026-11-23T12:00:00Z"}, "a day"),
        ({"actor": ""}, "actor"),
        ({"robot": "r1"}, "robot"),
        ({"bin_id": "a\x00b"}, "bin_id"),
        ({"bin_id": ""}, "bin_id"),
        ({"record": "3"}, "record"),
        ({"record": 3.0}, "record"),
        ({"record": True}, "record"),
        ({"record": -1}, "record"),
        ({"camera": "../x"}, "camera"),
        ({"frames": 10**17}, "frames"),
    ],
)
def test_parse_refuses_fields_that_are_wrong_and_names_them(change: dict[str, object], words: str) -> None:
    with pytest.raises(CommandError, match=words) as caught:
        parsed("capture", **{"bin_id": "A-1", **change})
    assert caught.value.reason is Reason.INVALID
    assert str(caught.value).isascii()


def test_parse_refuses_payloads_that_are_no_plain_json_object() -> None:
    good = json.dumps(content()).encode()
    for bad in (
        b"",
        b"null",
        b"[]",
        b"\xff",
        good[:-1],
        good + b"x",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": 1, "a": 1}',
    ):
        assert reason_of("ping", bad) == "not_json"
    assert reason_of("ping", good.decode().encode("utf-16")) == "not_json"
    assert reason_of("ping", good.replace(b'"someone"', b"null")) == "not_json"
    assert reason_of("ping", good + b" " * MAX_BYTES) == "too_large"
    assert reason_of("ping", b"[" * (MAX_DEPTH + 1)) == "too_deep"
    assert reason_of("ping", good, retained=True) == "retained"
    assert reason_of("pong", good) == "unknown_command"
    assert parse("ping", good, retained=False).command_id == "command-1"


def test_depth_counts_brackets_outside_of_strings_alone() -> None:
    assert parsed("ping", why='[[[[[[[[[[[[ \\" {{{{{{{{{{').why.startswith("[[[")
    assert reason_of("ping", b'{"why": "\\\\", "x": ' + b"[" * 9 + b"]" * 9 + b"}") == "too_deep"


def test_command_id_of_a_refused_command_is_found_where_there_is_one() -> None:
    assert command_id_of(json.dumps(content(nonsense=1)).encode()) == "command-1"
    assert command_id_of(json.dumps({"command_id": "../x"}).encode()) is None
    assert command_id_of(b"\xff") is None


def test_ten_thousand_hostile_commands_are_refused_one_and_all() -> None:
    memory = Memory(Remembered())
    reasons: Counter[str] = Counter()
    for name, payload in hostile(seed=7, amount=10_000, now=_NOW):
        try:
            command = parse(name, payload, retained=False)
            memory.admit(command, _NOW.timestamp(), synchronised=True)
        except CommandError as exc:
            reasons[exc.reason.code if str(exc).isascii() else "not ascii"] += 1
        else:
            pytest.fail(f"carried out: {name} {payload[:300]!r}")
    assert sum(reasons.values()) == 10_000
    assert "not ascii" not in reasons
    assert {"not_json", "too_large", "too_deep", "invalid", "unknown_command", "expired", "future"} <= set(reasons)


def test_parse_of_the_worst_payload_takes_time_in_proportion_to_its_size() -> None:
    def seconds(payload: bytes) -> float:
        start = time.perf_counter()
        with pytest.raises(CommandError):
            parse("ping", payload, retained=False)
        return time.perf_counter() - start

    for worst in (b'"', b"\\", b'\\"', b"[]", b'{"a":'):
        small = min(seconds(worst * (4096 // len(worst))) for _ in range(5))
        large = min(seconds(worst * (MAX_BYTES // len(worst))) for _ in range(5))
        assert large < 100 * max(small, 1e-4)  # squared would be 144 times


def record(command_id: str, state: str, expires_s: float) -> CommandRecord:
    return CommandRecord(command_id, "ping", state, expires_s, b"{}")


def test_memory_refuses_what_expired_comes_from_the_future_or_may_have_been_done() -> None:
    command = parsed("ping")
    now_s = _NOW.timestamp()
    memory = Memory(Remembered())
    memory.admit(command, now_s, synchronised=True)
    for at_s, code in ((now_s + 600, "expired"), (now_s - 61, "future")):
        with pytest.raises(CommandError) as caught:
            memory.admit(command, at_s, synchronised=False)
        assert caught.value.reason.code == code
        assert "not synchronised" in caught.value.words
    with pytest.raises(CommandError) as caught:
        Memory(Remembered(refuse_before_s=now_s)).admit(command, now_s, synchronised=True)
    assert caught.value.reason is Reason.RECORD_LOST


def test_memory_clock_that_goes_back_brings_no_forgotten_command_back() -> None:
    command, now_s = parsed("ping"), _NOW.timestamp()
    memory = Memory(Remembered())
    memory.note(record("command-1", "succeeded", command.expires_s), b"{}")
    later = parsed("ping", command_id="command-2", issued_at="2026-11-21T13:00:00Z", expires_at="2026-11-21T13:10:00Z")
    memory.admit(later, now_s + 3600, synchronised=True)
    assert memory.find("command-1") is None
    with pytest.raises(CommandError, match="went back"):
        memory.admit(command, now_s, synchronised=True)
    restarted = Memory(Remembered(forgotten_s=command.expires_s))
    with pytest.raises(CommandError, match="went back"):
        restarted.admit(command, now_s, synchronised=True)


def test_memory_mark_from_a_clock_that_was_years_ahead_does_not_lock_the_robot() -> None:
    command, now_s = parsed("ping"), _NOW.timestamp()
    memory = Memory(Remembered(forgotten_s=now_s + 10 * 365 * 86_400))
    memory.admit(command, now_s, synchronised=True)
    with pytest.raises(CommandError):
        memory.admit(command, now_s, synchronised=None)


def test_memory_mark_of_a_lost_record_from_a_clock_that_was_ahead_does_not_lock_the_robot() -> None:
    command, now_s = parsed("ping"), _NOW.timestamp()
    memory = Memory(Remembered(refuse_before_s=now_s + 365 * 86_400))
    memory.admit(command, now_s, synchronised=True)
    with pytest.raises(CommandError) as caught:
        memory.admit(command, now_s, synchronised=None)
    assert caught.value.reason is Reason.RECORD_LOST


def test_memory_without_room_refuses_and_forgets_nothing_early() -> None:
    now_s = _NOW.timestamp()
    rows = tuple(StoredCommand(f"id-{n:06d}", "ping", "succeeded", now_s + 50, b"", b"{}") for n in range(3))
    memory = Memory(Remembered(rows), max_commands=3)
    with pytest.raises(CommandError) as caught:
        memory.admit(parsed("ping"), now_s, synchronised=True)
    assert caught.value.reason is Reason.MEMORY_FULL
    memory.admit(parsed("ping"), now_s + 400, synchronised=True)  # expired, and the grace is over
    assert len(memory) == 0


def test_memory_keeps_open_commands_whatever_their_age() -> None:
    memory = Memory(Remembered())
    memory.note(record("job-00001", "running", 10.0), b"{}")
    memory.admit(parsed("ping"), _NOW.timestamp(), synchronised=True)
    assert [row.command_id for row in memory.open()] == ["job-00001"]


def test_documents_list_every_reason_in_the_same_words() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "mqtt.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([a-z_]+)` \| (.+?) \|$", text, re.MULTILINE))
    assert {reason.code: listed.get(reason.code) for reason in Reason} == {r.code: r.sentence for r in Reason}


def test_lifetime_of_a_day_is_the_longest() -> None:
    day = (_NOW + timedelta(days=1)).isoformat()
    assert parsed("ping", expires_at=day).expires_s == (_NOW + timedelta(days=1)).timestamp()
