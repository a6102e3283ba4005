"""What the inventory system expects in each bin, from a CSV file with the columns bin_id and record."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from bundle.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 256 << 20
_MAX_RECORD = 1_000_000
_COLUMNS = ("bin_id", "record")


def read_records(file: Path) -> dict[str, int]:
    """Read the records.

    Args:
        file: CSV, UTF-8, with a header line; further columns are ignored.

    Returns:
        Expected number of items per bin_id; ids stay strings.

    Raises:
        InputError: The file cannot be read, misses a column, or a line holds no whole number.
    """
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise InputError(f"{file} is too large", expected=f"at most {_MAX_BYTES} bytes", fix="Split it by robot.")
        with file.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise InputError(
                    f"{file} misses the column {missing[0]}",
                    got=", ".join(reader.fieldnames or ()) or "no header",
                    expected=", ".join(_COLUMNS),
                    fix="Write the column names into its first line.",
                )
            return {row["bin_id"]: _number(row["record"], file, reader.line_num) for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise InputError(f"{file} cannot be read", got=exc, fix="Check records.file in the configuration.") from exc


def _number(text: str | None, file: Path, line: int) -> int:
    cleaned = (text or "").strip()
    if not cleaned.isdecimal() or int(cleaned) > _MAX_RECORD:
        raise InputError(
            f"{file}, line {line}: record is no count",
            got=repr(text),
            expected=f"a whole number from 0 to {_MAX_RECORD}",
            fix="Correct the line, or remove it.",
        )
    return int(cleaned)
