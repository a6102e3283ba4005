"""Logs on stderr, for people or as JSON lines; a line that repeats too often is held back and summed up.

Secrets never stand in a log: none is ever handed to it on purpose, and what looks like the address of a camera or a key
of a cloud is masked on the way out, tracebacks of libraries included.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import TYPE_CHECKING

from edge_agent.masking import masked

if TYPE_CHECKING:
    from collections.abc import Callable

_PER_WINDOW = 20
_WINDOW_S = 60.0
_MAX_LINES = 256
_MAX_MESSAGE = 8192
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))


class TextFormatter(logging.Formatter):
    """One line for people, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record.

        Args:
            record: What was logged.

        Returns:
            A line, and the traceback if there is one.
        """
        return masked(super().format(record))


class JournalFormatter(logging.Formatter):
    """Puts before each line what journald reads as its priority (sd-daemon(3)).

    Args:
        inner: Writes the line.
    """

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Write a record.

        Args:
            record: What was logged.

        Returns:
            Its lines, each with the priority.
        """
        mark = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{mark}>{line}" for line in self._inner.format(record).splitlines())


class JsonFormatter(logging.Formatter):
    """One JSON object per line, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record.

        Args:
            record: What was logged.

        Returns:
            JSON without a line break.
        """
        fields = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": masked(record.getMessage())[:_MAX_MESSAGE],
        }
        if record.exc_info:
            fields["traceback"] = masked(self.formatException(record.exc_info))[-_MAX_MESSAGE:]
        return json.dumps(fields, ensure_ascii=False)


class Throttle(logging.Filter):
    """Lets a line of the code log so many times a minute, then says once that it is held back.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._window_s = clock()
        self._seen: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide about a record.

        Args:
            record: What was logged.

        Returns:
            Whether it is written.
        """
        now_s = self._clock()
        if now_s - self._window_s >= _WINDOW_S or len(self._seen) >= _MAX_LINES:
            self._window_s, self._seen = now_s, {}
        key = record.pathname, record.lineno
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] == _PER_WINDOW:
            record.msg = f"{record.getMessage()} (further lines like this one are held back for a minute)"
            record.args = ()
        return self._seen[key] <= _PER_WINDOW


def set_up_logs(level: str, *, json_lines: bool) -> None:
    """Send logs to stderr.

    Args:
        level: "debug", "info", "warning" or "error".
        json_lines: One JSON object per line, for journald and log collectors.
    """
    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormatter() if json_lines else TextFormatter("%(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JournalFormatter(formatter) if _is_journal(sys.stderr.fileno()) else formatter)
    handler.addFilter(Throttle())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("botocore", "boto3", "urllib3", "s3transfer"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _is_journal(descriptor: int) -> bool:
    """Whether a stream ends in the journal: systemd names the device and inode of the one that it connected."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))
