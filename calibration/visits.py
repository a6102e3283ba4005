"""Visits that calibration learns from: the frames of one look at one bin, and its count when a person has given it.

`bundle.visits` is the machine's own layout, which may grow while it is read; `calibration.layouts` reads the two
layouts that people have: a table, and a folder of the public bin dataset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from bundle import images
from bundle.errors import InputError
from bundle.visits import VisitRecord

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

MAX_VISITS = 200_000
_MAX_RECORD_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Visit:
    """One look at one bin.

    Attributes:
        name: Of the visit.
        bin_id: Visits of one bin are never split up and never counted as independent.
        frames: Photo files, at least one.
        label: Count that a person gave, or None.
        captured_at: When, with an offset; None where nobody knows.
    """

    name: str
    bin_id: str
    frames: tuple[Path, ...]
    label: int | None
    captured_at: datetime | None = None


def read_records(folder: Path, *, seen: frozenset[str] = frozenset()) -> list[Visit]:
    """Read the visits of a folder in the machine's layout, oldest file name first.

    Args:
        folder: May still grow.
        seen: Names of record files that are known already; they are not opened again.

    Returns:
        The visits that are whole.

    Raises:
        InputError: The folder cannot be read, or a record is malformed.
    """
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == ".json" and file.name not in seen)
    except OSError as exc:
        raise InputError(f"{folder} cannot be read", got=exc.strerror, fix="Name a folder of visits.") from exc
    if len(files) > MAX_VISITS:
        raise InputError(f"{folder} holds too many visits", got=len(files), expected=f"at most {MAX_VISITS}")
    return [_visit(folder, file) for file in files]


def _visit(folder: Path, file: Path) -> Visit:
    try:
        record = VisitRecord.model_validate_json(images.read_bytes(file, max_bytes=_MAX_RECORD_BYTES))
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(
            f"{file} is no visit, at {where}", got=first["msg"], fix="Remove the file, or write it again."
        ) from exc
    if record.visit != file.stem:
        raise InputError(f"{file} is no visit, at visit", got=record.visit, expected=file.stem, fix="Rename the file.")
    frames = tuple(folder / name for name in record.frames)
    return Visit(record.visit, record.bin_id, frames, record.label, record.captured_at)
