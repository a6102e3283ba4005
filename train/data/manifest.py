"""The dataset folder: one manifest, read column by column.

```
DATASET/
  manifest.parquet   one row per photo; the identity of the dataset (`Dataset.digest` is its sha256)
  dataset.json       where the photos lie on this machine; not part of the identity
  rejected.jsonl     every file that was not taken, with the reason
  notices.jsonl      every file that was taken and deserves a look, with the reason
```
Invariants:
- ids are strings. `1044` and `01044` are different bins of the public dataset; a cast to int corrupts labels.
- Rows are ordered by (number in the id, spelling), so neighbouring bins are neighbouring rows.
- Paths are relative to the image root, so one manifest has the same bytes on every machine.
- Unknown values: sha256 "", width and height 0, blur and brightness NaN, split "". ASINs alone may be null ("nobody
  wrote down what lay in the bin"), which is not the same as an empty list ("nothing lay in it").
- Equal content gives equal bytes (see `train.data.columns`), so the digest identifies photos, labels and split.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bundle import durable
from bundle.errors import InputError
from train.data.columns import (
    MANIFEST_NAME,
    SCHEMA,
    column,
    one_chunk_each,
    read_location,
    read_manifest,
    write_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset folder that has been opened.

    Numeric columns are read-only numpy views of one contiguous buffer each; text columns stay Arrow arrays, because a
    Python string per photo costs 50 bytes and a pointer. `row` always means the position in the manifest.

    Attributes:
        folder: The dataset folder.
        image_root: Folder that the manifest's paths start from.
        table: The manifest as an Arrow table with the columns of `SCHEMA`.
        digest: sha256 of manifest.parquet, 64 hexadecimal digits: the identity of the dataset, its split included.
        note: How the manifest came about (import options, split options), as written into it.
    """

    folder: Path
    image_root: Path
    table: pa.Table
    digest: str
    note: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """Open a dataset folder.

        Args:
            folder: A folder written by an import.

        Returns:
            The dataset, its manifest in memory (about 120 bytes per photo), no photo touched.

        Raises:
            InputError: No dataset there, or its manifest is damaged or of another format.
        """
        table, note = read_manifest(folder)
        return cls(folder, read_location(folder), table, durable.sha256_file(folder / MANIFEST_NAME), note)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def counts(self) -> NDArray[np.int32]:
        """Items in each bin: int32, (rows,)."""
        return self._numbers("count")

    @property
    def widths(self) -> NDArray[np.int32]:
        """Pixels: int32, (rows,); 0 where the photo was not opened."""
        return self._numbers("width")

    @property
    def heights(self) -> NDArray[np.int32]:
        """Pixels: int32, (rows,); 0 where the photo was not opened."""
        return self._numbers("height")

    @property
    def groups(self) -> NDArray[np.int32]:
        """Photos with the same number show the same bin (see `train.data.grouping`): int32, (rows,)."""
        return self._numbers("group")

    @property
    def blurs(self) -> NDArray[np.float32]:
        """Variance of the Laplacian of the 8-bit grey picture; low is blurred: float32, (rows,), NaN unknown."""
        return self._numbers("blur")

    @property
    def brightnesses(self) -> NDArray[np.float32]:
        """Mean grey value, 0..255: float32, (rows,), NaN unknown."""
        return self._numbers("brightness")

    @property
    def ids(self) -> pa.Array:
        """Ids: Arrow strings, (rows,)."""
        return column(self.table, "id")

    @property
    def paths(self) -> pa.Array:
        """Paths relative to `image_root`: Arrow strings, (rows,)."""
        return column(self.table, "path")

    @property
    def hashes(self) -> pa.Array:
        """sha256 of the photos' files, "" where the photo was not opened: Arrow strings, (rows,)."""
        return column(self.table, "sha256")

    @property
    def splits(self) -> pa.Array:
        """Split names, "" where unassigned: Arrow strings, (rows,)."""
        return column(self.table, "split")

    @property
    def asins(self) -> pa.Array:
        """What the record says lay in the bin: Arrow list<string>, (rows,), null where unknown."""
        return column(self.table, "asins")

    def id_of(self, row: int) -> str:
        """Return the id of one row.

        Args:
            row: Position in the manifest.

        Returns:
            The id as spelled by the source.
        """
        return str(self.ids[int(row)])

    def path_of(self, row: int) -> Path:
        """Return where the photo of one row lies.

        Args:
            row: Position in the manifest.

        Returns:
            The photo's path on this machine.
        """
        return self.image_root / str(self.paths[int(row)])

    def split_names(self) -> tuple[str, ...]:
        """Return the splits that have photos.

        Returns:
            Names in alphabetical order, without the unassigned "".
        """
        return tuple(sorted(name for name in pc.unique(self.splits).to_pylist() if name))

    def select(
        self, *, split: str | Collection[str] | None = None, counts: Collection[int] | None = None
    ) -> NDArray[np.int64]:
        """Find rows.

        Args:
            split: Name or names to keep, in one text joined by commas; None keeps every row, assigned or not.
            counts: Counts to keep, such as `range(6)`; None keeps all.

        Returns:
            int64, (n,), ascending rows.

        Raises:
            InputError: A split of that name does not exist.
        """
        keep = np.ones(len(self), dtype=np.bool_)
        if split is not None:
            names = split.split(",") if isinstance(split, str) else sorted(split)
            missing = sorted(set(names) - set(self.split_names()))
            if missing:
                raise InputError(
                    f"dataset {self.folder} has no split {', '.join(missing)}",
                    got=", ".join(self.split_names()) or "no split at all",
                    fix="Split it with `bintally data split`.",
                )
            keep &= pc.is_in(self.splits, value_set=pa.array(names)).to_numpy(zero_copy_only=False)
        if counts is not None:
            keep &= np.isin(self.counts, np.fromiter(counts, np.int64))
        return np.flatnonzero(keep)

    def group_count(self) -> int:
        """Return how many groups there are.

        Returns:
            Their number.
        """
        return int(np.count_nonzero(np.bincount(self.groups)))

    def class_sizes(self, split: str | None, *, top: int) -> dict[str, int]:
        """Count photos by class.

        Args:
            split: Name of a split; None counts all photos.
            top: Counts from here on are one class, written as in "6+".

        Returns:
            Class to number of photos; every class from "0" to the open one, also empty ones.
        """
        counts = self.counts if split is None else self.counts[self.select(split=split)]
        sizes = np.bincount(np.minimum(counts, top), minlength=top + 1)
        return {f"{count}+" if count == top else str(count): int(size) for count, size in enumerate(sizes)}

    def split_codes(self) -> NDArray[np.int64]:
        """Return the split of each photo as a number.

        Returns:
            int64, (rows,): position in `split_names()`, -1 where unassigned.
        """
        codes = pc.index_in(self.splits, value_set=pa.array(self.split_names(), pa.string()))
        numbers: NDArray[np.int64] = pc.fill_null(codes, -1).to_numpy().astype(np.int64)
        return numbers

    def with_splits(self, codes: NDArray[np.int64], names: Sequence[str]) -> pa.Table:
        """Return the manifest with another split column.

        Args:
            codes: int64, (rows,): position in `names`, -1 for unassigned.
            names: The splits.

        Returns:
            The new table; nothing is written.
        """
        labels = pa.array([*names, ""], pa.string()).take(pa.array(np.where(codes < 0, len(names), codes)))
        return self.table.set_column(SCHEMA.get_field_index("split"), SCHEMA.field("split"), labels)

    def preview(self, table: pa.Table, note: Mapping[str, Any]) -> Dataset:
        """Return the dataset as it would be after `save`, without writing.

        Args:
            table: The new manifest.
            note: What to remember about how it came about.

        Returns:
            The dataset, its digest empty.
        """
        return replace(self, table=one_chunk_each(table.cast(SCHEMA)), digest="", note=dict(note))

    def save(self, table: pa.Table, note: Mapping[str, Any]) -> Dataset:
        """Replace the manifest on disk, atomically.

        Args:
            table: The new manifest with the columns of `SCHEMA`, in manifest order.
            note: What to remember about how it came about.

        Returns:
            The dataset as it now stands on disk.

        Raises:
            ConfigError: The folder cannot be written.
            DiskError: The disk is full; the old manifest is then still there.
        """
        return replace(self.preview(table, note), digest=write_manifest(self.folder, table, note))

    def _numbers(self, name: str) -> NDArray[Any]:
        values: NDArray[Any] = column(self.table, name).to_numpy(zero_copy_only=True)
        return values
