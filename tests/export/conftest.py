"""One small trained run on rendered bins, shared by the export tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from demo.dataset import write_dataset
from train.config import load_config
from train.data.importing import import_abid
from train.data.split import plan, split
from train.job import train
from train.place import Place
from train.progress import Silent

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small-run")
    write_dataset(root / "photos", count=90, seed=5, workers=2)
    imported = import_abid(root / "photos", root / "dataset")
    split(imported.dataset, plan("grouped", seed=1, shares={"train": 0.6, "val": 0.2, "test": 0.2}))
    overrides = [
        ("model.name", "mobilenet_v2"),
        ("model.options", {"width_mult": 0.25}),
        ("model.size", 64),
        ("epochs", 2),
        ("ema", 0.0),
        ("seed", 3),
    ]
    place = Place(dataset=root / "dataset", out=root / "run", threads=1)
    train(load_config(None, overrides), place, progress=Silent())
    return root / "run"
