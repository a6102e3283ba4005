"""What a person watches while a run trains: one bar with the time left, one line per epoch. All of it on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from train.data.progress import bar_columns

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from rich.progress import TaskID
    from typing_extensions import Self


class Progress(Protocol):
    """Where a run reports to."""

    def stage(self, name: str, total: int) -> None:
        """Start a bar.

        Args:
            name: What is being done.
            total: Units in all.
        """

    def done(self, units: int, note: str = "") -> None:
        """Move the bar.

        Args:
            units: Units done so far, in all.
            note: Shown beside it.
        """

    def line(self, text: str) -> None:
        """Say one thing that stays on the screen.

        Args:
            text: The line.
        """


class Silent:
    """Reports nothing."""

    def stage(self, name: str, total: int) -> None:
        """Ignore a bar."""

    def done(self, units: int, note: str = "") -> None:
        """Ignore a move."""

    def line(self, text: str) -> None:
        """Ignore a line."""


class RichProgress:
    """A rich bar on stderr; on a stream that is no terminal, the lines alone."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress as Bars

        self._console = Console(stderr=True)
        self._bars = Bars(
            *bar_columns("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def stage(self, name: str, total: int) -> None:
        """Start a bar.

        Args:
            name: What is being done.
            total: Units in all.
        """
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(name, total=total, note="")

    def done(self, units: int, note: str = "") -> None:
        """Move the bar.

        Args:
            units: Units done so far, in all.
            note: Shown beside it.
        """
        if self._task is not None:
            self._bars.update(self._task, completed=units, note=note)

    def line(self, text: str) -> None:
        """Print one line above the bar.

        Args:
            text: The line.
        """
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def epoch_line(record: Mapping[str, float]) -> str:
    """One epoch in words.

    Args:
        record: The epoch's line of metrics.jsonl.

    Returns:
        One line for a person.
    """
    return (
        f"epoch {record['epoch'] + 1:>3.0f}  loss {record['train_loss']:.4f} / {record['loss']:.4f}  "
        f"exact {record['accuracy']:.1%}  within one {record['within_1']:.1%}  "
        f"RMSE {record['rmse_posterior_mean']:.3f}  {record['images_per_s']:.0f} photos/s  {record['seconds']:.0f} s"
    )
