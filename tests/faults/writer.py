"""A program that writes through the production ledger or bundle store and says what it has been promised.

It is killed, cut from power or refused by its disk by the runs in this folder; `inspect_ledger` then opens what it left
and looks for broken promises.

    python -m tests.faults.writer ledger FOLDER ROUNDS        0 rounds: until it is stopped
    python -m tests.faults.writer rescue FOLDER               an outbox from `make_foreign`
    python -m tests.faults.writer store FOLDER ONE OTHER      two bundles, of which ONE is active already
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from bundle.errors import BintallyError
from bundle.store import Store
from edge_agent.config import StateSection
from edge_agent.outbox.file import StoreFullError
from edge_agent.outbox.ledger import Ledger
from edge_agent.outbox.rescue import open_outbox
from edge_agent.outbox.rows import Entry, ImageEntry
from edge_agent.outbox.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_BYTES = 64 << 20
_PER_ROUND = 4


def event_id(number: int) -> str:
    """Name of the n-th count."""
    return f"event-{number:08d}"


def picture(number: int) -> bytes:
    """The image of the n-th count: bytes that its number fixes."""
    return hashlib.sha256(str(number).encode()).digest() * 200


def entry(number: int) -> Entry:
    """The n-th count; every second one has an image."""
    image = ImageEntry(f"p/{number}.jpg", picture(number), b"{}") if number % 2 else None
    return Entry(event_id(number), "count", "t/count", str(number).encode() * 50, "t/bin/1", image, 0.0)


def open_ledger(folder: Path) -> tuple[Ledger, str | None]:
    """Open an outbox as the agent does; also what had to be rescued."""
    folder.mkdir(parents=True, exist_ok=True)
    file, rescue = open_outbox(folder / "outbox.db", MAX_BYTES)
    spool = Spool(folder / "images")
    limits = StateSection(path=folder, max_bytes=MAX_BYTES)
    return Ledger(file, spool, limits), None if rescue is None else str(rescue)


def _say(word: str, numbers: Iterable[int]) -> None:
    """One write(2), so that a kill leaves whole lines."""
    os.write(1, "".join(f"{word} {number}\n" for number in numbers).encode())


def write_rounds(folder: Path, rounds: int, first: int) -> None:
    """Commit, deliver, refuse and upload, again and again; "gone" is said before, "accepted" after the act."""
    ledger, _ = open_ledger(folder)
    for turn in range(rounds) if rounds else count():
        numbers = range(first + turn * _PER_ROUND, first + (turn + 1) * _PER_ROUND)
        messages, images = ledger.commit([entry(number) for number in numbers], [])
        _say("accepted", numbers)
        _say("gone", numbers[:3])
        ledger.stock.remove_messages([messages[0].id])
        ledger.stock.bury_message(messages[1].id, "refused")
        ledger.receipts.note(messages[2].event_id)
        _say("uploaded", numbers[1:2])
        ledger.stock.remove_images(images[:1])
        if turn % 5 == 0:
            ledger.keep_house()
    ledger.close()


def make_foreign(folder: Path, rows: int) -> None:
    """Leave an outbox that will be rescued, whole as all its rows are, its newest ones in the log."""
    ledger, _ = open_ledger(folder.with_name("made"))
    for first in range(0, rows, 50):
        ledger.commit([entry(2 * number) for number in range(first, first + 50)], [])
    ledger.commit([entry(number) for number in range(1, 20, 2)], [])
    ledger.file._connection.execute("PRAGMA application_id=1")
    shutil.copytree(folder.with_name("made"), folder)
    ledger.close()
    shutil.rmtree(folder.with_name("made"))


def inspect_rescue(folder: Path, rows: int) -> list[str]:
    """Open what a cut rescue left, as the agent does, twice: every row is there once, and the second start is quiet."""
    broken = []
    for turn in range(2):
        ledger, rescue = open_ledger(folder)
        names = [row.event_id for row in ledger.file.messages(0, 1_000_000).rows]
        wanted = sorted([*range(0, 2 * rows, 2), *range(1, 20, 2)])
        if sorted(names) != [event_id(number) for number in wanted]:
            broken.append(f"{len(names)} rows, {len(set(names))} different, of {len(wanted)}")
        if ledger.numbers.images != len(list((folder / "images").iterdir())) or ledger.numbers.drops:
            broken.append(f"images: {ledger.numbers}")
        if turn and rescue is not None:
            broken.append(f"rescued again: {rescue}")
        if len(list((folder / "quarantine").iterdir())) != 1:
            broken.append("more than one copy")
        ledger.close()
    return broken


def switch_bundles(root: Path, one: Path, other: Path) -> None:
    """Install and activate another bundle, go back, and forget it."""
    store = Store(root)
    store.activate(store.install(other).digest)
    _say("accepted", [1])
    store.rollback()
    _say("accepted", [2])
    store.activate(store.install(other).digest)
    store.rollback(forget=True)
    _say("accepted", [3])
    store.install(one)


@dataclass(slots=True)
class Said:
    """What a writer said before it ended."""

    accepted: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    uploaded: set[int] = field(default_factory=set)

    def hear(self, output: str) -> None:
        """Take further lines; an unfinished last one was never said."""
        for line in output.split("\n")[:-1]:
            word, number = line.split()
            getattr(self, word).add(int(number))


def inspect_ledger(folder: Path, said: Said) -> list[str]:
    """Open what a writer left, as the agent does at its start.

    Args:
        folder: The state folder.
        said: What the writer said.

    Returns:
        Broken promises, none when all is well.
    """
    try:
        ledger, rescue = open_ledger(folder)
    except (BintallyError, OSError) as exc:
        return [f"it does not open: {exc}"]
    try:
        broken = [] if rescue is None else [f"rescued: {rescue}"]
        broken += _lost(ledger, folder, said)
        number = 90_000_000 + len(said.accepted)
        ledger.commit([entry(number)], [])
        said.accepted.add(number)
    except (BintallyError, StoreFullError) as exc:
        return [f"it does not go on: {exc}"]
    finally:
        ledger.close()
    return broken


def _lost(ledger: Ledger, folder: Path, said: Said) -> list[str]:
    rows = {row.event_id: row for row in ledger.file.messages(0, 1_000_000).rows}
    pictures = {row.event_id for row in ledger.file.images(0, 1_000_000).rows}
    broken = [f"count {number} is lost" for number in said.accepted - said.gone if event_id(number) not in rows]
    absent = [n for n in said.accepted - said.uploaded if n % 2 and event_id(n) not in pictures]
    counted = ledger.numbers.drops.get("images_not_stored", 0)
    broken += [f"image {number} is lost" for number in absent] if len(absent) > counted else []
    broken += [f"{row.event_id} was altered" for row in rows.values() if row.payload != _payload(row.event_id)]
    files = {file.name: file.read_bytes() for file in (folder / "images").iterdir()}
    if set(files) != {f"{name}.image" for name in pictures}:
        broken.append("images and their rows differ")
    broken += [f"{name} was altered" for name, data in files.items() if data != picture(_number(name[:-6]))]
    if ledger.numbers.drops.keys() - {"messages_refused", "images_not_stored"}:
        broken.append(f"dropped: {dict(ledger.numbers.drops)}")
    return broken


def _number(name: str) -> int:
    return int(name.removeprefix("event-"))


def _payload(name: str) -> bytes:
    return entry(_number(name)).payload


def main() -> None:
    """Run what the arguments name."""
    what, folder, *rest = sys.argv[1:]
    if what == "ledger":
        write_rounds(Path(folder), int(rest[0]), int(rest[1]) if len(rest) > 1 else 0)
    elif what == "rescue":
        open_ledger(Path(folder))[0].close()
    else:
        switch_bundles(Path(folder), Path(rest[0]), Path(rest[1]))


if __name__ == "__main__":
    main()
