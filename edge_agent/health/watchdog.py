"""Health that tells the truth: fed by finished work, never by a timer, and never by "connected".

systemd is pinged only while every stage has made progress within its own budget. A dead broker is not a reason to
restart an agent that counts, so the network is no stage; the threads that talk to it are.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LOG = logging.getLogger(__name__)

_MAX_STATUS = 200


class Watchdog:
    """Tells systemd that the agent works, when it does.

    Args:
        stages: For each stage, its last progress (monotonic seconds) and how long it may take for the next.
        environment: Where NOTIFY_SOCKET and WATCHDOG_USEC are looked up.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        stages: Mapping[str, tuple[Callable[[], float], float]],
        *,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stages = dict(stages)
        self._address = environment.get("NOTIFY_SOCKET", "")
        watchdog_us = environment.get("WATCHDOG_USEC", "")
        self._every_s = int(watchdog_us) / 1e6 / 2 if watchdog_us.isdecimal() else 0.0
        self._clock = clock
        self._next_s = 0.0
        self._ready = False
        self._said = ""
        self._dumped = False

    def late(self) -> list[str]:
        """Stages that made no progress within their budget."""
        now_s = self._clock()
        return [name for name, (progress, budget_s) in self._stages.items() if now_s - progress() > budget_s]

    def release(self, stage: str) -> None:
        """Watch a stage no more, because it ends on purpose.

        Args:
            stage: Its name.
        """
        # Another mapping, not another content: the guard's thread may be going through this one.
        self._stages = {name: watched for name, watched in self._stages.items() if name != stage}

    def ready(self) -> None:
        """Tell systemd, once, that the agent counts or has said why it cannot."""
        if not self._ready:
            self._ready = True
            notify("READY=1", self._address)

    def ping(self) -> None:
        """Tell systemd that all stages work; without it, the service is killed and started again."""
        now_s = self._clock()
        if not self._every_s or now_s < self._next_s:
            return
        self._next_s = now_s + self._every_s / 2
        late = self.late()
        if late:
            _LOG.error("no progress in: %s", ", ".join(late))
            self.say(f"no progress in {', '.join(late)}")
            self._dump()
        else:
            notify("WATCHDOG=1", self._address)

    def _dump(self) -> None:
        """Leave in the log where each thread is, once, before systemd ends the process."""
        if not self._dumped:
            self._dumped = True
            faulthandler.dump_traceback(sys.stderr.fileno())

    def say(self, text: str) -> None:
        """Put a line under `systemctl status`.

        Args:
            text: Sent when it differs from the last one.
        """
        line = " ".join(text.split())[:_MAX_STATUS]
        if line != self._said:
            self._said = line
            notify(f"STATUS={line}", self._address)

    def stopping(self, within_s: float) -> None:
        """Tell systemd that the end is wanted.

        Args:
            within_s: How long it may take; TimeoutStopSec= is extended to that.
        """
        notify(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(within_s * 1e6)}", self._address)


def notify(message: str, address: str) -> bool:
    """Send a line to systemd.

    Args:
        message: For example "READY=1".
        address: NOTIFY_SOCKET; a leading @ means the abstract namespace.

    Returns:
        Whether there was anyone to send it to.
    """
    if address[:1] not in ("/", "@"):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect("\0" + address[1:] if address[0] == "@" else address)
            sock.sendall(message.encode())
    except OSError as exc:
        _LOG.warning("systemd cannot be notified: %s", exc)
        return False
    return True
