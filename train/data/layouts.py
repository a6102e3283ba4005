"""What lies in a source, and under which label: three layouts, one kind of listing. No photo is opened here.

- `abid`: the public bucket's own layout, `PHOTOS/ID.jpg` and `metadata/ID.json`; the label is EXPECTED_QUANTITY.
- `folders`: `COUNT/ID.jpg`, one folder per count; a name that lies in several of them becomes the id `COUNT-NAME`.
- `csv`: a table with the columns `path` and `count`, and if wanted `id`, `asins` (separated by blanks), `group`.

Every file of a source is either listed as a photo or as rejected, by name and reason.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from bundle.errors import InputError
from bundle.images import PHOTO_SUFFIXES
from train.data.abid import MAX_COUNT
from train.data.listed import Listed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYOUTS = ("abid", "folders", "csv")
_ASINS = pa.list_(pa.string())


@dataclass(slots=True)
class Listing:
    """Photos of a source before anything was opened. The arrays have one entry per photo.

    Attributes:
        image_root: Folder that the paths start from.
        note: What decides the manifest's content: layout and options, no machine path.
        ids: Arrow strings: ids as spelled by the source.
        paths: Arrow strings: paths relative to `image_root`.
        counts: Arrow int32: labels, or None when they come from sidecars.
        sidecars: Arrow strings: JSON sidecar of each photo relative to `image_root`, or None.
        asins: Arrow list<string>: contents, or None when they come from sidecars or nobody knows them.
        declared: Arrow strings: group that the source names ("" for none), or None.
        rejected: What was sorted out while listing.
        notices: What deserves a look.
    """

    image_root: Path
    note: dict[str, Any]
    ids: pa.Array
    paths: pa.Array
    counts: pa.Array | None = None
    sidecars: pa.Array | None = None
    asins: pa.Array | None = None
    declared: pa.Array | None = None
    rejected: list[Listed] = field(default_factory=list)
    notices: list[Listed] = field(default_factory=list)


def detect_layout(source: Path) -> str:
    """Recognise a layout.

    Args:
        source: A folder or a CSV file.

    Returns:
        One of `LAYOUTS`.

    Raises:
        InputError: It is none of them.
    """
    if source.is_file() and source.suffix.lower() == ".csv":
        return "csv"
    if source.is_dir():
        if (source / "metadata").is_dir():
            return "abid"
        if any(entry.name.isdecimal() and entry.is_dir() for entry in source.iterdir()):
            return "folders"
    raise InputError(
        f"{source} has no layout that can be imported",
        got="a folder" if source.is_dir() else "a file" if source.exists() else "nothing there",
        expected="photos and metadata/ID.json, or folders named by count, or a .csv with the columns path and count",
        fix="Name the layout with --layout to see what is missing.",
    )


def list_abid(source: Path, *, photos: str = "bin-images") -> Listing:
    """List a folder in the layout of the public bucket.

    Args:
        source: Folder with `metadata/` and the folder of photos.
        photos: Which folder of photos. Folders of different picture sizes must not be mixed in one dataset: a network
            would learn the counts from the scaling.

    Returns:
        Its photos.

    Raises:
        InputError: One of the folders is missing.
    """
    for folder in (source / photos, source / "metadata"):
        if not folder.is_dir():
            raise InputError(
                f"{source} has not the layout of the public bucket",
                got=f"no folder {folder.name}",
                expected=f"{photos}/NAME.jpg and metadata/NAME.json",
                fix="Name the photo folder with --photos, or choose another --layout.",
            )
    rejected: list[Listed] = []
    stems: dict[str, str] = {}
    for stem, path in _photos_in(source, photos, rejected):
        taken = stems.setdefault(stem, path)
        if taken != path:
            rejected.append(Listed(path, "duplicate_id", f"id {stem} is taken by {taken} already"))
    sidecars = [f"metadata/{stem}.json" for stem in stems]
    records = {entry.name for entry in os.scandir(source / "metadata") if entry.name.endswith(".json")}
    orphans = sorted(records.difference(name.removeprefix("metadata/") for name in sidecars))
    return Listing(
        source,
        {"layout": "abid", "photos": photos},
        pa.array(stems.keys(), pa.string()),
        pa.array(stems.values(), pa.string()),
        sidecars=pa.array(sidecars, pa.string()),
        rejected=rejected,
        notices=[Listed(f"metadata/{name}", "photo_missing", f"no photo of it in {photos}/") for name in orphans],
    )


def list_folders(source: Path) -> Listing:
    """List folders named by count.

    Args:
        source: Folder with folders named `0`, `1`, `2` ...

    Returns:
        Their photos. Files are often numbered anew in each folder (`1/00000.jpg`, `2/00000.jpg`), so a name that lies
        in several folders gets the folder into its id (`1-00000`, `2-00000`); the other names are ids as they are,
        because the number may be the bin's.

    Raises:
        InputError: There is no folder named by a count.
    """
    rejected: list[Listed] = []
    notices: list[Listed] = []
    photos: list[tuple[str, str, str]] = []
    entries = sorted(os.scandir(source), key=lambda entry: entry.name) if source.is_dir() else []
    folders = [entry.name for entry in entries if entry.is_dir()]
    if not any(name.isdecimal() for name in folders):
        raise InputError(f"{source} has no folder named by a count", got=", ".join(folders) or "no folders")
    rejected += [Listed(e.name, "not_in_a_class", "lies outside the count folders") for e in entries if e.is_file()]
    for name in folders:
        found = list(_photos_in(source, name, rejected if _is_count(name) else []))
        if not _is_count(name):
            reason = f"in folder {name!r}: expected a count from 0 to {MAX_COUNT}"
            rejected += [Listed(path, "count_out_of_range", reason) for _, path in found]
        elif not found:
            notices.append(Listed(f"{name}/", "empty_class", "no photo in the folder of this count"))
        else:
            photos += [(name, stem, path) for stem, path in found]
    shared = _stems_in_several_folders(photos)
    places: dict[str, list[tuple[str, int]]] = {}
    for name, stem, path in photos:
        identity = f"{name}-{stem}" if stem in shared else stem
        places.setdefault(identity, []).append((path, int(name)))
    if shared:
        reason = f"{len(shared)} names such as {min(shared)} lie in several folders; their ids are COUNT-NAME"
        notices.append(Listed("count folders", "numbered_per_folder", reason))
    for identity, where in places.items():
        if len(where) > 1:
            everywhere = ", ".join(path for path, _ in where)
            rejected += [Listed(path, "duplicate_id", f"id {identity} lies at {everywhere}") for path, _ in where]
    single = {identity: where[0] for identity, where in places.items() if len(where) == 1}
    return Listing(
        source,
        {"layout": "folders"},
        pa.array(single.keys(), pa.string()),
        pa.array([path for path, _ in single.values()], pa.string()),
        counts=pa.array([count for _, count in single.values()], pa.int32()),
        rejected=rejected,
        notices=notices,
    )


def _stems_in_several_folders(photos: list[tuple[str, str, str]]) -> set[str]:
    """Find names that say nothing without their folder. Takes (folder, stem, path)."""
    folders: dict[str, set[str]] = {}
    for name, stem, _ in photos:
        folders.setdefault(stem, set()).add(name)
    return {stem for stem, names in folders.items() if len(names) > 1}


def _is_count(name: str) -> bool:
    return name.isascii() and name.isdecimal() and int(name) <= MAX_COUNT


def _photos_in(source: Path, folder: str, rejected: list[Listed]) -> Iterator[tuple[str, str]]:
    """Yield (stem, relative path) of a folder's photos in the order of names, and list everything else."""
    for entry in sorted(os.scandir(source / folder), key=lambda entry: entry.name):
        path = f"{folder}/{entry.name}"
        stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122 - a Path per photo costs more than the listing
        if entry.is_dir():
            rejected.append(Listed(path, "not_a_photo", "is a folder"))
        elif entry.name.endswith(".part"):
            rejected.append(Listed(path, "not_a_photo", "is an unfinished download"))
        elif suffix.lower() not in PHOTO_SUFFIXES:
            rejected.append(Listed(path, "not_a_photo", f"expected a name ending in {', '.join(PHOTO_SUFFIXES)}"))
        else:
            yield stem, path


def list_csv(source: Path) -> Listing:
    """List a CSV with one line per photo.

    Args:
        source: The file; its paths start from the folder that it lies in.

    Returns:
        Its photos. Works on whole columns: half a million lines take about a second.

    Raises:
        InputError: Not a CSV, or without the columns `path` and `count`.
    """
    table = _read_csv(source)
    given = set(table.column_names)
    paths = pc.utf8_trim_whitespace(table.column("path").combine_chunks())
    ids = pc.utf8_trim_whitespace(table.column("id").combine_chunks()) if "id" in given else _stems(paths)
    labels = pc.utf8_trim_whitespace(table.column("count").combine_chunks())
    line = np.arange(2, len(table) + 2)
    plain = pc.match_substring_regex(labels, "^[0-9]{1,5}$")
    counts = pc.cast(pc.if_else(plain, labels, "-1"), pa.int32())
    numbers = counts.to_numpy(zero_copy_only=False)
    bad_count = (numbers < 0) | (numbers > MAX_COUNT)
    no_path = pc.equal(paths, "").to_numpy(zero_copy_only=False)
    outside = pc.match_substring_regex(paths, r"^/|(^|/)\.\.(/|$)").to_numpy(zero_copy_only=False)
    repeated = _repeated(ids) & ~bad_count & ~no_path
    rejected: list[Listed] = []
    for kind, where, reason in (
        ("count_out_of_range", bad_count, f"count is {{label!r}}, expected 0 to {MAX_COUNT}"),
        ("path_missing", no_path & ~bad_count, "the path is empty"),
        ("path_outside", outside & ~bad_count, "path {path!r} leaves the folder of the CSV"),
        ("duplicate_id", repeated & ~outside, "id {id!r} stands on an earlier line already"),
    ):
        for row in np.flatnonzero(where):
            facts = {"label": labels[row].as_py(), "path": paths[row].as_py(), "id": ids[row].as_py()}
            rejected.append(Listed(f"{source.name} line {line[row]}", kind, reason.format(**facts)))
    good = pa.array(np.flatnonzero(~(bad_count | no_path | outside | repeated)))
    asins = table.column("asins").combine_chunks() if "asins" in given else None
    declared = table.column("group").combine_chunks() if "group" in given else None
    return Listing(
        source.parent,
        {"layout": "csv", "groups": "by record" if declared is None else "declared"},
        ids.take(good),
        paths.take(good),
        counts=counts.take(good),
        asins=None if asins is None else _split_asins(asins.take(good)),
        declared=None if declared is None else declared.take(good),
        rejected=rejected,
    )


def _read_csv(source: Path) -> pa.Table:
    try:
        with source.open("rb") as file:
            header = file.readline().decode("utf-8-sig")
        # Everything as text: `00001` is an id, not a number.
        names = [name.strip().strip('"') for name in header.split(",")]
        options = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        table = pacsv.read_csv(source, convert_options=options)
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid) as exc:
        raise InputError(f"{source} is not a CSV file in UTF-8", got=str(exc), fix="Export the table again.") from exc
    missing = {"path", "count"}.difference(table.column_names)
    if missing:
        raise InputError(
            f"{source} lacks the column {' and '.join(sorted(missing))}",
            got=", ".join(table.column_names),
            expected="path, count, and if wanted id, asins, group",
        )
    return table


def _stems(paths: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(paths, r"^.*/|\.[^./]*$", "")


def _repeated(ids: pa.Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Mark every line whose id stands on an earlier line."""
    codes = ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    first = np.unique(codes, return_index=True)[1]
    repeated = np.ones(len(codes), dtype=np.bool_)
    repeated[first] = False
    return repeated


def _split_asins(text: pa.Array) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(text)
    pieces = pc.split_pattern_regex(trimmed, r"[\s;|]+")
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar([], _ASINS), pieces)
