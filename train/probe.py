# ruff: noqa: TID253 - looks into torch networks
"""What the rules want to know of a network at work: its gradients and its activations, now and then.

Looking costs about as much as the step itself, so only few steps are looked at: some of the first ten, then every
200th. The numbers of a layer's units are kept as quantiles: a share of units below a limit reads the same from them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray
    from torch import Tensor
    from torch.utils.hooks import RemovableHandle
    from typing_extensions import Self

_EARLY = frozenset({0, 4, 9})
_EVERY = 200
_QUANTILES = np.linspace(0, 1, 41)
_SAMPLE = 20_000
_TANH_BOUND, _SIGMOID_LOW, _SIGMOID_HIGH = 9.4999, -23.0, 16.99999
_RELU6_TOP = 6.0


def is_probed(step: int) -> bool:
    """Say whether a step is looked at.

    Args:
        step: From 0.

    Returns:
        True for a few.
    """
    return step in _EARLY or (step > 0 and step % _EVERY == 0)


class Probe:
    """While entered and active, notes what passes through a network's activation layers.

    Args:
        model: The network.
        active: Whether to look at all.
    """

    def __init__(self, model: nn.Module, *, active: bool) -> None:
        self.activations: dict[str, dict[str, Any]] = {}
        """By layer (and call, where it is used more than once): variance_in, and quantiles over units of "activity",
        the share of inputs that a unit answers to, or of "unsaturated", the share within the layer's bounds."""
        self._model, self._active = model, active
        self._handles: list[RemovableHandle] = []
        self._variances: dict[str, float] = {}
        self._calls: dict[str, int] = {}

    def __enter__(self) -> Self:
        if self._active:
            for name, layer in self._model.named_modules():
                if isinstance(layer, (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh)):
                    self._watch(name, layer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _watch(self, name: str, layer: nn.Module) -> None:
        def before(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # Before, because activations overwrite their input.
            values = inputs[0].detach()
            self._variances[name] = float(values.float().var())
            if isinstance(layer, (nn.Sigmoid, nn.Tanh)):
                bounds = (-_TANH_BOUND, _TANH_BOUND) if isinstance(layer, nn.Tanh) else (_SIGMOID_LOW, _SIGMOID_HIGH)
                self._keep(name, "unsaturated", (values > bounds[0]) & (values < bounds[1]))

        def after(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(layer, (nn.ReLU, nn.ReLU6)):
                values = output.detach()
                self._keep(name, "activity", values > 0)
                if isinstance(layer, nn.ReLU6):
                    self._keep(name, "unsaturated", values < _RELU6_TOP)
            self._calls[name] = self._calls.get(name, 0) + 1

        self._handles += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]

    def _keep(self, name: str, key: str, hits: Tensor) -> None:
        if not math.isfinite(self._variances[name]):
            return  # the loss says so too, and exploding_tensor names the tensors
        calls = self._calls.get(name, 0)
        units = hits.float().mean(dim=[axis for axis in range(hits.ndim) if axis != 1])
        quantiles = np.quantile(units.cpu().numpy(), _QUANTILES)
        stats = self.activations.setdefault(
            f"{name}#{calls + 1}" if calls else name, {"variance_in": self._variances[name]}
        )
        stats[key] = [round(float(value), 4) for value in quantiles]


def gradient_record(model: nn.Module, *, only_broken: bool = False) -> dict[str, Any]:
    """What the rules want to know of the gradients.

    Args:
        model: After a backward pass.
        only_broken: Name the tensors that are not finite, and leave the statistics out.

    Returns:
        "gradients": mean_abs, p5 and p95 by tensor; "blocks": norm by block; "nonfinite": names.
    """
    gradients = {name: value.grad.detach() for name, value in model.named_parameters() if value.grad is not None}
    broken = [f"gradient of {name}" for name, value in gradients.items() if not bool(torch.isfinite(value).all())]
    weights = model.state_dict().items()
    broken += [n for n, value in weights if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if only_broken:
        return {"gradients": {}, "blocks": {}, "nonfinite": broken}
    squares: dict[str, float] = {}
    for name, value in gradients.items():
        block = ".".join(name.split(".")[:-1][:2])
        squares[block] = squares.get(block, 0.0) + float(value.float().square().sum())
    return {
        "gradients": {name: _spread(value.float().flatten().cpu().numpy()) for name, value in gradients.items()},
        "blocks": {name: float(np.sqrt(value)) for name, value in squares.items()},
        "nonfinite": broken,
    }


def _spread(values: NDArray[np.float32]) -> dict[str, float]:
    part = values[:: max(1, len(values) // _SAMPLE)]
    low, high = np.percentile(part, [5, 95])
    return {"mean_abs": float(np.abs(values).mean()), "p5": float(low), "p95": float(high)}
