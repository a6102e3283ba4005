"""A dataset of bright squares that a tiny network learns in seconds: the count is the number of squares."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from train.config import TrainConfig, load_config
from train.data.importing import import_abid
from train.data.split import plan, split

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 32
_CELLS = ((3, 3), (18, 3), (3, 18), (18, 18))

CONFIG: dict[str, Any] = {
    "counts": ["1", "2", "3"],
    "epochs": 2,
    "batch_size": 8,
    "ema": 0.9,
    "model.name": "mobilenet_v2",
    "model.options": {"width_mult": 0.1},
    "model.size": SIZE,
    "optimizer.lr": 0.01,
}


def picture(count: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = rng.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
    for cell in rng.permutation(len(_CELLS))[:count]:
        x, y = _CELLS[cell]
        image[y : y + 10, x : x + 10] = rng.integers(180, 256, 3, dtype=np.uint8)
    return image


def write_source(folder: Path, photos: int, *, counts: tuple[int, ...] = (0, 1, 2, 3, 4)) -> Path:
    """Photos in the bucket's layout; every second one shares an ASIN with the one before it."""
    rng = np.random.default_rng(5)
    for name in ("bin-images", "metadata"):
        (folder / name).mkdir(parents=True)
    for index in range(photos):
        count = counts[int(rng.integers(len(counts)))]
        ok, data = cv2.imencode(".png", picture(count, rng))
        assert ok
        (folder / "bin-images" / f"{index:05d}.png").write_bytes(data.tobytes())
        contents = {f"B{index // 2:06d}": {"quantity": count}} if count else {}
        record = {"EXPECTED_QUANTITY": count, "BIN_FCSKU_DATA": contents}
        (folder / "metadata" / f"{index:05d}.json").write_text(json.dumps(record))
    return folder


def make_dataset(folder: Path, photos: int = 120, *, counts: tuple[int, ...] = (0, 1, 2, 3, 4)) -> Path:
    source = write_source(folder / "source", photos, counts=counts)
    imported = import_abid(source, folder / "dataset", workers=1)
    split(imported.dataset, plan("grouped", shares={"train": 0.7, "val": 0.3}))
    return folder / "dataset"


def config(**changes: object) -> TrainConfig:
    """The tiny configuration; a double underscore in a keyword stands for a dot."""
    return load_config(None, {**CONFIG, **{key.replace("__", "."): value for key, value in changes.items()}}.items())
