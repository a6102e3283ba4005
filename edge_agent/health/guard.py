"""The last watch over the agent's process, for where no systemd watches: a hung one ends, so that it is started anew.

A call into an engine or a driver can hang for ever, perhaps with Python's lock in its hands. The timer is therefore one
of C (`faulthandler`), which is set back only while every stage makes progress: when it runs out, it writes down where
each thread is, and the process ends with code 1. What was accepted is on disk.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 60.0
"""A process that is late for so long, on top of what each stage is allowed, ends. Longer than systemd's patience."""
_LOOKS = 10


@contextmanager
def guarded(is_late: Callable[[], object], patience_s: float | None = None) -> Iterator[None]:
    """Watch the process while the block runs.

    Args:
        is_late: Truthy when some stage makes no progress.
        patience_s: Seconds from the last look at which nothing was late; None is `PATIENCE_S`.

    Yields:
        Nothing.
    """
    limit_s = PATIENCE_S if patience_s is None else patience_s
    over = threading.Event()

    def watch() -> None:
        while not over.wait(limit_s / _LOOKS):
            if not is_late():
                _set(limit_s)

    _set(limit_s)
    thread = threading.Thread(target=watch, name="guard", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        faulthandler.cancel_dump_traceback_later()


def _set(limit_s: float) -> None:
    faulthandler.dump_traceback_later(limit_s, exit=True, file=sys.stderr.fileno())
