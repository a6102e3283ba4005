"""Progress for people: a bar with the time left on a terminal, a line now and then in a log. Always on stderr."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import ProgressColumn

_LOG_EVERY_S = 10.0


@contextmanager
def progress(what: str, *, show_bytes: bool = False) -> Iterator[Callable[..., None]]:
    """Show how far a long job is.

    Args:
        what: What is being done, such as `reading photos`.
        show_bytes: The callback is called with a third number, the bytes moved so far.

    Yields:
        A callback for (done, in all[, bytes]).
    """
    if not sys.stderr.isatty():
        yield _lines(what)
        return
    from rich.console import Console
    from rich.progress import Progress

    columns = bar_columns(*(["{task.fields[megabytes]:.0f} MB"] if show_bytes else []))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, megabytes=0.0)

        def update(done: int, total: int, moved: int = 0) -> None:
            bar.update(task, completed=done, total=total, megabytes=moved / 1e6)

        yield update


def bar_columns(*notes: str) -> list[ProgressColumn]:
    """Say what a bar shows: what is done, how much of it, the time taken and left.

    Args:
        notes: Further texts at its end, in the format of rich.

    Returns:
        Columns for a `rich.progress.Progress`.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        *(TextColumn(note) for note in notes),
    ]


def _lines(what: str) -> Callable[..., None]:
    started = last = time.monotonic()

    def update(done: int, total: int, moved: int = 0) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _LOG_EVERY_S or not done:
            return
        last = now
        left = (now - started) / done * (total - done)
        amount = f", {moved / 1e6:.0f} MB" if moved else ""
        sys.stderr.write(f"{what}: {done} of {total}{amount}, about {left:.0f} s left\n")

    return update
