"""Which learning rate to suggest."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torch.nn import BatchNorm2d

from bundle.errors import ConfigError
from tests.train.tiny import config
from train.find_lr import find_lr, smoothed, suggest
from train.job import train
from train.place import Place
from train.progress import Silent
from train.step import Stepper

if TYPE_CHECKING:
    from pathlib import Path

    from train.batches import Batch
    from train.learner import Learner


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


def test_find_lr_learns_as_a_training_does(tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool, bool]] = []

    class _Watched(Stepper):
        def __init__(self, learner: Learner, *rest: Any, **named: Any) -> None:  # noqa: ANN401 - passed on
            super().__init__(learner, *rest, **named)
            self._watched, self._taught = learner, named.get("teachers") is not None

        def backward(self, batch: Batch) -> None:
            norms = [part.training for part in self._watched.model.modules() if isinstance(part, BatchNorm2d)]
            seen.append((self._watched.position.batch, any(norms), self._taught))
            super().backward(batch)

    wanted = config(model__options={"width_mult": 0.1}, model__frozen=True)
    place = Place(dataset=tiny_dataset, out=tmp_path / "run", device="cpu", threads=1)
    train(wanted.model_copy(update={"epochs": 1}), place, progress=Silent())
    monkeypatch.setattr("train.find_lr.Stepper", _Watched)
    taught = replace(place, out=tmp_path / "rates", teachers=(tmp_path / "run",))
    with suppress(ConfigError):  # an untrained backbone may teach a head nothing
        find_lr(wanted, taught, progress=Silent(), steps=12)
    assert seen == [(index, False, True) for index in range(len(seen))]
    assert len(seen) > 1
