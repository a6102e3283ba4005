"""Photos and labels to import: small, seeded, every one different."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.images import encode_jpeg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def jpeg(seed: int, *, width: int = 48, height: int = 36) -> bytes:
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = coarse.repeat(-(-height // 6), axis=0).repeat(-(-width // 8), axis=1)[:height, :width]
    return encode_jpeg(np.ascontiguousarray(image), quality=85)


def record(count: int, asins: Sequence[str] = ()) -> dict[str, Any]:
    """A bucket record whose quantities add up to the count."""
    names = list(asins) or ([f"B{count:09d}"] if count else [])
    quantities = [1] * len(names)
    if names:
        quantities[-1] += count - len(names)
    contents = {name: {"asin": name, "quantity": number} for name, number in zip(names, quantities, strict=True)}
    return {"BIN_FCSKU_DATA": contents, "EXPECTED_QUANTITY": count}


@dataclass
class AbidSource:
    """A folder in the bucket's own layout."""

    folder: Path
    seed: int = 0
    photos: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("bin-images", "metadata"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def add(self, identity: str, count: int, asins: Sequence[str] = (), *, data: bytes | None = None) -> None:
        self.seed += 1
        self.photos[identity] = jpeg(self.seed) if data is None else data
        (self.folder / "bin-images" / f"{identity}.jpg").write_bytes(self.photos[identity])
        (self.folder / "metadata" / f"{identity}.json").write_text(json.dumps(record(count, asins)))

    def write(self, path: str, data: bytes | str) -> None:
        place = self.folder / path
        place.write_bytes(data if isinstance(data, bytes) else data.encode())

    def objects(self) -> dict[str, bytes]:
        """The same as bucket objects."""
        return {
            f"{part}/{path.name}": path.read_bytes()
            for part in ("bin-images", "metadata")
            for path in (self.folder / part).iterdir()
        }


def pairs_source(folder: Path, bins: int = 40) -> AbidSource:
    """Bins photographed twice: neighbouring ids, one shared ASIN, counts that differ by one; then a gap."""
    source = AbidSource(folder)
    for index in range(bins):
        asin = f"A{index:09d}"
        source.add(f"{3 * index + 1:05d}", 1 + index % 5, [asin])
        source.add(f"{3 * index + 2:05d}", 2 + index % 5, [asin])
    return source


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    names = list(rows[0])
    lines = [",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path
