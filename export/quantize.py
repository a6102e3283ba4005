"""The fastest INT8 model that stays within the budget: tried on frames, not assumed.

1. Every way to turn histograms into ranges is tried on training frames that the ranges were not taken from.
2. With the best one, the model is judged on validation frames, all convolutions in INT8.
3. Beyond the budget, it is fine-tuned where that was asked for (`export.qat`), and judged again.
4. Still beyond it, convolutions go back to float, the most sensitive first, twice as many each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bundle.errors import ParityError
from bundle.parity import check_budget, compare, distances
from calibration.int8.quantize import Quantized, Recipe, most_sensitive, quantize
from calibration.int8.ranges import RANGE_METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from bundle.manifest import ParityBudget, ParityResult
    from calibration.int8.placement import Dialect
    from calibration.int8.quantize import Prepared
    from calibration.int8.ranges import RangeMethod

    Infer = Callable[[bytes, Dialect, NDArray[np.uint8]], NDArray[np.float32]]
    Tune = Callable[[Prepared, Recipe], Prepared]

_SENSITIVITY_FRAMES = 24
"""Frames that the harm of each convolution is measured on."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Frames and what the reference says about them.

    Attributes:
        pixels: uint8, (N, h, w, 3), BGR, at the network's size.
        reference: float32, (N, K) logits.
        truth: int64, (N,) class indices.
    """

    pixels: NDArray[np.uint8]
    reference: NDArray[np.float32]
    truth: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One INT8 model and how far it is from the reference.

    Attributes:
        dialect: Who shall run it.
        method: How its ranges were found.
        float_convolutions: How many convolutions compute in float.
        tuned: Whether its weights were fine-tuned.
        quantized: The model.
        logits: float32, (N, K), on the validation frames.
        result: Parity on the validation frames.
        refusal: What is beyond the budget, or None.
    """

    dialect: Dialect
    method: RangeMethod
    float_convolutions: int
    tuned: bool
    quantized: Quantized
    logits: NDArray[np.float32]
    result: ParityResult
    refusal: ParityError | None


@dataclass(frozen=True, slots=True)
class Search:
    """What a search works on.

    Attributes:
        prepared: The network, looked at.
        tuning: Training frames that the ranges were not taken from.
        validation: Frames that the budget is held against.
        budget: How far INT8 may be from the reference.
        infer: Runs an INT8 model on pixels.
        step: Told in words what happens.
        tune: Fine-tunes the weights for a recipe; None where that is not wanted.
    """

    prepared: Prepared
    tuning: Judged
    validation: Judged
    budget: ParityBudget
    infer: Infer
    step: Callable[[str], None]
    tune: Tune | None = None


def quantize_within(search: Search, dialect: Dialect, *, float_convolutions: int | None = None) -> list[Attempt]:
    """Find the INT8 model with the fewest convolutions in float that is within the budget.

    Args:
        search: What to work on.
        dialect: Who shall run it.
        float_convolutions: This many, and no other number; None tries 0, 1, 2, 4, 8 and so on.

    Returns:
        Every attempt; the last one is the result. It is beyond the budget only where no attempt was within.
    """
    method = _best_method(search, dialect)
    recipe = Recipe(dialect, method)
    total = len(search.prepared.convolutions)
    ladder = _ladder(total) if float_convolutions is None else [min(float_convolutions, total)]
    order: list[str] = []
    attempts: list[Attempt] = []
    for number in ladder:
        if number and not order:
            search.step(f"{dialect}: measuring what each of {total} convolutions loses in INT8")
            order = (
                list(search.prepared.convolutions)
                if number == total
                else worst_first(search.prepared, recipe, search.tuning, search.infer)
            )
        search.step(f"{dialect}: INT8 with {method} ranges, {number} of {total} convolutions in float")
        attempts += _rung(search, Recipe(dialect, method, frozenset(order[:number])))
        refusal = attempts[-1].refusal
        if refusal is None:
            break
        search.step(f"{dialect}: not within the budget: {refusal.got}")
    return attempts


def _rung(search: Search, recipe: Recipe) -> list[Attempt]:
    """One choice of what stays in float: as it is, and fine-tuned where that is wanted and needed."""
    plain = _attempt(search, search.prepared, recipe)
    if plain.refusal is None or search.tune is None or not _integer(search, recipe):
        return [plain]
    search.step(f"{recipe.dialect}: not within the budget: {plain.refusal.got}; fine-tuning")
    tuned = _attempt(search, search.tune(search.prepared, recipe), recipe, tuned=True)
    return [plain, tuned]


def _integer(search: Search, recipe: Recipe) -> bool:
    return len(recipe.float_convolutions) < len(search.prepared.convolutions)


def _ladder(total: int) -> list[int]:
    numbers = [0]
    step = 1
    while step < total:
        numbers.append(step)
        step *= 2
    return [*numbers, total]


def _best_method(search: Search, dialect: Dialect) -> RangeMethod:
    found: dict[RangeMethod, float] = {}
    for method in RANGE_METHODS:
        model = quantize(search.prepared, Recipe(dialect, method)).model
        logits = search.infer(model, dialect, search.tuning.pixels)
        found[method] = float(distances(search.tuning.reference, logits).mean())
    figures = ", ".join(f"{method} {distance:.4f}" for method, distance in found.items())
    search.step(f"{dialect}: ranges compared by mean distance on training frames: {figures}")
    return min(found, key=found.__getitem__)


def worst_first(prepared: Prepared, recipe: Recipe, judged: Judged, infer: Infer) -> list[str]:
    """Rank convolutions by the harm that each does alone in INT8.

    Args:
        prepared: The network, looked at.
        recipe: Dialect and ranges.
        judged: Training frames that the ranges were not taken from; the first 24 are used.
        infer: Runs an INT8 model on pixels.

    Returns:
        Names of all convolutions, the most harmful first.
    """
    pixels, reference = judged.pixels[:_SENSITIVITY_FRAMES], judged.reference[:_SENSITIVITY_FRAMES]
    return most_sensitive(
        prepared, recipe, lambda model: float(distances(reference, infer(model, recipe.dialect, pixels)).mean())
    )


def _attempt(search: Search, prepared: Prepared, recipe: Recipe, *, tuned: bool = False) -> Attempt:
    quantized = quantize(prepared, recipe)
    logits = search.infer(quantized.model, recipe.dialect, search.validation.pixels)
    result = compare(recipe.dialect, search.validation.reference, logits, search.validation.truth)
    refusal = None
    try:
        check_budget(result, search.budget)
    except ParityError as exc:
        refusal = exc
    number = len(recipe.float_convolutions)
    return Attempt(recipe.dialect, recipe.method, number, tuned, quantized, logits, result, refusal)
