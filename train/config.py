"""One frozen training configuration: TOML first, flags over it, the resolved result saved and hashed beside the run.

Everything that can change a weight stands here and is part of the hash; where things lie on this machine (dataset and
weights paths, device, worker threads, how often to write a checkpoint) does not and is passed separately.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from bundle.errors import ConfigError
from bundle.manifest import CountClasses, class_value
from train.sections import (
    AugmentConfig,
    DistillConfig,
    LossConfig,
    MixupConfig,
    ModelConfig,
    OptimizerConfig,
    PairsConfig,
    Stage,
    Strict,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_RANGE = re.compile(r"^(\d{1,4})-(\d{1,4})(\+?)$")


class TrainConfig(Strict):
    """Everything that decides what a training run computes.

    Attributes:
        counts: Count classes that the finished counter answers with.
        supervise: Wider count classes to learn from (photos outside `counts` still teach); None learns `counts`.
        train_split: Split of the dataset to learn from, or several: "fold1,fold2".
        eval_split: Split or splits to judge with, never learned from.
        balance: "undersample" cuts every class of the training photos down to the rarest one.
        epochs: Passes over the training photos.
        batch_size: Photos per step.
        accumulate: Steps whose gradients are summed before one update.
        stages: Input sizes over the epochs; empty trains at `model.size` throughout.
        ema: Decay of the averaged weights that are judged and exported; 0 takes the raw ones.
        select: Which epoch's weights are the result.
        patience: Epochs without a better RMSE of the posterior mean after which the run ends; 0 never ends early.
        stop_on_rules: End the run when a rule of `train.rules` says "stop".
        precision: "fp32", or autocast to "bf16", or to "fp16" with a scaled loss.
        shards_sha256: Hash of the shards' index when photos come from shards; filled in when the run starts.
        seed: Of initial weights, order and augmentation.
    """

    counts: CountClasses = ("0", "1", "2", "3", "4", "5", "6+")
    supervise: CountClasses | None = None
    train_split: str = "train"
    eval_split: str = "val"
    balance: Literal["none", "undersample"] = "none"
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 12
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    accumulate: Annotated[int, Field(ge=1, le=4096)] = 1
    stages: tuple[Stage, ...] = ()
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998
    select: Literal["last", "best"] = "last"
    patience: Annotated[int, Field(ge=0, le=10_000)] = 0
    stop_on_rules: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    shards_sha256: str | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    pairs: PairsConfig = PairsConfig()
    mixup: MixupConfig = MixupConfig()
    distill: DistillConfig = DistillConfig()
    augment: AugmentConfig = AugmentConfig()

    @model_validator(mode="after")
    def _supervision_covers_counts(self) -> TrainConfig:
        if self.supervise is None:
            return self
        if not set(self.counts) <= set(self.supervise):
            msg = f"supervise must contain every count class, got {list(self.supervise)} for {list(self.counts)}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _judged_on_what_was_not_learned(self) -> TrainConfig:
        both = sorted(set(self.train_split.split(",")) & set(self.eval_split.split(",")))
        if both:
            msg = f"train_split and eval_split share {', '.join(both)}: a run is judged on photos it never saw"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _pairs_are_whole(self) -> TrainConfig:
        if self.pairs.weight > 0 and self.mixup.alpha > 0:
            msg = "pairs.weight and mixup.alpha exclude each other: a blend of two bins has no pair"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _stages_ascend(self) -> TrainConfig:
        starts = [stage.epoch for stage in self.stages]
        if starts and (starts[0] != 0 or starts != sorted(set(starts))):
            msg = f"stages must start at epoch 0 and ascend, got {starts}"
            raise ValueError(msg)
        return self

    @property
    def learned(self) -> CountClasses:
        """Count classes that the head has while it learns."""
        return self.supervise or self.counts

    @property
    def readout(self) -> slice:
        """Where `counts` lie within `learned`."""
        start = class_value(self.counts[0]) - class_value(self.learned[0])
        return slice(start, start + len(self.counts))

    def size_at(self, epoch: int) -> int:
        """Input size of an epoch.

        Args:
            epoch: From 0.

        Returns:
            Pixels.
        """
        sizes = [stage.size for stage in self.stages if stage.epoch <= epoch]
        return sizes[-1] if sizes else self.model.size

    def digest(self) -> str:
        """Hash of everything that decides the result.

        Returns:
            sha256 of the canonical JSON, 64 hexadecimal digits.
        """
        return digest_of(self.model_dump(mode="json"))


def parse_counts(text: str) -> CountClasses:
    """Read count classes from a flag.

    Args:
        text: "1-5", "0-6+" (last class open), or the classes themselves, "0,1,2,3+".

    Returns:
        Count classes in order.

    Raises:
        ConfigError: It is neither.
    """
    match = _RANGE.match(text.strip())
    if match is None:
        names = tuple(part.strip() for part in text.split(","))
    else:
        names = tuple(str(count) for count in range(int(match[1]), int(match[2]) + 1))
        names = (*names[:-1], f"{names[-1]}{match[3]}") if names else ()
    try:
        return TrainConfig(counts=names).counts
    except ValidationError as exc:
        raise ConfigError(
            "these are no count classes",
            got=repr(text),
            expected="a range such as 1-5, or 0-6+ where the last means six or more",
        ) from exc


def digest_of(tree: object) -> str:
    """Hash a configuration as it stands in JSON.

    Args:
        tree: What `json.dumps` takes.

    Returns:
        sha256 of the canonical JSON, 64 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_config(
    path: Path | None, overrides: Iterable[tuple[str, Any]] = (), *, base: Mapping[str, Any] | None = None
) -> TrainConfig:
    """Resolve a configuration: defaults, then the base, then the TOML file, then overrides.

    Args:
        path: TOML file, or None.
        overrides: (dotted key, value) pairs, such as ("optimizer.lr", 3e-4); later ones win.
        base: Dotted keys of a preset.

    Returns:
        The frozen configuration.

    Raises:
        ConfigError: Unreadable file, unknown key or a value out of range; the message names the key.
    """
    tree: dict[str, Any] = {}
    from_file = flat_toml(path) if path is not None else {}
    for key, value in [*(base or {}).items(), *from_file.items(), *overrides]:
        _put(tree, key, value)
    return validated(tree, source=str(path) if path else "the training flags")


def validated(tree: dict[str, Any], *, source: str) -> TrainConfig:
    """Check a configuration that came from outside.

    Args:
        tree: Nested values.
        source: What to call it in an error.

    Returns:
        The frozen configuration.

    Raises:
        ConfigError: Unknown key or a value out of range.
    """
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "configuration"
        raise ConfigError(
            f"{source}: {key}: {first['msg']}",
            got=repr(first["input"])[:200],
            fix="`bintally train --help` lists the keys.",
        ) from exc


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"cannot read the training configuration {path}", got=str(exc)) from exc


def flat_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as dotted keys.

    Args:
        path: The file.

    Returns:
        Values by dotted key, unchecked.

    Raises:
        ConfigError: Unreadable file.
    """
    return _flat(_read_toml(path))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; a model's options stay one value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, dict) and name != "model.options" else {name: value}
    return found


def _put(tree: dict[str, Any], key: str, value: object) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[leaf] = value
