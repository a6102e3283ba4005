from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bundle.errors import ConfigError
from tests.train.tiny import SIZE
from train.config import load_config
from train.job import train
from train.place import Place
from train.presets import PRESETS, Preset, preset
from train.progress import Silent

if TYPE_CHECKING:
    from pathlib import Path

_PUBLISHED = [found for found in PRESETS if not found.name.startswith("bintally-")]


@pytest.mark.parametrize("chosen", PRESETS, ids=lambda chosen: chosen.name)
def test_preset_resolves_and_answers_with_one_to_five(chosen: Preset) -> None:
    wider = chosen.name == "bintally-companion"
    expected = ("0", "1", "2", "3", "4", "5", "6+") if wider else ("1", "2", "3", "4", "5")
    assert load_config(None, base=chosen.settings).counts == expected


@pytest.mark.parametrize("chosen", PRESETS, ids=lambda chosen: chosen.name)
def test_preset_trains_from_end_to_end_on_a_small_network(chosen: Preset, tiny_dataset: Path, tmp_path: Path) -> None:
    # Its optimiser, schedule, balancing, augmentation, loss and freezing; network, size and length are cut down.
    small = [
        ("counts", ["1", "2", "3"]),
        ("supervise", ["0", "1", "2", "3", "4+"] if "supervise" in chosen.settings else None),
        ("model.name", "mobilenet_v2"),
        ("model.options", {"width_mult": 0.1}),
        ("model.weights", "none"),
        ("model.size", SIZE),
        ("stages", []),
        ("batch_size", 8),
        ("epochs", 1),
    ]
    place = Place(dataset=tiny_dataset, out=tmp_path / "run", device="cpu", threads=1)
    figures = train(load_config(None, small, base=chosen.settings), place, progress=Silent())
    assert figures["n"] > 0


@pytest.mark.parametrize("chosen", _PUBLISHED, ids=lambda chosen: chosen.name)
def test_preset_of_somebody_else_uses_none_of_our_means(chosen: Preset) -> None:
    found = load_config(None, base=chosen.settings)
    assert (found.ema, found.loss.neighbour, found.supervise, found.stages) == (0.0, "none", None, ())


def test_preset_crops_only_where_the_report_says_so() -> None:
    cropping = {found.name for found in PRESETS if load_config(None, base=found.settings).augment.crop < 1}
    assert cropping == {"hatting-2024", "definition-2024"}


def test_preset_toml_and_flags_win_over_it(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text("epochs = 4\n[optimizer]\nlr = 0.5\n")
    found = load_config(path, [("optimizer.lr", 0.25)], base=preset("khaled-2023").settings)
    assert (found.epochs, found.optimizer.lr, found.model.name, found.optimizer.name) == (4, 0.25, "resnet50", "sgd")


def test_preset_unknown_name_suggests_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean khaled-2023"):
        preset("khaled2023")
