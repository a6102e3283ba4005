"""Do two models say the same? Judged on posteriors, not on the winning class alone.

Posteriors on bin photos are flat, so a small numerical error flips many answers: agreement shows the flips, total
variation shows the error itself. Export, calibration and activation on a robot all call this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bundle.counter import posterior_from_logits
from bundle.errors import ParityError
from bundle.manifest import ParityBudget, ParityResult

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from numpy.typing import NDArray


SURE = 0.6
"""A frame counts as sure when the reference gives its most probable class this much."""
_ROUNDING = 1e-9
"""Two frames of 400 are 0.005, but a difference of two shares is so only but for the last digits."""


def distances(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far the posteriors of two models are apart, frame by frame.

    Args:
        reference: float32, (N, K) logits.
        candidate: float32, (N, K) logits.

    Returns:
        float64, (N,), total-variation distance, 0..1.
    """
    return total_variation(posterior_from_logits(reference, 1.0), posterior_from_logits(candidate, 1.0))


def total_variation(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far two posteriors are apart, frame by frame.

    Args:
        p: float64, (N, K), rows sum to 1.
        q: The same of the other.

    Returns:
        float64, (N,), 0..1.
    """
    return np.asarray(0.5 * np.abs(p - q).sum(axis=1))


def compare(
    role: Literal["cpu", "tensorrt"],
    reference: NDArray[np.float32],
    candidate: NDArray[np.float32],
    truth: NDArray[np.int64] | None = None,
) -> ParityResult:
    """Measure how far a candidate is from the reference on the same frames.

    Args:
        role: Role of the candidate.
        reference: float32, (N, K) logits.
        candidate: float32, (N, K) logits.
        truth: int64, (N,) class indices, or None without labels.

    Returns:
        Agreement, mean total-variation distance, largest logit difference, and both accuracies where labels are known.
    """
    same = reference.argmax(axis=1) == candidate.argmax(axis=1)
    sure = posterior_from_logits(reference, 1.0).max(axis=1) >= SURE
    right = None if truth is None else reference.argmax(axis=1) == truth
    right_now = None if truth is None else candidate.argmax(axis=1) == truth
    return ParityResult(
        role=role,
        frames=len(reference),
        agreement=float(same.mean()),
        mean_tv=float(distances(reference, candidate).mean()),
        max_abs_logit=float(np.abs(reference - candidate).max()),
        reference_accuracy=None if right is None else float(right.mean()),
        accuracy=None if right_now is None else float(right_now.mean()),
        sure_frames=int(sure.sum()),
        sure_agreement=float(same[sure].mean()) if sure.any() else 1.0,
        accuracy_drop_ci=None if right is None or right_now is None else _paired_interval(right, right_now),
    )


def _paired_interval(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> tuple[float, float]:
    """95 % interval of the accuracy lost, from the frames on which the two differ."""
    lost = before.astype(np.float64) - after
    half = 1.96 * float(lost.std()) / np.sqrt(len(lost))
    return float(lost.mean() - half), float(lost.mean() + half)


def check_budget(result: ParityResult, budget: ParityBudget) -> None:
    """Refuse a candidate that is too far from the reference.

    Args:
        result: From `compare`.
        budget: The bundle's.

    Raises:
        ParityError: One figure is beyond the budget.
    """
    failures = list(_failures(result, budget))
    if failures:
        raise ParityError(
            f"model {result.role!r} is too far from the reference on {result.frames} frames",
            got="; ".join(failures),
            fix="Leave more layers in float (--float-convs), or use more calibration frames.",
        )


def _failures(result: ParityResult, budget: ParityBudget) -> Iterator[str]:
    if result.agreement < budget.min_agreement:
        yield f"agreement {result.agreement:.3f} (budget {budget.min_agreement:.3f} or more)"
    unsure_of = round((1 - result.sure_agreement) * result.sure_frames)
    if result.sure_agreement < budget.min_sure_agreement and unsure_of > 1:
        yield f"agreement on sure frames {result.sure_agreement:.4f} (budget {budget.min_sure_agreement:.4f} or more)"
    if result.mean_tv > budget.max_mean_tv:
        yield f"mean total variation {result.mean_tv:.4f} (budget {budget.max_mean_tv:.4f} or less)"
    if result.accuracy is not None and result.reference_accuracy is not None:
        drop = result.reference_accuracy - result.accuracy
        if drop > budget.max_accuracy_drop + _ROUNDING and round(drop * result.frames) > 1:
            yield f"accuracy lost {drop:.4f} (budget {budget.max_accuracy_drop:.4f} or less)"
