"""What changed: between two datasets, and between a dataset and the photos on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from train.data.listed import Listed
from train.data.scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable

    from train.data.manifest import Dataset

COMPARED = ("sha256", "count", "asins", "split")


@dataclass(frozen=True, slots=True)
class Difference:
    """How two datasets differ, by id.

    Attributes:
        removed: Ids that only the first has.
        added: Ids that only the second has.
        changed: Column to the ids whose value differs.
    """

    removed: tuple[str, ...]
    added: tuple[str, ...]
    changed: dict[str, tuple[str, ...]]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.removed or self.added or any(self.changed.values()))


def difference(first: Dataset, second: Dataset) -> Difference:
    """Compare two datasets photo by photo.

    Args:
        first: The older one.
        second: The newer one.

    Returns:
        What differs. Paths, groups and measured values are not compared: they follow from the photos.
    """
    in_second = pc.index_in(first.ids, value_set=second.ids)
    in_first = pc.is_in(second.ids, value_set=first.ids)
    kept = in_second.is_valid()
    left = first.table.filter(kept)
    right = second.table.take(in_second.filter(kept))
    changed = {}
    for name in COMPARED:
        one, two = left.column(name), right.column(name)
        if name == "asins":
            one, two = (pc.binary_join(pc.fill_null(_lists(column), []), " ") for column in (one, two))
        changed[name] = tuple(left.column("id").filter(pc.not_equal(one, two)).to_pylist())
    return Difference(
        removed=tuple(first.ids.filter(pc.invert(kept)).to_pylist()),
        added=tuple(second.ids.filter(pc.invert(in_first)).to_pylist()),
        changed=changed,
    )


def _lists(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def verify_photos(
    dataset: Dataset, *, workers: int | None = None, on_progress: Callable[[int, int], None] | None = None
) -> tuple[Listed, ...]:
    """Read every photo again and compare it with the manifest.

    Args:
        dataset: The dataset.
        workers: Processes; None takes one per core.
        on_progress: Called with (photos done, photos in all).

    Returns:
        Photos that vanished, became unreadable or changed. Photos that the import did not open count as unchanged.
    """
    found = scan(dataset.image_root, dataset.paths, workers=workers, on_progress=on_progress)
    seen = found.table()
    expected = dataset.hashes.take(seen.column("row").combine_chunks())
    known = pc.not_equal(expected, "")
    changed = seen.column("row").filter(pc.and_(known, pc.not_equal(expected, seen.column("sha256").combine_chunks())))
    paths = dataset.paths.take(changed.combine_chunks()).to_pylist()
    return tuple(
        sorted([*found.rejected, *(Listed(path, "photo_changed", "other bytes than at import") for path in paths)])
    )
