"""Labelled visits as people have them: a table beside photos, or a folder of the public bin dataset.

A table is `visits.csv` with the columns `photo` and `count`, and if wanted `visit` (rows with the same one are frames
of one visit) and `bin_id`. An empty `count` is a visit without a label. The public dataset's layout is
`bin-images/NAME.jpg` with `metadata/NAME.json`; neighbouring numbers that share an article show the same bin before and
after one pick.
"""

from __future__ import annotations

import csv
import json
import re
from typing import TYPE_CHECKING

from bundle.errors import InputError
from bundle.visits import MAX_LABEL
from calibration.visits import MAX_VISITS, Visit, read_records

if TYPE_CHECKING:
    from pathlib import Path

_TABLE = "visits.csv"
_MAX_TABLE_BYTES = 256 << 20
_PADDED_DIGITS = 5
_NUMBER = re.compile(r"[0-9]+")


def read_visits(folder: Path) -> list[Visit]:
    """Read the visits of a folder in whichever of the three layouts it has.

    Args:
        folder: Of visits.

    Returns:
        The visits, at least one.

    Raises:
        InputError: It holds no visits, or something in it is malformed.
    """
    if not is_table_or_dataset(folder):
        visits = read_records(folder)
    elif (folder / _TABLE).is_file():
        visits = _from_table(folder, folder / _TABLE)
    else:
        visits = _from_dataset(folder)
    if not visits:
        raise InputError(
            f"{folder} holds no visits",
            expected=f"{_TABLE}, or bin-images/ with metadata/, or one JSON file per visit",
            fix="docs/calibration.md shows the three layouts.",
        )
    return visits


def is_table_or_dataset(folder: Path) -> bool:
    """Tell the layouts of people from the machine's own.

    Args:
        folder: Of visits.

    Returns:
        True for a table or the public dataset's layout.
    """
    return (folder / _TABLE).is_file() or ((folder / "bin-images").is_dir() and (folder / "metadata").is_dir())


def _from_table(folder: Path, table: Path) -> list[Visit]:
    try:
        if table.stat().st_size > _MAX_TABLE_BYTES:
            raise InputError(f"{table} is too large", expected=f"at most {_MAX_TABLE_BYTES} bytes")
        with table.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            missing = {"photo", "count"} - set(reader.fieldnames or ())
            if missing:
                raise InputError(
                    f"{table} misses a column",
                    got=", ".join(reader.fieldnames or ()) or "no header",
                    expected="photo, count",
                    fix="Write the column names into its first line.",
                )
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise InputError(f"{table} cannot be read", got=exc, fix="Save it as CSV in UTF-8.") from exc
    return _joined(folder, table, rows)


def _joined(folder: Path, table: Path, rows: list[tuple[int, dict[str, str | None]]]) -> list[Visit]:
    visits: dict[str, Visit] = {}
    for line, row in rows:
        photo = (row["photo"] or "").strip()
        if not photo or (folder / photo).resolve().parent != folder.resolve():
            raise InputError(f"{table}, line {line}: photo is no file name in {folder}", got=repr(photo))
        name = (row.get("visit") or "").strip() or photo
        found = Visit(name, (row.get("bin_id") or "").strip() or name, (folder / photo,), _label(table, line, row))
        known = visits.get(name)
        if known is not None and (known.label, known.bin_id) != (found.label, found.bin_id):
            raise InputError(
                f"{table}, line {line}: visit {name!r} has two counts or two bins",
                got=f"{found.label} of {found.bin_id}",
                expected=f"{known.label} of {known.bin_id}",
                fix="Correct the line, or give the visits different names.",
            )
        frames = (*known.frames, *found.frames) if known else found.frames
        visits[name] = Visit(name, found.bin_id, frames, found.label)
    return list(visits.values())


def _label(table: Path, line: int, row: dict[str, str | None]) -> int | None:
    text = (row["count"] or "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) > MAX_LABEL:
        raise InputError(
            f"{table}, line {line}: count is no count",
            got=repr(text),
            expected=f"a whole number from 0 to {MAX_LABEL}, or nothing",
            fix="Correct the line, or remove it.",
        )
    return int(text)


def _from_dataset(folder: Path) -> list[Visit]:
    photos = sorted(folder.joinpath("bin-images").glob("*.jpg"), key=lambda file: _order(file.stem))
    if len(photos) > MAX_VISITS:
        raise InputError(f"{folder} holds too many photos", got=len(photos), expected=f"at most {MAX_VISITS}")
    visits: list[Visit] = []
    before: tuple[str, set[str]] = ("", set())
    for photo in photos:
        metadata = folder / "metadata" / f"{photo.stem}.json"
        if not metadata.is_file():
            continue
        count, articles = _metadata(metadata)
        same_bin = _follows(before[0], photo.stem) and bool(before[1] & articles)
        bin_id = visits[-1].bin_id if same_bin else photo.stem
        visits.append(Visit(photo.stem, bin_id, (photo,), count))
        before = (photo.stem, articles)
    return visits


def _metadata(file: Path) -> tuple[int, set[str]]:
    try:
        content = json.loads(file.read_bytes())
        return int(content["EXPECTED_QUANTITY"]), set(content.get("BIN_FCSKU_DATA", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise InputError(f"{file} is no metadata of the bin dataset", got=repr(exc), fix="Fetch it again.") from exc


def _series(stem: str) -> int:
    # Zero-padded names have five digits or more; plain ones end at 1200. 1044 and 01044 are different bins.
    return int(len(stem) >= _PADDED_DIGITS)


def _order(stem: str) -> tuple[int, int, str]:
    return (_series(stem), int(stem) if _NUMBER.fullmatch(stem) else -1, stem)


def _follows(left: str, right: str) -> bool:
    if not (_NUMBER.fullmatch(left) and _NUMBER.fullmatch(right)):
        return False
    return _series(left) == _series(right) and int(right) - int(left) == 1
