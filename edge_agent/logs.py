"""Logs on stderr, for people or as JSON lines; a line that repeats too often is held back and summed up."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PER_WINDOW = 20
_WINDOW_S = 60.0
_MAX_LINES = 256


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

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
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
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
    handler.setFormatter(JsonFormatter() if json_lines else logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    handler.addFilter(Throttle())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("botocore", "boto3", "urllib3", "s3transfer"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
