# ruff: noqa: TID253 - this file builds torch optimisers
"""Which weight moves how fast: parameter groups, the update rule and the learning rate of every step.

The rate is a pure function of the step, so a resumed run needs no scheduler state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

    from train.sections import OptimizerConfig

_BLOCK_NAME_PARTS = 2


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Group the trainable weights and build the update rule.

    Args:
        model: The network; frozen weights are left out.
        config: Rule and rates.

    Returns:
        An optimiser whose groups each carry "scale", their share of the step's learning rate.
    """
    groups = parameter_groups(model, config)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, object]]:
    """Split weights by depth and by whether they decay.

    Args:
        model: The network.
        config: `layer_decay` and `weight_decay`.

    Returns:
        Groups with "params", "weight_decay" and "scale", input side first.
    """
    blocks = _blocks(model)
    found: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Biases and normalisation have one axis; decaying them only fights the data.
            found.setdefault((blocks[_block(name)], parameter.ndim > 1), []).append(parameter)
    deepest = max(blocks.values())
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "scale": config.layer_decay ** (deepest - depth),
        }
        for (depth, decays), parameters in sorted(found.items(), key=lambda item: item[0])
    ]


def learning_rate(step: int, total: int, config: OptimizerConfig) -> float:
    """The rate of a step: a pure function, so a resumed run needs no scheduler.

    Args:
        step: From 0.
        total: Steps of the whole run.
        config: Highest rate, schedule, warm-up and floor.

    Returns:
        The rate of that step.
    """
    warmup = round(total * config.warmup)
    if config.schedule == "onecycle":
        return config.lr * _one_cycle(step, total, config.warmup)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    if config.schedule == "restarts":
        progress = progress * config.cycles % 1.0
    return config.lr * _cosine(1.0, config.floor, progress)


def _one_cycle(step: int, total: int, share: float) -> float:
    """Smith's one cycle as torch's OneCycleLR draws it by default; `share` of it climbs."""
    first, last = 1 / 25, 1 / 25 / 1e4
    peak = share * total - 1
    if step <= peak:
        return _cosine(first, 1.0, step / peak)
    return _cosine(1.0, last, min(1.0, (step - peak) / max(1, total - 1 - peak)))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the step's learning rate.

    Args:
        optimizer: Built by `build_optimizer`.
        rate: Of the head.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def _blocks(model: nn.Module) -> dict[str, int]:
    """Depth of every block, in the order in which the network lists them."""
    depths: dict[str, int] = {}
    for name, _ in model.named_parameters():
        depths.setdefault(_block(name), len(depths))
    return depths


def _block(name: str) -> str:
    """`features.3.conv.0.weight` belongs to block `features.3`, `fc.weight` to `fc`."""
    return ".".join(name.split(".")[:-1][:_BLOCK_NAME_PARTS])
