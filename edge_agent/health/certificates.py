"""Tells in time that one of the robot's own certificates ends, until a new one lies in its place."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from edge_agent.delivery.tls import certificate_end

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_SOON = timedelta(days=14)
_EVERY_S = 3600.0


class CertificateWatch:
    """Looks at certificates once an hour. Belongs to the agent's loop.

    Args:
        files: In PEM form, by the key of the configuration that names them.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970 UTC.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = dict(files)
        self._clock = clock
        self._wall_clock = wall_clock
        self._looked_s: float | None = None
        self._ending: dict[str, str] = {}

    @property
    def ending(self) -> dict[str, str]:
        """What ends within two weeks or has ended, in words, by key. What cannot be read the connection tells."""
        now_s = self._clock()
        if self._looked_s is None or now_s - self._looked_s >= _EVERY_S:
            self._looked_s = now_s
            now = datetime.fromtimestamp(self._wall_clock(), timezone.utc)
            found = {key: _words(file, now) for key, file in self._files.items()}
            self._ending = {key: words for key, words in found.items() if words}
        return self._ending


def _words(file: Path, now: datetime) -> str:
    try:
        end = certificate_end(file)
    except (OSError, ValueError):
        return ""
    if end - now >= _SOON:
        return ""
    return f"{'ended' if end < now else 'ends'} on {end:%Y-%m-%d}"
