"""Power cuts: what was never synced is gone, what was accepted must be there.

    sudo python -m tests.faults.power --cuts 50
    sudo python -m tests.faults.power --cuts 10 --careless        the same without fsync, which must lose counts

A writer works on an ext4 file system in a file. At a random moment it is stopped, and the file is copied: the copy
holds what the "disk" holds, without what still waits in the page cache of the file system above it. The copy is
mounted, which replays its journal as a boot does, and the outbox in it is opened as at a start. Needs root.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tests.faults.writer import Said, inspect_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
_DISK_BYTES = 48 << 20
_CARELESS = """
import sys
from edge_agent.outbox import file as outbox_file
from edge_agent.outbox import spool
from tests.faults import writer
durable = outbox_file.OutboxFile.transaction
outbox_file.OutboxFile.transaction = lambda self, *, durable_=durable, **_: durable_(self, durable=False)
writer.main()
"""


def can_mount() -> bool:
    """Whether this user may mount a file; the reason why the test that needs it is skipped."""
    if os.geteuid() or shutil.which("mkfs.ext4") is None:
        return False
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with mounted(make_disk(Path(scratch) / "disk"), Path(scratch) / "mount"):
                return True
        except subprocess.CalledProcessError:
            return False


def make_disk(file: Path) -> Path:
    """An empty ext4 file system in a file."""
    with file.open("wb") as disk:
        disk.truncate(_DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", str(file)], check=True, capture_output=True)
    return file


@contextmanager
def mounted(disk: Path, point: Path) -> Iterator[Path]:
    """Mount a file system; lazily unmounted, because a stopped writer may still hold it."""
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(point)], check=True, capture_output=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True, capture_output=True)


class Writer:
    """A writer that is stopped and goes on.

    Args:
        folder: Where it writes.
        careless: Without waiting for the disk.
    """

    def __init__(self, folder: Path, *, careless: bool) -> None:
        self.said = Said()
        start = ["-c", _CARELESS] if careless else ["-m", "tests.faults.writer"]
        self._process = subprocess.Popen(
            [sys.executable, *start, "ledger", str(folder), "0"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._rest = ""

    def listen(self) -> None:
        """Take what it has said so far."""
        assert self._process.stdout is not None
        while data := self._process.stdout.read(1 << 16):
            whole, _, self._rest = (self._rest + data.decode()).rpartition("\n")
            self.said.hear(f"{whole}\n" if whole else "")

    def stop(self) -> None:
        """Stop it where it is, and wait until the kernel has."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)
        self.listen()

    def go_on(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()


def cut_power(folder: Path, *, cuts: int, seed: int, careless: bool) -> dict[str, object]:
    """Cut the power so many times under one writer, and look at each copy."""
    rng = random.Random(seed)
    violations: dict[int, list[str]] = {}
    with mounted(make_disk(folder / "disk"), folder / "live") as live:
        writer = Writer(live / "state", careless=careless)
        try:
            for cut in range(cuts):
                _wait_for_more(writer, rng.uniform(0.05, 0.5))
                writer.stop()
                shutil.copyfile(folder / "disk", folder / "copy")
                with mounted(folder / "copy", folder / "after") as after:
                    broken = inspect_ledger(after / "state", _copy(writer.said))
                if broken:
                    violations[cut] = broken[:5]
                writer.go_on()
        finally:
            writer.end()
    return {"cuts": cuts, "seed": seed, "accepted": len(writer.said.accepted), "violations": violations}


def _wait_for_more(writer: Writer, seconds: float) -> None:
    """Let it run for a while, and until it has said something new."""
    before, until_s = len(writer.said.accepted), time.monotonic() + seconds
    while time.monotonic() < until_s or len(writer.said.accepted) == before:
        time.sleep(0.01)
        writer.listen()


def _copy(said: Said) -> Said:
    return Said(set(said.accepted), set(said.gone), set(said.uploaded))


@click.command()
@click.option("--cuts", default=50, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--careless", is_flag=True, help="Commit without waiting for the disk: shows that the cuts cut.")
def main(cuts: int, seed: int, *, careless: bool) -> None:
    """Cut the power and print one JSON object; exit code 1 when a promise was broken."""
    with tempfile.TemporaryDirectory() as folder:
        found = cut_power(Path(folder), cuts=cuts, seed=seed, careless=careless)
    click.echo(json.dumps(found))
    sys.exit(1 if found["violations"] else 0)


if __name__ == "__main__":
    main()
