"""SIGTERM and SIGINT ask a run to stop after its current update; a second signal does not wait."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from typing_extensions import Self


class StopOnSignal:
    """While entered, remembers that a signal came; callable, so a run can ask."""

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[signal.Signals, signal.Handlers | int | object] = {}

    def __call__(self) -> bool:
        """Say whether a signal came.

        Returns:
            True from the first signal on.
        """
        return self._asked

    def __enter__(self) -> Self:
        for number in self._SIGNALS:
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _remember(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        # The second signal finds the handlers that were there before, and ends the process at once.
        self._restore()

    def _restore(self) -> None:
        for number in self._SIGNALS:
            before = self._before.get(number, signal.SIG_DFL)
            signal.signal(number, before)  # type: ignore[arg-type]  # whatever signal.signal gave back
