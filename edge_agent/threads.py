"""Threads that must not die: supervision, and waking a thread that waits on a socket.

`attempt` is one of the two places in the agent that catch every exception: a thread that fails for a reason nobody
thought of is logged, and its owner decides. A `Worker` starts it again: a count in the outbox is worth more than
a clean traceback.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from typing import TYPE_CHECKING

from bundle.errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.backoff import Backoff

_LOG = logging.getLogger(__name__)
_TICK_S = 0.5


def attempt(name: str, body: Callable[[], None]) -> Exception | None:
    """Run the body of a thread.

    Args:
        name: For the log.
        body: What the thread does.

    Returns:
        None when it came to its end; a DeliveryError, which is no surprise; or anything else, which is logged.
    """
    try:
        body()
    except DeliveryError as exc:
        return exc
    except Exception as exc:  # noqa: BLE001 - the top of a thread; see the module docstring
        _LOG.exception("%s failed in an unforeseen way", name)
        return exc
    return None


class Waker:
    """Wakes a thread that polls a socket. Any thread may call `wake`."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Descriptor to poll for reading."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Wake the thread; a second call before it woke adds nothing."""
        try:
            self._writer.send(b"\0")
        except (BlockingIOError, OSError):
            return  # Enough bytes lie there already, or the thread has closed its end.

    def wait(self, timeout_s: float) -> None:
        """Wait until somebody wakes, for a thread that has no other socket to poll.

        Args:
            timeout_s: At most this long.
        """
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if poll.poll(timeout_s * 1e3):
            self.drain()

    def drain(self) -> None:
        """Take the wake-ups back."""
        try:
            while self._reader.recv(4096):
                continue
        except (BlockingIOError, OSError):
            return

    def close(self) -> None:
        """Free both ends."""
        self._reader.close()
        self._writer.close()


class Worker:
    """A thread that runs `body` again and again until it returns, with growing pauses after failures.

    Args:
        name: Of the thread, for logs.
        body: One attempt: returns when the work is done for good, raises DeliveryError to be tried again.
        backoff: Pauses; the body resets it after a success.
        stop: Ends the pauses.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        body: Callable[[], None],
        *,
        backoff: Backoff,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.crashes = 0
        self.problem: str | None = None
        self.progress_s = clock()
        self._name = name
        self._body = body
        self._backoff = backoff
        self._stop = stop
        self._clock = clock
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def tick(self) -> None:
        """Say that the work goes on; the body calls it at least every few seconds."""
        self.progress_s = self._clock()

    def recovered(self) -> None:
        """Say that the problem is gone."""
        self.problem = None

    def succeeded(self) -> None:
        """Say that the work goes well: the problem is gone, and the next pause is short again."""
        self._backoff.reset()
        self.problem = None

    def join(self, timeout_s: float) -> bool:
        """Wait for the end.

        Args:
            timeout_s: How long.

        Returns:
            Whether it ended.
        """
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (problem := attempt(self._name, self._body)) is not None:
            if isinstance(problem, DeliveryError):
                self._report(problem)
            else:
                self.crashes += 1
                self.problem = f"{type(problem).__name__}: {problem}"
            self._pause()
            if self._stop.is_set():
                return

    def _report(self, exc: DeliveryError) -> None:
        text = str(exc)
        if text != self.problem:
            _LOG.warning("%s", text)
        self.problem = text

    def _pause(self) -> None:
        until_s = self._clock() + self._backoff.next_s()
        while (left_s := until_s - self._clock()) > 0 and not self._stop.is_set():
            self.tick()
            self._stop.wait(min(left_s, _TICK_S))
