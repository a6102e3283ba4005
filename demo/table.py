"""The live table on stderr: the newest visits, as the independent subscriber hears of them.

On a terminal it is redrawn in place; anywhere else every visit is one plain line, so that a log stays readable. This is
the only file that knows rich.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from typing_extensions import Self

    from demo.tally import Visit

_ROWS = 14
_COLUMNS = ("bin", "count", "confidence", "verdict", "record", "latency", "truth")
_COLOURS = {"match": "green", "short": "magenta", "over": "magenta"}


class LiveTable:
    """Shows visits for the length of a `with` block.

    Args:
        title: What stands above.
        total: Expected number of visits, None where the end is not known.
    """

    def __init__(self, title: str, total: int | None) -> None:
        from rich.console import Console

        self._title, self._total = title, total
        self._console: Console = Console(stderr=True)
        self._rows: deque[Visit] = deque(maxlen=_ROWS)
        self._shown = 0
        self._note = "starting the agent"
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Begin to draw."""
        from rich.live import Live

        if self._console.is_terminal:
            self._live = Live(self._table(), console=self._console, refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._live.update(self._table())
            self._live.stop()

    def note(self, text: str) -> None:
        """Say below the table what is going on.

        Args:
            text: One line.
        """
        self._note = text
        self._draw()

    def warn(self, text: str) -> None:
        """Say above the table what a person should know of.

        Args:
            text: One line.
        """
        self._console.print(f"! {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)

    def add(self, visit: Visit) -> None:
        """Show one more visit.

        Args:
            visit: The visit.
        """
        self._shown += 1
        self._rows.append(visit)
        if self._live is None:
            self._console.print(
                "  ".join(f"{cell:<10}" for cell in _cells(visit)).rstrip(), highlight=False, markup=False
            )
        self._draw()

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self._table())

    def _table(self) -> Table:
        from rich.markup import escape
        from rich.table import Table

        of = "" if self._total is None else f" of {self._total}"
        caption = f"{self._shown}{of} visits   ? unsure, its image goes to a human   {escape(self._note)}"
        table = Table(title=self._title, caption=caption, min_width=76)
        for name in _COLUMNS:
            table.add_column(name, justify="left" if name in {"bin", "verdict"} else "right")
        for visit in self._rows:
            table.add_row(*(escape(cell) for cell in _cells(visit)), style=_style(visit))
        return table


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how far something is, on stderr.

    Args:
        title: What is being done.
        total: Number of steps.

    Yields:
        What to call after each step.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def _cells(visit: Visit) -> tuple[str, ...]:
    mark = {True: " ok", False: " no", None: ""}[visit.right]
    return (
        visit.bin_id,
        visit.label if visit.confident else f"{visit.label}?",
        f"{visit.confidence:.0%}",
        visit.verdict or "",
        "" if visit.record is None else str(visit.record),
        f"{visit.latency_ms:.1f} ms",
        "" if visit.truth is None else f"{visit.truth}{mark}",
    )


def _style(visit: Visit) -> str:
    if not visit.confident:
        return "yellow"
    return "red" if visit.right is False else _COLOURS.get(visit.verdict or "", "")
