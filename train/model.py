# ruff: noqa: TID253 - this file owns torchvision
"""Any torchvision classifier with a head for count classes, and the input normalisation that its weights expect.

The head is the last layer that produces the classifier's 1000 classes; it is replaced, never reused. Weights
come from a local file or from torchvision's hub, and a file that does not fit is refused with the first keys
that differ: silently loading half a file is how a "pretrained" run starts from noise.
"""

from __future__ import annotations

import difflib
import pickle
from typing import TYPE_CHECKING, Any

import torch
import torchvision
from torch import nn

from bundle.errors import ConfigError, InputError
from bundle.manifest import Preprocessing
from train.heads import head_name, head_outputs, replace_head

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from bundle.manifest import CountClasses, Triple
    from train.sections import ModelConfig

_IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
_IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
_WITH_AUXILIARY = frozenset({"googlenet", "inception_v3"})


def model_names() -> tuple[str, ...]:
    """Names of all torchvision classifiers.

    Returns:
        Names in alphabetical order.
    """
    return tuple(sorted(torchvision.models.list_models(module=torchvision.models)))


def build_model(config: ModelConfig, classes: CountClasses, *, weights: Path | None = None) -> nn.Module:
    """Build the network that learns.

    Args:
        config: Name, options and where the weights come from.
        classes: Count classes of the head.
        weights: The weights file, when `config.weights` is "file".

    Returns:
        The module in training mode. The head is freshly initialised from torch's global generator, unless the weights
        file is an earlier run's for the same number of classes: then training goes on from that counter.

    Raises:
        ConfigError: Unknown name or option, or no weights file where one is needed.
        InputError: The weights do not fit this network, or cannot be read or downloaded.
    """
    model = _backbone(config)
    if config.weights == "hub":
        _load_strictly(model, _hub_state(config.name), source=f"torchvision's weights for {config.name}")
    elif config.weights == "file":
        if weights is None:
            raise ConfigError("no weights file is given", expected="--weights FILE")
        _load_file(model, read_weights(weights), config, classes, source=str(weights))
    if head_outputs(model) != len(classes):
        replace_head(model, len(classes), corn=config.head == "corn")
    if config.frozen:
        head = head_name(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(f"{head}."))
    return model


def require_sizes(model: nn.Module, name: str, sizes: Iterable[int]) -> None:
    """Refuse sizes that a network cannot take, by showing it a black photo of each.

    Args:
        model: On the CPU; keeps its mode and its statistics.
        name: What it is called.
        sizes: Widths and heights, pixels.

    Raises:
        ConfigError: A size that it does not take.
    """
    training = model.training
    model.eval()
    for size in sorted(sizes):
        try:
            with torch.no_grad():
                model(torch.zeros(1, 3, size, size))
        except (RuntimeError, AssertionError) as exc:
            raise ConfigError(
                f"{name} does not take photos of {size} x {size} pixels",
                got=str(exc)[:200],
                fix="Choose another model.size, and stages that fit the network.",
            ) from exc
    model.train(training)


def preprocessing_of(config: ModelConfig) -> Preprocessing:
    """How photos become this network's input.

    Args:
        config: The model's configuration.

    Returns:
        The preprocessing that travels in the bundle.

    Raises:
        ConfigError: Unknown model name.
    """
    mean, std = config.mean, config.std
    if mean is None or std is None:
        own_mean, own_std = _hub_normalisation(config.name) if config.weights == "hub" else (None, None)
        mean = mean or own_mean or _IMAGENET_MEAN
        std = std or own_std or _IMAGENET_STD
    return Preprocessing(size_wh=(config.size, config.size), resize=config.resize, mean=mean, std=std)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a weights file without executing anything in it.

    Args:
        path: A state dict written by torch.save, alone or under "model" or "state_dict".

    Returns:
        Tensors by name, on the CPU.

    Raises:
        InputError: Not such a file.
    """
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as exc:
        raise InputError(
            f"cannot read weights from {path}",
            got=f"{type(exc).__name__}: {exc}"[:200],
            expected="a state dict written by torch.save",
        ) from exc
    for key in ("model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise InputError(
            f"{path} holds no weights", got=type(found).__name__, expected="a state dict of tensors by name"
        )
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def _backbone(config: ModelConfig) -> nn.Module:
    names = model_names()
    if config.name not in names:
        near = difflib.get_close_matches(config.name, names, n=3, cutoff=0.4)
        raise ConfigError(
            "there is no such model in torchvision",
            got=repr(config.name),
            fix=f"Did you mean {' or '.join(near)}?" if near else "See torchvision.models.list_models().",
        )
    # GoogLeNet and Inception return extra outputs while training unless these classifiers are left out.
    fixed = {"aux_logits": False, "init_weights": True} if config.name in _WITH_AUXILIARY else {}
    # A vision transformer has a position for every patch, so it is built for one size.
    options = {"image_size": config.size, **config.options} if config.name.startswith("vit_") else config.options
    try:
        model = torchvision.models.get_model(config.name, weights=None, **fixed, **options)
    except (TypeError, ValueError, AssertionError) as exc:
        raise ConfigError(f"{config.name} does not take these options", got=f"{options} ({exc})") from exc
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{config.name} is not a network", got=type(model).__name__)
    return model


def _hub_weights(name: str) -> Any:  # noqa: ANN401 - torchvision's own enum, which ships no types
    try:
        return torchvision.models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError) as exc:
        raise ConfigError(f"torchvision has no weights for {name}", got=str(exc)) from exc


def _hub_normalisation(name: str) -> tuple[Triple, Triple]:
    transforms = _hub_weights(name).transforms()
    mean, std = (tuple(float(value) for value in values) for values in (transforms.mean, transforms.std))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _hub_state(name: str) -> dict[str, torch.Tensor]:
    try:
        state: dict[str, torch.Tensor] = _hub_weights(name).get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as exc:
        raise InputError(
            f"cannot download torchvision's weights for {name}",
            got=str(exc)[:200],
            fix="Give a local file: --weights FILE.",
        ) from exc
    return state


def _load_strictly(model: nn.Module, state: dict[str, torch.Tensor], *, source: str) -> None:
    state = {name: value for name, value in state.items() if not name.startswith(_AUXILIARY)}
    expected = model.state_dict()
    differing = [
        f"{name}: {_shape(state.get(name))} instead of {_shape(expected.get(name))}"
        for name in sorted({*state, *expected})
        if _shape(state.get(name)) != _shape(expected.get(name)) and not name.endswith("num_batches_tracked")
    ]
    if differing:
        raise InputError(
            f"{source} does not fit {type(model).__name__}",
            got=f"{len(differing)} of {len(expected)} tensors differ ({'; '.join(differing[:3])})",
            fix="Name the model and the options that the weights were trained with.",
        )
    model.load_state_dict(state, strict=False)


def _load_file(
    model: nn.Module, state: dict[str, torch.Tensor], config: ModelConfig, classes: CountClasses, *, source: str
) -> None:
    """Load a backbone with its 1000 classes, or an earlier run's counter with the same number of count classes."""
    name = head_name(model)
    corn = f"{name}.tasks.weight" in state
    head = state.get(f"{name}.tasks.weight" if corn else f"{name}.weight")
    if head is not None and head.shape[0] == len(classes):
        if corn != (config.head == "corn"):
            raise InputError(f"{source} has another kind of head", expected=f"model.head = {config.head}")
        replace_head(model, len(classes), corn=corn)
    _load_strictly(model, state, source=source)


def _shape(tensor: torch.Tensor | None) -> str:
    return "nothing" if tensor is None else "x".join(map(str, tensor.shape)) or "a number"
