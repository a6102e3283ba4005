# ruff: noqa: TID253 - this file owns rich
"""What a person sees while an export runs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Show the current step with a spinner and the time it has taken; finished steps stay above it.

    Yields:
        A function that is told each step in words.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        current = progress.add_task("starting", total=None)

        def step(words: str) -> None:
            nonlocal current
            progress.update(current, total=1, completed=1)
            current = progress.add_task(words, total=None)

        yield step
        progress.update(current, total=1, completed=1)
