"""Visits on disk: the frames of one look at one bin, and its count when a person has given it.

The machine's own layout is one JSON file per visit, written after its frames, so that a visit is there whole or not at
all and a folder may grow while it is read:

```
VISITS/<visit>.json   {"visit": "...", "bin_id": "...", "frames": ["<visit>-0.jpg"], "captured_at": "...", "label": 3}
VISITS/<visit>-0.jpg
```
`calibration.layouts` reads the two layouts that people have: a table, and a folder of the public bin dataset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from bundle import images
from bundle.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

MAX_VISITS = 200_000
_MAX_RECORD_BYTES = 64 << 10
_PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
MAX_LABEL = 9999


class VisitRecord(BaseModel):
    """The content of one visit's JSON file.

    Attributes:
        visit: Name of the visit, that of the file.
        bin_id: Which bin.
        frames: File names beside it, at least one.
        captured_at: When, with an offset; None when the clock was not to be trusted.
        label: Count that a person gave; None without one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    visit: Annotated[str, Field(pattern=_PLAIN_NAME)]
    bin_id: Annotated[str, Field(min_length=1, max_length=255)]
    frames: Annotated[tuple[Annotated[str, Field(pattern=_PLAIN_NAME)], ...], Field(min_length=1, max_length=32)]
    captured_at: AwareDatetime | None = None
    label: Annotated[int, Field(ge=0, le=MAX_LABEL)] | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """One look at one bin.

    Attributes:
        name: Of the visit.
        bin_id: Visits of one bin are never split up and never counted as independent.
        frames: Photo files, at least one.
        label: Count that a person gave, or None.
    """

    name: str
    bin_id: str
    frames: tuple[Path, ...]
    label: int | None


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
    return Visit(record.visit, record.bin_id, tuple(folder / name for name in record.frames), record.label)
