"""The quick forms of the runs in this folder, and proof that they can fail. The long forms: docs/reliability.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.broker_kills import Packets, broker_kills
from tests.faults.kills import Stored, Witness, holes, judge, series
from tests.faults.mixed import mixed
from tests.faults.outage import outage
from tests.faults.power import can_mount, cut_power
from tests.faults.syscalls import (
    STRACE,
    errors,
    kill_points,
    ledger_arguments,
    ledger_broken,
    rescues,
    run_with_fault,
    store_arguments,
    store_broken,
)
from tests.faults.world import MOSQUITTO_SUB
from tests.faults.writer import Said, inspect_ledger, write_rounds
from tests.simulators.broker import MOSQUITTO

if TYPE_CHECKING:
    from pathlib import Path

needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None or MOSQUITTO_SUB is None, reason="no mosquitto binaries")


def can_trace(scratch: Path) -> bool:
    """Whether strace is there and may trace."""
    return (
        STRACE is not None and run_with_fault(ledger_arguments(scratch), "sync", "signal=KILL:when=1").returncode == 0
    )


def test_judge_lost_is_what_no_witness_of_delivery_saw() -> None:
    witness = Witness(lives=[["a", "b", "c"]], rows={"d", "e"})
    found = judge(witness, [("a", "0"), ("a", "0"), ("d", "1")], Stored({"b"}, {}))
    assert (found["accepted"], found["lost"], found["repeats"]) == (5, 2, 1)
    dropped = judge(witness, [("a", "0")], Stored({"b"}, {"counts_evicted": 3.0}))
    assert (dropped["lost"], dropped["dropped_and_counted"]) == (0, 3)


@pytest.mark.parametrize(
    ("order", "missing"),
    [("0123401", 0), ("0120123", 0), ("0134", 1), ("340124", 4), ("00112", 0)],
    ids=["round", "killed and begun again", "one missing", "first three and one", "repeats"],
)
def test_holes_counts_photos_that_are_missing_between_neighbours(order: str, missing: int) -> None:
    life, counts = 0, []
    for place, digit in enumerate(order):
        life += digit == "0" and order[place - 1 : place] != "0"
        counts.append((f"{life}-{digit}", digit))
    assert holes(counts, 5) == missing


def test_inspect_ledger_sees_what_is_missing_altered_or_left_over(tmp_path: Path) -> None:
    write_rounds(tmp_path, 2, 0)
    assert inspect_ledger(tmp_path, Said(accepted={3, 7}, gone={0, 1, 2, 4, 5, 6}, uploaded={1, 5})) == []
    broken = inspect_ledger(tmp_path, Said(accepted={3, 777}, gone={0, 1, 4, 5}, uploaded={1, 5}))
    assert broken == ["count 777 is lost", "image 777 is lost"]
    image = tmp_path / "images" / "event-00000003.image"
    image.write_bytes(bytes(image.stat().st_size))
    assert inspect_ledger(tmp_path, Said(accepted={3}, uploaded={1, 5})) == ["event-00000003.image was altered"]


def test_kill_at_system_calls_breaks_no_promise(tmp_path: Path) -> None:
    if not can_trace(tmp_path):
        pytest.skip("no strace, or it may not trace here")
    calls = ("fdatasync", "rename")
    points = dict(kill_points(ledger_arguments, ledger_broken, 8, calls))
    points |= dict(kill_points(store_arguments, store_broken, 3, calls[1:]))
    points |= {f"rescue, {name}": broken for name, broken in rescues(2, calls)}
    assert len(points) >= 6
    assert {name: broken for name, broken in points.items() if broken} == {}


@pytest.mark.soak
def test_disk_errors_at_system_calls_break_no_promise(tmp_path: Path) -> None:
    if not can_trace(tmp_path):
        pytest.skip("no strace, or it may not trace here")
    assert {name: broken for name, broken in errors(every=5) if broken} == {}


def test_power_cut_loses_nothing_accepted_and_would_without_fsync(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("needs root and loop devices")
    for careless in (False, True):
        folder = tmp_path / f"{careless}"
        folder.mkdir()
        found = cut_power(folder, cuts=2, seed=1, careless=careless)
        assert bool(found["violations"]) == careless, found


def test_outage_stays_within_its_bound_and_delivers_all_in_order(tmp_path: Path) -> None:
    found = outage(tmp_path, counts=1200, image_every=3, image_bytes=40_000, max_bytes=16 << 20)
    drops = found["drops"]
    assert isinstance(drops, dict)
    assert drops["images_evicted"] > 0
    for promise in ("lost", "repeats", "out_of_order", "images_unaccounted", "bytes_above_bound"):
        assert found[promise] == 0, found


def test_packets_are_cut_however_they_arrive() -> None:
    stream = b"\x40\x02\x00\x07" + b"\x32\x85\x01" + b"x" * 133 + b"\xd0\x00"
    packets = Packets()
    found = [packet for byte in stream for packet in packets.feed(bytes([byte]))]
    assert found == Packets().feed(stream) == [(0x40, b"\x00\x07"), (0x32, b"x" * 133), (0xD0, b"")]


@needs_mosquitto
@pytest.mark.soak
def test_kills_under_load_lose_nothing(tmp_path: Path) -> None:
    found = series(tmp_path, kills=100, seed=5)
    assert (found["lost"], found["holes"], found["last_exit_code"]) == (0, 0, 0), found


@needs_mosquitto
@pytest.mark.soak
def test_broker_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    found = broker_kills(tmp_path, seconds=120, every_s=10, rate=20)
    assert (found["lost"], found["exit_code"]) == (0, 0), found


@pytest.mark.soak
def test_kill_at_every_system_call_breaks_no_promise(tmp_path: Path) -> None:
    if not can_trace(tmp_path):
        pytest.skip("no strace, or it may not trace here")
    for prepare, inspect in ((ledger_arguments, ledger_broken), (store_arguments, store_broken)):
        assert {name: broken for name, broken in kill_points(prepare, inspect) if broken} == {}


@needs_mosquitto
@pytest.mark.soak
def test_faults_mixed_at_random_break_no_promise(tmp_path: Path) -> None:
    assert mixed(tmp_path, seconds=180, seed=7)["violations"] == []
