"""Bits that flip, files that are not what they seem: nothing wrong is served, sent or followed; the agent starts."""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.errors import InputError
from bundle.images import decode, encode_jpeg
from edge_agent.outbox.spool import Spool
from tests.faults.writer import entry, open_ledger, picture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_ROWS = 120


def make_outbox(folder: Path) -> None:
    """An outbox whose newest rows lie in its log, as a kill leaves it."""
    ledger, _ = open_ledger(folder / "made")
    for first in range(0, _ROWS, 10):
        ledger.commit([entry(2 * number) for number in range(first, first + 10)], [])
    shutil.copytree(folder / "made", folder / "whole")
    ledger.file.close()


def flip(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def cut(file: Path, rng: random.Random) -> None:
    os.truncate(file, rng.randrange(file.stat().st_size))


def garble(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    begin = rng.randrange(len(data))
    data[begin : begin + 4096] = rng.randbytes(len(data[begin : begin + 4096]))
    file.write_bytes(data)


def lose(file: Path, _: random.Random) -> None:
    file.unlink()


def serve_all(folder: Path) -> int:
    """Open as the agent does, look at every row, go on; the number of rows that were served."""
    ledger, _ = open_ledger(folder)
    try:
        rows = ledger.file.messages(0, 10 * _ROWS).rows
        for row in rows:
            number = int(row.event_id.removeprefix("event-"))
            assert row.payload == entry(number).payload, f"{row.event_id} was served with other bytes"
        ledger.commit([entry(10_000)], [])
    finally:
        ledger.file.close()
    return len(rows)


def damage_again_and_again(
    folder: Path, times: int, ways: Sequence[tuple[str, Callable[[Path, random.Random], None]]]
) -> int:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # noqa: T201 - a failure must be repeatable
    rng = random.Random(seed)
    make_outbox(folder)
    served = 0
    for _ in range(times):
        shutil.rmtree(folder / "state", ignore_errors=True)
        shutil.copytree(folder / "whole", folder / "state")
        name, act = rng.choice(ways)
        act(folder / "state" / name, rng)
        served += serve_all(folder / "state")
    return served


def test_outbox_with_random_damage_starts_and_serves_no_wrong_row(tmp_path: Path) -> None:
    ways = [("outbox.db", flip), ("outbox.db-wal", flip), ("outbox.db-wal", garble), ("outbox.db-wal", lose)]
    assert damage_again_and_again(tmp_path, 20, ways) > 0


@pytest.mark.soak
def test_outbox_with_two_hundred_flipped_bits_starts_and_serves_no_wrong_row(tmp_path: Path) -> None:
    served = damage_again_and_again(tmp_path, 200, [("outbox.db", flip), ("outbox.db-wal", flip)])
    print(f"{served} of {200 * _ROWS} rows served")  # noqa: T201 - the figure
    assert served > 190 * _ROWS * 0.5


@pytest.mark.soak
def test_outbox_cut_or_garbled_anywhere_starts_and_serves_no_wrong_row(tmp_path: Path) -> None:
    ways = [(name, act) for name in ("outbox.db", "outbox.db-wal", "outbox.db-shm") for act in (cut, garble, lose)]
    assert damage_again_and_again(tmp_path, 200, ways) > 0


def plant(path: Path, what: str, victim: Path) -> None:
    path.unlink(missing_ok=True)
    if what == "link":
        path.symlink_to(victim)
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_spool_follows_no_link_and_waits_for_no_pipe(tmp_path: Path, what: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("secret", encoding="utf-8")
    spool = Spool(tmp_path / "images")
    spool.write({"e1": b"picture"})
    plant(spool.path("e1"), what, victim)
    assert spool.read("e1") == b""  # which is not what was stored: it is counted as damaged
    spool.remove(["e1"])
    plant(spool.path("e2").with_suffix(".part"), what, victim)
    try:
        spool.write({"e2": b"another"})
    except OSError:
        assert what == "folder"
    else:
        assert spool.read("e2") == b"another"
    assert victim.read_text(encoding="utf-8") == "secret"


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_start_sweeps_what_is_no_image_and_counts_it(tmp_path: Path, what: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(picture(1))  # even the right bytes behind a link are not the file that was stored
    ledger, _ = open_ledger(tmp_path / "state")
    ledger.commit([entry(1), entry(3)], [])
    ledger.file.close()
    plant(tmp_path / "state/images/event-00000001.image", what, victim)
    again, _ = open_ledger(tmp_path / "state")
    assert again.numbers.drops == {"images_damaged": 1}
    assert [row.event_id for row in again.file.images(0, 9).rows] == ["event-00000003"]
    again.file.close()
    assert victim.read_bytes() == picture(1)


def test_jpegs_with_a_flipped_bit_are_refused_or_pictures_of_the_right_size() -> None:
    rng = random.Random(5)
    noise = np.random.default_rng(5).integers(0, 255, (48, 64, 3), np.uint8)
    whole, refused = encode_jpeg(noise), 0
    for number in range(300):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            image = decode(bytes(data), name=str(number))
        except InputError:
            refused += 1
        else:
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.size <= 40_000_000 * 3
    assert refused > 0
