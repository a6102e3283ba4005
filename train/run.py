# ruff: noqa: TID253 - a run holds a torch module
"""A run folder: what a training leaves behind, and how others open it.

```
RUN/
  config.json        resolved configuration, its hash, the dataset and the weights it started from, the machine
  checkpoint.pt      everything to go on from (train.checkpoint)
  metrics.jsonl      a line per logged step and per epoch
  model.pt           the result: a state dict whose head answers with the count classes
  metrics.json       the result, judged on the evaluation split, with intervals
  predictions.npz    ids, truth, logits: every figure can be computed again from it
  report.html        all of it for people: curves, confusion, reliability, what the rules say, the worst mistakes
```

An ensemble (train.ensemble) is a run folder without checkpoint, stream and report. Its config.json lists the
configurations of its "members" besides the first one's, and model.pt holds the weights of all.
"""

from __future__ import annotations

import json
import platform
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bundle import durable
from bundle.errors import ConfigError, InputError
from train.config import TrainConfig, digest_of, validated
from train.mean import Ensemble
from train.model import build_model, preprocessing_of, read_weights

if TYPE_CHECKING:
    from torch import nn

    from bundle.manifest import CountClasses, Preprocessing

CONFIG_NAME = "config.json"
CHECKPOINT_NAME = "checkpoint.pt"
MODEL_NAME = "model.pt"
METRICS_NAME = "metrics.json"
STREAM_NAME = "metrics.jsonl"
PREDICTIONS_NAME = "predictions.npz"
REPORT_NAME = "report.html"


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, ready for export or evaluation.

    Attributes:
        folder: The run folder.
        module: The network in eval mode on the CPU: float32 (N, 3, h, w) -> logits float32 (N, K).
        classes: The K count classes.
        preprocessing: How photos become its input.
        config: The resolved configuration.
        config_sha256: Its hash.
        members: Configurations of an ensemble's members; empty for one network.
        dataset: Folder of the dataset that it learned from.
        dataset_sha256: Hash of that dataset's manifest.
        initial_weights: Where training started from, in words.
        metrics: Figures of metrics.json.
    """

    folder: Path
    module: nn.Module
    classes: CountClasses
    preprocessing: Preprocessing
    config: TrainConfig
    config_sha256: str
    members: tuple[TrainConfig, ...]
    dataset: Path
    dataset_sha256: str
    initial_weights: str
    metrics: dict[str, Any]

    @property
    def network(self) -> str:
        """Names of its networks: "mobilenet_v2", "2 x mobilenet_v2", "mobilenet_v2 + shufflenet_v2_x0_5"."""
        names = Counter(one.model.name for one in self.members or (self.config,))
        return " + ".join(name if times == 1 else f"{times} x {name}" for name, times in names.items())


@dataclass(frozen=True, slots=True)
class Started:
    """What config.json says of a run.

    Attributes:
        config: The resolved configuration; an ensemble's is its first member's, with the ensemble's count classes.
        sha256: Its hash when the run started; a later version may know more keys, at defaults that change nothing.
        origin: Dataset and weights.
        members: Configurations of an ensemble's members; empty for one network.
    """

    config: TrainConfig
    sha256: str
    origin: Origin
    members: tuple[TrainConfig, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run comes from.

    Attributes:
        dataset: Dataset folder.
        dataset_sha256: Hash of its manifest.
        weights: File that training started from, or None.
    """

    dataset: Path
    dataset_sha256: str
    weights: Path | None


def load_run(folder: Path) -> Run:
    """Open a finished run.

    Args:
        folder: The run folder.

    Returns:
        The run with its network in eval mode.

    Raises:
        InputError: Not a run, not finished, or its files do not belong together.
    """
    started = read_config(folder)
    config, origin = started.config, started.origin
    path = folder / MODEL_NAME
    if not path.is_file():
        raise InputError(
            f"the run {folder} is not finished", got=f"no {MODEL_NAME}", fix="Go on with `bintally train ... --resume`."
        )
    networks = [_network(member, config.counts) for member in started.members or (config,)]
    module = Ensemble(networks) if started.members else networks[0]
    try:
        module.load_state_dict(read_weights(path))
    except RuntimeError as exc:
        raise InputError(
            f"{path} does not fit the run's {CONFIG_NAME}", got=f"{type(exc).__name__}: {exc}"[:200]
        ) from exc
    return Run(
        folder=folder,
        module=module.eval(),
        classes=config.counts,
        preprocessing=preprocessing_of(config.model),
        config=config,
        config_sha256=started.sha256,
        members=started.members,
        dataset=origin.dataset,
        dataset_sha256=origin.dataset_sha256,
        initial_weights=_initial_weights(started),
        metrics=read_metrics(folder / METRICS_NAME),
    )


def _network(config: TrainConfig, classes: CountClasses) -> nn.Module:
    """The network of a run, with weights still to be loaded."""
    return build_model(config.model.model_copy(update={"weights": "none", "frozen": False}), classes)


def write_config(folder: Path, config: TrainConfig, origin: Origin, *, members: tuple[TrainConfig, ...] = ()) -> None:
    """Write the resolved configuration beside the run.

    Args:
        folder: The run folder.
        config: The resolved configuration.
        origin: Dataset and weights.
        members: Configurations of an ensemble's members.

    Raises:
        OSError: The disk refused.
    """
    tree = config.model_dump(mode="json")
    trees = [member.model_dump(mode="json") for member in members]
    durable.write_json(
        folder / CONFIG_NAME,
        {
            "config": tree,
            "config_sha256": _digest(tree, trees),
            **({"members": trees} if trees else {}),
            "dataset": str(origin.dataset),
            "dataset_sha256": origin.dataset_sha256,
            "weights": str(origin.weights) if origin.weights else None,
            "machine": {
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "python": platform.python_version(),
            },
        },
    )


def read_config(folder: Path) -> Started:
    """Read back what `write_config` wrote.

    Args:
        folder: The run folder.

    Returns:
        Configuration, its hash and origin.

    Raises:
        InputError: Not a run folder.
        ConfigError: The configuration in it is not one of this version.
    """
    path = folder / CONFIG_NAME
    found = _read_json(path)
    try:
        weights = found["weights"]
        origin = Origin(Path(found["dataset"]), found["dataset_sha256"], Path(weights) if weights else None)
        tree, sha256, trees = found["config"], found["config_sha256"], found.get("members", [])
    except (KeyError, TypeError) as exc:
        raise InputError(f"{path} is not a run's configuration", got=f"no {exc}") from exc
    config = validated(tree, source=str(path))
    if _digest(tree, trees) != sha256:
        raise ConfigError(
            f"{path} was edited",
            got=f"hash {_digest(tree, trees)[:12]}",
            expected=str(sha256)[:12],
            fix="Train again with the changed configuration.",
        )
    return Started(config, str(sha256), origin, tuple(validated(member, source=str(path)) for member in trees))


def read_metrics(path: Path) -> dict[str, Any]:
    """Read metrics.json.

    Args:
        path: The file.

    Returns:
        Figures by name.

    Raises:
        InputError: The run is not finished.
    """
    return _read_json(path)


def _digest(tree: dict[str, Any], members: list[dict[str, Any]]) -> str:
    return digest_of({"config": tree, "members": members}) if members else digest_of(tree)


def _initial_weights(started: Started) -> str:
    if started.members:
        return f"{len(started.members)} networks, the first from {_initial_weights(replace(started, members=()))}"
    config, origin = started.config, started.origin
    if config.model.weights == "hub":
        return f"torchvision {config.model.name} default weights"
    if origin.weights is None:
        return "none (trained from scratch)"
    return f"{origin.weights.name} (sha256 {config.model.weights_sha256})"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise InputError(
            f"{path.parent} is not a run folder",
            got=f"{path.name}: {exc}",
            fix="Make one with `bintally train DATASET --out RUN`.",
        ) from exc
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a run's {path.name}", got=type(found).__name__)
    return found
