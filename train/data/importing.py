"""Photos and labels in somebody's layout -> a dataset folder.

By default the photos stay where they are and the manifest refers to them: the public dataset is 30 GB, the sha256 of
every photo tells when one changed, and half a million links are slow to make and slow to delete. `files="link"` or
`"copy"` puts the photos into the dataset folder instead (hard links need the same file system).

Every file of the source ends up in exactly one place: as a row of the manifest, or as a line of rejected.jsonl.

An import that was interrupted leaves the old dataset or none, never old labels on new photos: photos that are brought
along go into a folder of their own (`train.data.bringing`), the old manifest goes before dataset.json points to other
photos, and the new manifest is written last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bundle import durable
from bundle.errors import InputError
from train.data import columns, grouping, layouts
from train.data.bringing import bring_photos, remove_other_photos
from train.data.disk import writing
from train.data.identity import contents_of, equal_texts, number_series
from train.data.listed import Listed, write_listed
from train.data.manifest import Dataset
from train.data.scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from train.data.layouts import Listing
    from train.data.scan import Scan

_TOP_CLASS = 5
_MIXED_SIZE = 224


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to import.

    Attributes:
        open_photos: False leaves the photos closed: no hash, size or blur, and unreadable ones stay unfound.
        files: Where the photos lie afterwards: `reference` where they are, `link` or `copy` in the dataset folder.
        overwrite: Replace the dataset that is there already, with the photos that an import brought into its folder.
        workers: Processes that read photos; None takes one per core, 1 stays in this process.
        on_progress: Called with (photos done, photos in all).
    """

    open_photos: bool = True
    files: Literal["reference", "link", "copy"] = "reference"
    overwrite: bool = False
    workers: int | None = None
    on_progress: Callable[[int, int], None] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Attributes:
        dataset: The dataset as it stands on disk.
        rejected: Every file that was not taken.
        notices: Every file that was taken and deserves a look.
    """

    dataset: Dataset
    rejected: tuple[Listed, ...]
    notices: tuple[Listed, ...]


def import_abid(
    source: Path,
    out: Path,
    *,
    photos: str = "bin-images",
    overwrite: bool = False,
    workers: int | None = None,
) -> Imported:
    """Import a folder in the layout of the public bucket; short for `import_listing(list_abid(...))`.

    Args:
        source: Folder with `metadata/` and the folder of photos.
        out: Dataset folder to write.
        photos: Which folder of photos.
        overwrite: Replace the dataset that is in `out`.
        workers: Processes; None takes one per core.

    Returns:
        The dataset and what was listed.

    Raises:
        InputError: The source has not this layout, nothing usable is in it, or `out` holds a dataset already.
    """
    found = layouts.list_abid(source, photos=photos)
    return import_listing(found, out, ImportOptions(overwrite=overwrite, workers=workers))


def import_listing(found: Listing, out: Path, options: ImportOptions | None = None) -> Imported:
    """Open the photos of a listing and write the dataset folder.

    Args:
        found: What `train.data.layouts` found in a source.
        out: Dataset folder to write.
        options: How.

    Returns:
        The dataset and what was listed.

    Raises:
        InputError: Nothing usable was found, a photo changed meanwhile, or `out` holds a dataset already.
        ConfigError: `out` cannot be written, or hard links do not reach it.
        DiskError: The disk is full. As after every error, `out` then holds no dataset, or the one from before.
    """
    options = options or ImportOptions()
    # Before the photos are read: that can take an hour, and a folder that cannot be written is known at once.
    with writing(out):
        if (out / columns.MANIFEST_NAME).exists() and not options.overwrite:
            raise InputError(f"{out} holds a dataset already", fix="Choose another folder, or pass --overwrite.")
        out.mkdir(parents=True, exist_ok=True)
    scanned = _scan(found, options)
    rejected = tuple(sorted([*found.rejected, *scanned.rejected]))
    if sum(len(batch) for batch in scanned.batches) == 0:
        reasons = "; ".join(f"{entry.name}: {entry.reason}" for entry in rejected[:3])
        raise InputError(f"no usable photo in {found.image_root}", got=reasons or "no photos at all")
    table, declared = _rows(found, scanned.table())
    table = _with_groups(table, declared)
    notices = tuple(sorted([*found.notices, *scanned.notices, *_look_at_whole(table)]))
    root = found.image_root
    if options.files != "reference":
        root = bring_photos(root, table, out, files=options.files, on_progress=options.on_progress)
    _forget_dataset_of_other_photos(out, root)
    write_listed(out / columns.REJECTED_NAME, rejected)
    write_listed(out / columns.NOTICES_NAME, notices)
    columns.write_location(out, root, layout=str(found.note["layout"]))
    columns.write_manifest(out, table, {"import": found.note})
    remove_other_photos(out, kept=root, source=found.image_root)
    return Imported(Dataset.open(out), rejected, notices)


def _forget_dataset_of_other_photos(out: Path, root: Path) -> None:
    """Remove a manifest that would be read with the wrong photos once dataset.json points to `root`."""
    try:
        same = columns.read_location(out).resolve() == root.resolve()
    except InputError:
        same = False
    if not same:
        with writing(out):
            (out / columns.MANIFEST_NAME).unlink(missing_ok=True)
            durable.fsync_dir(out)


def _scan(found: Listing, options: ImportOptions) -> Scan:
    return scan(
        found.image_root,
        found.paths,
        sidecars=found.sidecars,
        open_photos=options.open_photos,
        workers=options.workers if options.open_photos or found.sidecars is not None else 1,
        on_progress=options.on_progress,
    )


def _rows(found: Listing, scanned: pa.Table) -> tuple[pa.Table, pa.Array | None]:
    """Join what was listed with what was seen, in manifest order. Also returns the declared groups in that order."""
    kept = scanned.column("row")
    ids = found.ids.take(kept)
    numbers, _ = number_series(columns.one_chunk(ids))
    order = pc.sort_indices(
        pa.table({"number": np.where(numbers < 0, np.iinfo(np.int64).max, numbers), "id": ids}),
        sort_keys=[("number", "ascending"), ("id", "ascending")],
    )
    asins = scanned.column("asins") if found.asins is None else found.asins.take(kept)
    found_columns = {
        "id": ids,
        "path": found.paths.take(kept),
        "count": scanned.column("count") if found.counts is None else found.counts.take(kept),
        "group": pa.array(np.zeros(len(scanned), np.int32)),
        "asins": asins,
        "split": pa.array(np.full(len(scanned), "")),
    }
    found_columns |= {name: scanned.column(name) for name in ("sha256", "width", "height", "blur", "brightness")}
    table = pa.table({name: found_columns[name] for name in columns.SCHEMA.names}).take(order).cast(columns.SCHEMA)
    declared = None if found.declared is None else columns.one_chunk(found.declared.take(kept).take(order))
    return table, declared


def _with_groups(table: pa.Table, declared: pa.Array | None) -> pa.Table:
    numbers, series = number_series(columns.column(table, "id"))
    links = [equal_texts(columns.column(table, "sha256"))]
    if declared is not None:
        links.append(equal_texts(declared))
    groups = grouping.groups_of(
        grouping.Neighbours(
            numbers,
            series,
            contents_of(columns.column(table, "asins")),
            columns.column(table, "count").to_numpy(),
        ),
        np.concatenate(links),
        blocks=declared is None,
    )
    return table.set_column(table.schema.get_field_index("group"), columns.SCHEMA.field("group"), pa.array(groups))


def _look_at_whole(table: pa.Table) -> list[Listed]:
    """Notice what no single file shows: two spellings, two labels, missing classes, pictures of two kinds."""
    notices = _two_labels(table)
    numbers, _ = number_series(columns.column(table, "id"))
    known = np.flatnonzero(numbers >= 0)
    twins = known[:-1][numbers[known][1:] == numbers[known][:-1]]
    paths, ids = columns.column(table, "path"), columns.column(table, "id")
    for row in twins:
        other = ids[int(row) + 1].as_py()
        reason = f"id {ids[int(row)].as_py()} and id {other} are the same number and are kept as different bins"
        notices.append(Listed(paths[int(row)].as_py(), "two_spellings", reason))
    counts = columns.column(table, "count").to_numpy()
    present = np.unique(counts)
    gaps = [count for count in range(int(present[0]), min(int(present[-1]), _TOP_CLASS)) if count not in present]
    notices += [Listed(f"count {count}", "empty_class", "no photo has this count, larger ones occur") for count in gaps]
    widths, heights = columns.column(table, "width").to_numpy(), columns.column(table, "height").to_numpy()
    squashed = int(((widths == _MIXED_SIZE) & (heights == _MIXED_SIZE)).sum())
    if 0 < squashed < int((widths > 0).sum()):
        reason = f"{squashed} of {len(table)} photos are exactly 224x224: squashed and native photos must not be mixed"
        notices.append(Listed("all photos", "mixed_sizes", reason))
    return notices


def _two_labels(table: pa.Table) -> list[Listed]:
    """Notice files that are equal, byte for byte, and have different counts."""
    pairs = equal_texts(columns.column(table, "sha256"))
    paths, counts = columns.column(table, "path"), columns.column(table, "count").to_numpy()
    return [
        Listed(
            paths[int(one)].as_py(),
            "two_labels",
            f"count {counts[one]}, but {paths[int(other)].as_py()} is the same file with count {counts[other]}",
        )
        for one, other in pairs[counts[pairs[:, 0]] != counts[pairs[:, 1]]]
    ]
