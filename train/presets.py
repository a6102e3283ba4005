"""Named starting points: five published pipelines, as nearly as their reports allow, and our two.

The five used the same 10,441 photos of the public dataset, counts 1 to 5, on a hosted training service. Each name
ends in the report's year; `did` is what it says, `differs` what it leaves open or what we do otherwise, so that nobody
takes a row of our table for theirs. Their splits were random (`bintally data split --method random`); on a grouped
split the figures are lower, and honest.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bundle.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_COUNTS = ["1", "2", "3", "4", "5"]


@dataclass(frozen=True, slots=True)
class Preset:
    """A configuration with a history.

    Attributes:
        name: What `--preset` takes.
        did: What the report says was done.
        got: The accuracy that it reports, in its own words.
        differs: What is open in the report, or different here.
        settings: (dotted key -> value) over the defaults of `train.config`.
    """

    name: str
    did: str
    got: str
    differs: str
    settings: Mapping[str, Any]


# No neighbour term, no moving average, no schedule, no mild augmentation: what a plain transfer-learning script does.
_PLAIN: dict[str, Any] = {
    "counts": _COUNTS,
    "model.weights": "hub",
    "ema": 0.0,
    "optimizer.schedule": "constant",
    "optimizer.warmup": 0.0,
    "optimizer.weight_decay": 0.0,
    "optimizer.clip": 0.0,
    "loss.neighbour": "none",
    "augment.geometry": 0.0,
    "augment.brightness": 0.0,
    "augment.contrast": 0.0,
    "augment.colour": 0.0,
    "augment.grey": 0.0,
    "augment.blur": 0.0,
    "augment.noise": 0.0,
}
_RAW_INPUT: dict[str, Any] = {"model.mean": (0.0, 0.0, 0.0), "model.std": (1.0, 1.0, 1.0)}
_CROP = 0.08

PRESETS: tuple[Preset, ...] = (
    Preset(
        name="khaled-2023",
        did="ResNet50, pretrained and fine-tuned in full; photos added until classes were equal; flips; batch "
        "32, learning rate 0.006, 10 epochs.",
        got="35.3 % test accuracy",
        differs="The optimiser is not given: SGD with momentum here. Classes are equalled by undersampling, because"
        " the photos that were added are not published.",
        settings=_PLAIN
        | {
            "model.name": "resnet50",
            "balance": "undersample",
            "batch_size": 32,
            "epochs": 10,
            "optimizer.name": "sgd",
            "optimizer.lr": 0.006,
        },
    ),
    Preset(
        name="hatting-2024",
        did="ResNet50 (and ResNet101), frozen, new output layer; RandomResizedCrop and flips; no input "
        "normalisation; learning rate 0.00021, batch 256, 13 epochs after tuning.",
        got="29 % (ResNet50), 34 % (ResNet101), 57 % claimed after tuning",
        differs="Its logged losses stay near a constant, which does not fit the 57 %. Adam here; the optimiser is "
        "not given.",
        settings=_PLAIN
        | _RAW_INPUT
        | {
            "model.name": "resnet50",
            "model.frozen": True,
            "augment.crop": _CROP,
            "batch_size": 256,
            "epochs": 13,
            "optimizer.name": "adamw",
            "optimizer.lr": 0.00021,
        },
    ),
    Preset(
        name="proposal-2022",
        did="ResNet18, pretrained, with a fully connected layer of five added at the end; learning rate, "
        "momentum and batch size tuned; 70/30 split without validation.",
        got="29 % test accuracy",
        differs="Tuned values, transforms and epochs are not given: SGD 0.01, momentum 0.9, batch 64, 5 epochs "
        "here. The layer replaces the 1000-class layer instead of following it.",
        settings=_PLAIN
        | {
            "model.name": "resnet18",
            "augment.flip": 0.0,
            "batch_size": 64,
            "epochs": 5,
            "optimizer.name": "sgd",
            "optimizer.lr": 0.01,
        },
    ),
    Preset(
        name="definition-2024",
        did="ResNet50, frozen, several layers added; RandomResizedCrop and flips; input normalisation commented"
        " out; 2 epochs.",
        got="30.9 % test accuracy (loss 1.495)",
        differs="Number and size of the added layers are not given: one layer here. Adam 0.001, batch 64.",
        settings=_PLAIN
        | _RAW_INPUT
        | {
            "model.name": "resnet50",
            "model.frozen": True,
            "augment.crop": _CROP,
            "batch_size": 64,
            "epochs": 2,
            "optimizer.name": "adamw",
            "optimizer.lr": 0.001,
        },
    ),
    Preset(
        name="aranguiz-2023",
        did="ResNeXt101-32x8d, all but the last layer frozen; 1,228 photos per class by undersampling; flips; "
        "Adam on the last layer, learning rate 0.0037, batch 32, 2 to 3 epochs.",
        got="33 % test accuracy (204 of 615, loss 1.432)",
        differs="3 epochs here.",
        settings=_PLAIN
        | {
            "model.name": "resnext101_32x8d",
            "model.frozen": True,
            "balance": "undersample",
            "batch_size": 32,
            "epochs": 3,
            "optimizer.name": "adamw",
            "optimizer.lr": 0.0037,
        },
    ),
    Preset(
        name="bintally-best",
        did="MobileNetV2 fine-tuned in full on every count, 0 to ten or more, and read out on 1 to 5; small "
        "pictures first and an early end, before it learns labels by heart; cross entropy and a bell around the true "
        "count; blends of photos; averaged weights; augmentation that removes no item.",
        got="this repository; see docs/presets.md",
        differs="Nothing.",
        settings={
            "counts": _COUNTS,
            "supervise": [*(str(count) for count in range(10)), "10+"],
            "model.weights": "hub",
            "epochs": 5,
            "stages": [{"epoch": 0, "size": 160}, {"epoch": 2, "size": 224}],
            "optimizer.lr": 6e-4,
            "mixup.alpha": 0.2,
        },
    ),
    Preset(
        name="bintally-companion",
        did="As bintally-best, but on counts 0 to 5 and 6 or more, without blends and for longer: it makes partly "
        "different mistakes, so `bintally ensemble` of both is better than either.",
        got="this repository; see docs/training.md",
        differs="Nothing.",
        settings={
            "model.weights": "hub",
            "epochs": 7,
            "stages": [{"epoch": 0, "size": 160}, {"epoch": 3, "size": 224}],
            "optimizer.lr": 6e-4,
        },
    ),
)


def preset(name: str) -> Preset:
    """Find a preset.

    Args:
        name: One of `PRESETS`.

    Returns:
        The preset.

    Raises:
        ConfigError: There is none of that name.
    """
    for found in PRESETS:
        if found.name == name:
            return found
    names = [found.name for found in PRESETS]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.3)
    raise ConfigError(
        "there is no such preset",
        got=repr(name),
        expected=", ".join(names),
        fix=f"Did you mean {near[0]}?" if near else None,
    )
