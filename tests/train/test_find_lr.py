"""Which learning rate to suggest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.errors import ConfigError
from tests.train.tiny import config
from train.find_lr import find_lr, smoothed, suggest
from train.place import Place
from train.progress import Silent

if TYPE_CHECKING:
    from pathlib import Path


def test_suggest_is_on_the_steepest_part_of_the_fall() -> None:
    rates = np.logspace(-6, 0, 100)
    # Flat to 1e-4, down over 1e-4..1e-2, up after that.
    losses = np.interp(np.log10(rates), [-6, -4, -2, 0], [2.0, 2.0, 1.0, 6.0])
    found = suggest(rates, losses)
    assert 1e-4 < found["suggested"] < 2e-2
    assert found["falls_from"] < found["suggested"] < found["rises_from"] < 0.1


def test_suggest_for_a_loss_that_only_rises_is_refused() -> None:
    with pytest.raises(ConfigError, match="never fell"):
        suggest(np.logspace(-6, 0, 30), np.linspace(1, 2, 30))


def test_smoothed_starts_at_the_first_value() -> None:
    assert smoothed(np.array([3.0, 3.0, 3.0])) == pytest.approx([3.0, 3.0, 3.0])


def test_find_lr_writes_a_picture_and_no_run(tiny_dataset: Path, tmp_path: Path) -> None:
    place = Place(dataset=tiny_dataset, out=tmp_path / "rates", device="cpu", threads=1)
    found = find_lr(config(model__options={"width_mult": 0.1}), place, progress=Silent(), steps=40)
    assert 1e-6 < found["suggested"] < 1
    assert (tmp_path / "rates" / "find-lr.html").read_text().count("<polyline") == 2
    assert not (tmp_path / "rates" / "config.json").exists()
