"""Waiting for something to become true, with a deadline instead of a sleep."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def wait_until(condition: Callable[[], object], *, timeout_s: float = 60.0, what: str = "it") -> None:
    """Return when `condition` is true; fail the test when it does not become so in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.01)
