# ruff: noqa: TID253 - this file trains in torch
"""Quantisation-aware fine-tuning: an INT8 model learns to say what the FP32 network says, on training photos.

The teacher is the network itself, so no label is needed and nothing new is learned: the weights that post-training
quantisation rounded move by an integer or two, and the biases by a few steps, until the posteriors are close again.
Scales stay. It is offered where leaving layers in float would be the other way to meet the budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

from bundle.preprocess import normalize_batch
from export.fake_quant import FakeQuantized

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bundle.manifest import Preprocessing
    from calibration.int8.quantize import Prepared, Recipe

_BATCH = 16
_STEP = 0.03
"""Learning rate of Adam in steps of INT8: a weight can cross to the next integer in some 20 updates."""
_WARMUP = 0.1


@dataclass(frozen=True, slots=True)
class Lessons:
    """What an INT8 model learns from.

    Attributes:
        pixels: uint8, (N, h, w, 3), BGR, training photos at the network's size.
        reference: float32, (N, K) logits of the FP32 network on them.
        preprocessing: Of the network.
        epochs: Times that every photo is seen.
    """

    pixels: NDArray[np.uint8]
    reference: NDArray[np.float32]
    preprocessing: Preprocessing
    epochs: float


def fine_tune(prepared: Prepared, recipe: Recipe, lessons: Lessons, *, step: Callable[[str], None]) -> Prepared:
    """Fine-tune the weights of one INT8 model.

    Args:
        prepared: Of `calibration.int8.quantize.prepare`; not altered.
        recipe: Which INT8 model: dialect, ranges, what stays in float.
        lessons: What to learn from.
        step: Told in words how it goes.

    Returns:
        The same network with other weights: quantised by the same recipe, it is the model that was trained.

    Raises:
        InputError: The network has an operator that cannot be trained.
    """
    integer = {name: prepared.filters[name] for name in prepared.convolutions if name not in recipe.float_convolutions}
    student = FakeQuantized(prepared.model, recipe.dialect, prepared.observed.ranges(recipe.method), integer)
    losses = _train(student, lessons)
    tenth = max(1, len(losses) // 10)
    step(f"fine-tuned on {len(lessons.pixels)} photos: {np.mean(losses[:tenth]):.5f} -> {np.mean(losses[-tenth:]):.5f}")
    filters, constants = student.learned()
    model = onnx.ModelProto()
    model.CopyFrom(prepared.model)
    for tensor in model.graph.initializer:
        if tensor.name in constants:
            tensor.CopyFrom(numpy_helper.from_array(constants[tensor.name], tensor.name))
    return replace(prepared, model=model, filters={**prepared.filters, **filters})


def _train(student: FakeQuantized, lessons: Lessons) -> list[float]:
    """Adam over shuffled batches; distance of the posteriors (Kullback-Leibler, nats) after each."""
    random = np.random.default_rng(0)
    total = max(1, round(lessons.epochs * len(lessons.pixels) / _BATCH))
    optimizer = torch.optim.Adam(student.parameters(), lr=_STEP, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: _rate(update / total))
    order = np.zeros(0, np.int64)
    losses = []
    for _ in range(total):
        if len(order) < _BATCH:
            order = np.concatenate([order, random.permutation(len(lessons.pixels))])
        rows, order = order[:_BATCH], order[_BATCH:]
        images = torch.from_numpy(normalize_batch(lessons.pixels[rows], lessons.preprocessing))
        teacher = torch.from_numpy(lessons.reference[rows]).log_softmax(dim=1)
        loss = functional.kl_div(student(images).log_softmax(dim=1), teacher, log_target=True, reduction="batchmean")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def _rate(done: float) -> float:
    """Linear warm-up, then half a cosine down to nothing."""
    return min(done / _WARMUP + 0.05, 1.0) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
