"""What an import did not take, or took with a remark: by name and reason, never silently."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bundle import durable
from train.data.disk import writing

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Listed:
    """One file or row that deserves a line.

    Attributes:
        name: What the source calls it: a path relative to the source, or `file.csv line 7`.
        kind: Machine-readable reason, such as `unreadable_photo`.
        reason: The same for people: what was found and what was expected.
    """

    name: str
    kind: str
    reason: str


def write_listed(path: Path, entries: Iterable[Listed]) -> None:
    """Write one JSON object per line, in the order of the names.

    Args:
        path: Destination; replaced whole.
        entries: What to list.

    Raises:
        ConfigError: The destination cannot be written.
        DiskError: The disk is full.
    """
    lines = [json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in sorted(entries)]
    with writing(path):
        durable.write_bytes(path, "".join(lines).encode())


def count_kinds(entries: Iterable[Listed]) -> dict[str, int]:
    """Count entries by kind.

    Args:
        entries: What was listed.

    Returns:
        Kind to number, in alphabetical order.
    """
    kinds: dict[str, int] = {}
    for entry in entries:
        kinds[entry.kind] = kinds.get(entry.kind, 0) + 1
    return dict(sorted(kinds.items()))
