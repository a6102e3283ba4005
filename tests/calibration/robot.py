"""A robot's store, its visits and a clock that never waits: where recalibrations are tested."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest

from bundle.store import Store
from calibration.job.collect import Clock
from calibration.job.context import Surroundings
from calibration.job.request import Request
from calibration.job.run import recalibrate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from calibration.job.journal import Journal

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.utc)


class Robot:
    """A store with a calibrated bundle, a folder of visits, and a clock that never waits."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.root, self.visits = folder / "store", folder / "visits"
        self.store = Store(self.root)
        self.first = self.store.activate(self.store.install(source).digest)
        self.lines: list[dict[str, Any]] = []
        self.time_s = 0.0
        self.arrive: Callable[[float], None] = lambda _: None

    def _sleep(self, seconds: float) -> None:
        self.time_s += seconds
        self.arrive(self.time_s)

    def around(self) -> Surroundings:
        clock = Clock(lambda: self.time_s, self._sleep)
        return Surroundings(self.root, self.visits, clock, lambda: NOW, self.lines.append)

    def run(self, **changes: Any) -> Journal:  # noqa: ANN401 - any field of a request
        return recalibrate(self.around(), request_of(**changes))


def request_of(**changes: Any) -> Request:  # noqa: ANN401 - any field of a request
    fields = {"job_id": "job-1", "actor": "a person", "asked_at": NOW, "watch_visits": 0} | changes
    return Request.model_validate(fields)


def states_of(robot: Robot) -> list[str]:
    states = [line["state"] for line in robot.lines]
    return [state for index, state in enumerate(states) if index == 0 or state != states[index - 1]]


class _KilledError(BaseException):
    """Stands for a kill: nothing in the job catches it."""


def killed_in(robot: Robot, state: str, **changes: Any) -> None:  # noqa: ANN401 - any field of a request
    def emit(line: dict[str, Any]) -> None:
        if line["state"] == state:
            raise _KilledError

    with pytest.raises(_KilledError):
        recalibrate(replace(robot.around(), emit=emit), request_of(**changes))
