"""SIGKILL at every system call that changes the disk, one after the other; or an error in its place.

    python -m tests.faults.syscalls ledger          every kill point of outbox and image spool
    python -m tests.faults.syscalls rescue          every kill point of the rescue of an outbox
    python -m tests.faults.syscalls store           every kill point of installing and switching bundles
    python -m tests.faults.syscalls errors          EIO, ENOSPC and slowness instead of a kill

`strace` counts the calls of each kind and injects the fault at the n-th, n = 1, 2, 3 ... until a run comes through. The
last line is one JSON object; `violations` must be empty.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundle.errors import BintallyError
from bundle.store import Store
from tests.faults.writer import Said, inspect_ledger, inspect_rescue, make_foreign
from tests.simulators.bundle_factory import make_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

STRACE = shutil.which("strace")
ROOT = Path(__file__).resolve().parents[2]
CALLS = (
    *("pwrite64", "write", "fdatasync", "fsync", "rename", "unlink", "unlinkat", "rmdir", "mkdir", "ftruncate"),
    *("fallocate", "sendfile", "copy_file_range"),
)
_MOST = 400
_RESCUED = 600


def run_with_fault(arguments: list[str], call: str, fault: str) -> subprocess.CompletedProcess[str]:
    """Run a writer with a fault in one of its system calls.

    Args:
        arguments: Of `tests.faults.writer`.
        call: Name of the system call.
        fault: As strace writes it, for example "signal=KILL:when=3".

    Returns:
        The ended process; stdout is what the writer said.
    """
    assert STRACE is not None
    filters = ["-e", f"trace={call}", "-e", f"inject={call}:{fault}"]
    return subprocess.run(
        [STRACE, "-f", "-qq", "-o", os.devnull, *filters, sys.executable, "-m", "tests.faults.writer", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def kill_points(
    arguments: Callable[[Path], list[str]],
    inspect: Callable[[Path, Said], list[str]],
    every: int = 1,
    calls: Sequence[str] = CALLS,
) -> Iterator[tuple[str, list[str]]]:
    """Kill a writer at every point.

    Args:
        arguments: Prepares a folder and names the writer's arguments.
        inspect: Looks for broken promises.
        every: Only each so many-th point, for a quick look.
        calls: Only points in these system calls.

    Yields:
        Name of the point, and what is broken.
    """
    for call in calls:
        for number in range(1, _MOST, every):
            with tempfile.TemporaryDirectory() as scratch:
                done = run_with_fault(arguments(Path(scratch)), call, f"signal=KILL:when={number}")
                if done.returncode == 0:
                    break
                said = Said()
                said.hear(done.stdout)
                yield f"{call} {number}", inspect(Path(scratch), said)


def ledger_arguments(scratch: Path) -> list[str]:
    """A new outbox, four rounds."""
    return ["ledger", str(scratch / "state"), "3"]


def ledger_broken(scratch: Path, said: Said) -> list[str]:
    """Look twice: what the first start repairs must stay repaired."""
    return inspect_ledger(scratch / "state", said) + inspect_ledger(scratch / "state", said)


def rescues(every: int = 1, calls: Sequence[str] = CALLS) -> Iterator[tuple[str, list[str]]]:
    """Kill rescues of the same outbox at every point."""
    with tempfile.TemporaryDirectory() as made:
        make_foreign(Path(made) / "foreign", _RESCUED)

        def arguments(scratch: Path) -> list[str]:
            shutil.copytree(Path(made) / "foreign", scratch / "state")
            return ["rescue", str(scratch / "state")]

        yield from kill_points(arguments, lambda scratch, _: inspect_rescue(scratch / "state", _RESCUED), every, calls)


def store_arguments(scratch: Path) -> list[str]:
    """A store with one active bundle, and another bundle to come."""
    one, other = make_bundle(scratch / "one"), make_bundle(scratch / "other", version="2.0.0")
    store = Store(scratch / "store")
    store.activate(store.install(one).digest)
    return ["store", str(scratch / "store"), str(one), str(other)]


def store_broken(scratch: Path, said: Said) -> list[str]:
    """One of the two bundles is current, whole, and the store goes on."""
    store = Store(scratch / "store")
    try:
        version = store.current().manifest.version
        store.activate(store.install(scratch / "other").digest)
        after = store.current().manifest.version
    except (BintallyError, OSError) as exc:
        return [f"the store is broken after {len(said.accepted)} steps: {exc}"]
    return [] if version in ("1.0.0", "2.0.0") and after == "2.0.0" else [f"{version}, {after} is active"]


def errors(every: int = 1) -> Iterator[tuple[str, list[str]]]:
    """Fail each call once, and for ever from it on, and make it slow: nothing is said accepted that is not there."""
    for call in ("fdatasync", "fsync", "pwrite64", "rename"):
        for number in range(1, _MOST, every):
            ended = 0
            for fault in (f"error=EIO:when={number}", f"error=EIO:when={number}+", f"error=ENOSPC:when={number}"):
                with tempfile.TemporaryDirectory() as scratch:
                    done = run_with_fault(ledger_arguments(Path(scratch)), call, fault)
                    said = Said()
                    said.hear(done.stdout)
                    ended += done.returncode != 0
                    yield f"{call} {fault}", inspect_ledger(Path(scratch) / "state", said)
            if not ended:
                break
    with tempfile.TemporaryDirectory() as scratch:
        done = run_with_fault(ledger_arguments(Path(scratch)), "fdatasync", "delay_enter=300000")
        said = Said()
        said.hear(done.stdout)
        broken = inspect_ledger(Path(scratch) / "state", said)
        yield "fdatasync slow", broken or ([] if done.returncode == 0 else [done.stderr])


@click.command()
@click.argument("what", type=click.Choice(["ledger", "rescue", "store", "errors"]))
@click.option("--every", default=1, show_default=True, help="Only each so many-th point.")
def main(what: str, every: int) -> None:
    """Inject faults and print one JSON object; exit code 1 when a promise was broken."""
    runs = {
        "ledger": lambda: kill_points(ledger_arguments, ledger_broken, every),
        "rescue": lambda: rescues(every),
        "store": lambda: kill_points(store_arguments, store_broken, every),
        "errors": lambda: errors(every),
    }
    points, violations = 0, {}
    for name, broken in runs[what]():
        points += 1
        if broken:
            violations[name] = broken
            sys.stderr.write(f"{name}: {broken}\n")
    click.echo(json.dumps({"what": what, "points": points, "violations": violations}))
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
