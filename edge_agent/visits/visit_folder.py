"""A folder of visits, bounded in visits and bytes: the oldest visit goes first.

It knows its files from one pass at its beginning, and from what it wrote itself since. Names of visits sort by time.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bundle.visits import VisitRecord, write_visit

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_VISITS = 4000
_RECORD = ".json"


@dataclass(frozen=True, slots=True)
class _Visit:
    files: tuple[str, ...]
    """The record first: a visit is there whole or not at all, also while it is removed."""
    size: int


class VisitFolder:
    """One job's visits.

    Args:
        path: Created when missing; what a kill left there without a record is removed.
        max_bytes: Of all frames and records.

    Attributes:
        size: Bytes that the visits take.

    Raises:
        OSError: The disk refused.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._visits: deque[_Visit] = deque()
        self.size = 0
        path.mkdir(parents=True, exist_ok=True)
        for files in _by_visit(path):
            if not files[0][0].endswith(_RECORD):
                for name, _ in files:
                    (path / name).unlink(missing_ok=True)
            else:
                self._add(_Visit(tuple(name for name, _ in files), sum(size for _, size in files)))

    def write(self, record: VisitRecord, frames: Sequence[bytes]) -> None:
        """Write a visit durably, and remove the oldest ones that it leaves no room for.

        Args:
            record: Names the frames.
            frames: JPEG or PNG files, as many as the record names.

        Raises:
            OSError: The disk refused.
        """
        write_visit(self.path, record, frames)
        name = f"{record.visit}{_RECORD}"
        self._add(_Visit((name, *record.frames), sum(map(len, frames)) + (self.path / name).stat().st_size))
        while len(self._visits) > _MAX_VISITS or self.size > self._max_bytes:
            oldest = self._visits.popleft()
            self.size -= oldest.size
            for file in oldest.files:
                (self.path / file).unlink(missing_ok=True)

    def _add(self, visit: _Visit) -> None:
        self._visits.append(visit)
        self.size += visit.size


def _by_visit(path: Path) -> list[list[tuple[str, int]]]:
    """Names and sizes of each visit's files, the record first where there is one; the oldest visit first."""
    found: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    with os.scandir(path) as entries:
        for entry in entries:
            file = Path(entry.name)
            visit = file.stem if file.suffix == _RECORD else file.stem.rpartition("-")[0]
            found[visit].append((entry.name, entry.stat().st_size))
    return [sorted(found[visit], key=lambda file: not file[0].endswith(_RECORD)) for visit in sorted(found)]
