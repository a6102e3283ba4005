"""The worst frames of a refused model, on disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from bundle.images import read
from bundle.parity import compare
from calibration.int8.quantize import Quantized
from export.frames import Frames
from export.quantize import Attempt
from export.refusal import save_worst

if TYPE_CHECKING:
    from pathlib import Path

_CLASSES = ("0", "1", "2")
_NAMES = ["aisle/5/a", "../../etc", "x" * 400, "shelf 7\x00", "Fach-Ä.1"]


def _attempt(logits: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> Attempt:
    result = compare("cpu", np.zeros_like(logits), logits, np.zeros(len(logits), np.int64))
    return Attempt("cpu", "minmax", 0, False, Quantized(b"", ()), logits, result, None)


def test_save_worst_ids_that_are_no_file_names_cost_no_picture(tmp_path: Path) -> None:
    number = len(_NAMES)
    pixels = np.full((number, 16, 16, 3), 128, np.uint8)
    frames = Frames(np.arange(number), pixels, np.zeros(number, np.int64))
    logits = np.zeros((number, 3), np.float32)
    logits[:, 0] = np.arange(number, 0, -1)
    folder = save_worst(tmp_path / "b.refused", _attempt(logits), frames, np.zeros_like(logits), _NAMES, _CLASSES)
    rows = json.loads((folder / "worst.json").read_text())["frames"]
    assert [row["photo"] for row in rows] == _NAMES
    assert {path.name for path in tmp_path.rglob("*.jpg")} == {row["picture"] for row in rows}
    assert rows[0]["picture"] == "worst-01-aisle_5_a.jpg"
    for row in rows:
        assert read(folder / row["picture"]).shape == (16, 16, 3)
