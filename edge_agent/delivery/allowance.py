"""A bound on what an answer may take, in time and in bytes, however slowly or fast it comes.

A socket's own timeout begins anew with every byte: an answer that drips would hold a thread up for ever. An `Allowance`
bounds all reads between two of its restarts together. It is checked where bytes are read, in the thread that waits for
them, so nothing has to be interrupted and no connection is left behind.
"""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_MAX_READS_AT_THE_END = 100
"""Somebody who reads on behind the end waits for what never comes (botocore does, for the rest of a 100 Continue)."""


class Allowance:
    """What one answer may take. Belongs to one thread.

    Args:
        limit_s: Seconds for everything that is read between two restarts.
        max_bytes: Of everything that is read; None bounds the time alone.
        clock: Monotonic seconds.

    Attributes:
        problem: What was exceeded since `begin`.
    """

    def __init__(self, limit_s: float, max_bytes: int | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.problem: str | None = None
        self._limit_s = limit_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._bytes = 0
        self._until_s = 0.0
        self.begin()

    def begin(self) -> None:
        """Begin a request: nothing is read yet."""
        self.problem, self._bytes = None, 0
        self.restart()

    def restart(self) -> None:
        """Note that the request got on, other than by bytes of its answer."""
        self._until_s = self._clock() + self._limit_s

    def left_s(self) -> float:
        """How long the next read may take.

        Returns:
            Seconds, above 0.

        Raises:
            TimeoutError: No time is left.
        """
        left_s = self._until_s - self._clock()
        if left_s <= 0:
            raise TimeoutError("the time is over")
        return left_s

    def late(self) -> None:
        """Note that the time was over before the answer was whole."""
        self.problem = f"no whole answer in {self._limit_s:g} s"

    def took(self, size: int) -> None:
        """Count bytes.

        Args:
            size: How many were read.

        Raises:
            OSError: They are more than allowed.
        """
        self._bytes += size
        if self._max_bytes is not None and self._bytes > self._max_bytes:
            self.problem = f"an answer of more than {self._max_bytes} B"
            raise OSError(self.problem)

    def guard(self, sock: socket.socket) -> socket.socket:
        """Bound what is read from a connection that has just been made, for `http.client` and what is built on it.

        Args:
            sock: The connection.

        Returns:
            What stands in for it: its `makefile` gives bounded readers.
        """
        self.restart()
        return cast("socket.socket", _Guarded(sock, self))


class _Guarded:
    """A socket whose files are bounded; everything else is the socket's."""

    def __init__(self, sock: socket.socket, allowance: Allowance) -> None:
        self._sock = sock
        self._allowance = allowance

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the socket has
        return getattr(self._sock, name)

    def makefile(self, _mode: str = "rb", buffering: int | None = None) -> io.RawIOBase | io.BufferedReader:
        """Make a file for reading bytes, as `socket.makefile` does."""
        raw = _Reader(self._sock, self._allowance)
        return raw if buffering == 0 else io.BufferedReader(raw)


class _Reader(io.RawIOBase):
    """Reads from a socket within an allowance."""

    def __init__(self, sock: socket.socket, allowance: Allowance) -> None:
        self._sock = sock
        self._allowance = allowance
        self._raw = sock.makefile("rb", buffering=0)
        self._reads_at_the_end = 0

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def readinto(self, buffer: Any, /) -> int | None:  # noqa: ANN401 - any writable buffer
        try:
            self._sock.settimeout(self._allowance.left_s())
            size = self._raw.readinto(buffer)
        except TimeoutError:
            self._allowance.late()
            raise
        if size == 0:
            self._reads_at_the_end += 1
            if self._reads_at_the_end > _MAX_READS_AT_THE_END:
                raise ConnectionError("the connection has ended")
        self._allowance.took(size or 0)
        return size

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
