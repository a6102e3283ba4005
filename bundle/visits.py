"""A visit on disk, as a robot writes it and calibration reads it.

One JSON file per visit, written after its frames, so that a visit is there whole or not at all and a folder may grow
while it is read:

```
VISITS/<visit>.json   {"visit": "...", "bin_id": "...", "frames": ["<visit>-0.jpg"], "captured_at": "...", "label": 3}
VISITS/<visit>-0.jpg
```
Names that sort by time let a reader take the newest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from bundle.durable import write_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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


def write_visit(folder: Path, record: VisitRecord, frames: Sequence[bytes]) -> None:
    """Write a visit, durably: its frames first, then the record that makes it exist.

    Args:
        folder: Must exist.
        record: Names the frames.
        frames: JPEG or PNG files, as many as the record names.

    Raises:
        OSError: The disk refused; the visit does not exist then.
        ValueError: The record names another number of frames.
    """
    for name, data in zip(record.frames, frames, strict=True):
        write_bytes(folder / name, data)
    write_bytes(folder / f"{record.visit}.json", (record.model_dump_json() + "\n").encode())
