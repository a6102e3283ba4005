# ruff: noqa: TID253 - heads are torch modules
"""The last layer: a softmax over count classes, or CORN's chain of "is it more than this?".

CORN (Shi, Cao and Raschka, 2021) asks for every class k, given at least k items, whether there are more. Its
conditional probabilities multiply up to a posterior, so a `CornHead` answers with the logarithm of that posterior:
class logits like any other head's. CORN's loss over its conditional training sets, written out, is the cross entropy
of this posterior (up to CORN's scaling by the number of questions), so nothing else has to know which head there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from bundle.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

_IMAGENET_CLASSES = 1000


class CornHead(nn.Module):
    """Turns K answers to "more than k, given at least k?" into K class logits.

    The last question has no class above it: while the head is whole, its answer is left out (`ends` is 0 there). Cut to
    some of the classes, the head may end with a question that has one.

    Args:
        tasks: The layer that answers, float32 (N, features) -> (N, K).
        ends: float32 (K,), 1 where a class's own question counts.
    """

    ends: Tensor
    before: Tensor

    def __init__(self, tasks: nn.Linear, ends: Tensor) -> None:
        super().__init__()
        self.tasks = tasks
        self.register_buffer("ends", ends)
        classes = len(ends)
        self.register_buffer("before", torch.triu(torch.ones(classes, classes), diagonal=1), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Logarithm of the posterior, up to a constant per photo.

        Args:
            features: float32 (N, features).

        Returns:
            float32 (N, K).
        """
        answers = self.tasks(features)
        more, not_more = -functional.softplus(-answers), -functional.softplus(answers)
        # Sums, not a matrix product: INT8 quantises products, and these are logarithms of probabilities.
        reached = (more.unsqueeze(2) * self.before).sum(dim=1)
        return reached + not_more * self.ends


def head_name(model: nn.Module) -> str:
    """Find the layer that produces the classes: the last linear layer, or SqueezeNet's last convolution.

    Args:
        model: A torchvision classifier.

    Returns:
        Dotted name within the module.

    Raises:
        ConfigError: There is no such layer.
    """
    found = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    found = found or [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    if not found:
        raise ConfigError(f"{type(model).__name__} has no layer that could be a head")
    return str(found[-1])


def head_outputs(model: nn.Module) -> int:
    """Count the classes that a network answers with.

    Args:
        model: A torchvision classifier, its head replaced or not.

    Returns:
        Their number.
    """
    return _outputs(model.get_submodule(head_name(model)))


def replace_head(model: nn.Module, classes: int, *, corn: bool) -> None:
    """Put a fresh head in the place of the 1000 classes that a network was built with.

    Args:
        model: A torchvision classifier; changed in place.
        classes: Count classes.
        corn: CORN's chain instead of a softmax.

    Raises:
        ConfigError: The last layer is not the one with the 1000 classes, or no head of that kind fits there.
    """
    name = head_name(model)
    head = model.get_submodule(name)
    if _outputs(head) != _IMAGENET_CLASSES:
        raise ConfigError(
            f"{type(model).__name__}.{name} is not its head", got=_outputs(head), expected=_IMAGENET_CLASSES
        )
    fresh = _resized(head, classes)
    if corn:
        if not isinstance(fresh, nn.Linear):
            raise ConfigError("a CORN head needs a linear last layer", got=type(model).__name__, fix="Take softmax.")
        ends = torch.ones(classes)
        ends[-1] = 0
        fresh = CornHead(fresh, ends)
    _put(model, name, fresh)


def narrow_head(model: nn.Module, readout: slice) -> nn.Module:
    """Keep only some of the head's classes, in place: the softmax over the rest is the posterior given those classes.

    Args:
        model: A network whose head learned more classes than its counter answers with.
        readout: Contiguous class indices to keep.

    Returns:
        The same module.
    """
    name = head_name(model)
    old = model.get_submodule(name)
    new = _resized(old, len(range(*readout.indices(_outputs(old)))))
    with torch.no_grad():
        for key, parameter in new.named_parameters():
            parameter.copy_(old.get_parameter(key)[readout])
    new = new.to(next(old.parameters()).device)
    parent = name.rpartition(".")[0]
    around = model.get_submodule(parent)
    if isinstance(around, CornHead) and isinstance(new, nn.Linear):
        # The chain up to the first kept class is a factor common to all of them.
        _put(model, parent, CornHead(new, around.ends[readout].clone()).to(around.ends.device))
    else:
        _put(model, name, new)
    return model


def _outputs(head: nn.Module) -> int:
    return head.out_channels if isinstance(head, nn.Conv2d) else int(head.get_parameter("weight").shape[0])


def _resized(head: nn.Module, classes: int) -> nn.Module:
    if isinstance(head, nn.Linear):
        return nn.Linear(head.in_features, classes, bias=head.bias is not None)
    if isinstance(head, nn.Conv2d):
        return nn.Conv2d(head.in_channels, classes, kernel_size=1, bias=head.bias is not None)
    raise ConfigError(f"{type(head).__name__} cannot be a head")


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, layer)
