"""metrics.jsonl: the one truth about how a run went, a line per logged step and per epoch.

Lines are appended; a resumed run first cuts off what was written after its checkpoint, so no step stands there twice.
"""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any

from bundle.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from train.tracking import Tracker


class MetricStream:
    """Appends to metrics.jsonl.

    Args:
        path: The file.
        keep_bytes: What a checkpoint says was written when it was made; the rest is cut off.
        trackers: Told every record, first those that were kept.

    Raises:
        InputError: The file cannot be opened.
    """

    def __init__(self, path: Path, *, keep_bytes: int = 0, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = trackers
        try:
            path.touch()
            if path.stat().st_size > keep_bytes:
                os.truncate(path, keep_bytes)
            self._file = path.open("ab")
        except OSError as exc:
            raise InputError(f"cannot write {path}", got=exc.strerror) from exc
        for tracker in trackers:
            tracker.resume(read_stream(path))

    def append(self, record: dict[str, Any]) -> None:
        """Write one line.

        Args:
            record: Figures by name; what is not finite becomes null.
        """
        clean = {name: _finite(value) for name, value in record.items()}
        self._file.write(json.dumps(clean, allow_nan=False).encode() + b"\n")
        for tracker in self._trackers:
            tracker.record(clean)

    def append_all(self, records: Iterable[dict[str, Any]]) -> None:
        """Write some lines.

        Args:
            records: As `append` takes them.
        """
        for record in records:
            self.append(record)

    def flush(self) -> int:
        """Make every line so far durable.

        Returns:
            Size of the file, bytes: what a checkpoint remembers.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_stream(path: Path, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """Read metrics.jsonl.

    Args:
        path: The file.
        kind: "step" or "epoch"; None gives both.

    Yields:
        Records in order; a last line torn by a crash is left out.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as exc:
        raise InputError(f"cannot read {path}", got=exc.strerror) from exc
    for line in lines:
        record: dict[str, Any] = json.loads(line)
        if kind in (None, record.get("kind")):
            yield record


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
