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
    from typing import Literal

    from numpy.typing import NDArray


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
    p, q = posterior_from_logits(reference, 1.0), posterior_from_logits(candidate, 1.0)
    winners_p, winners_q = p.argmax(axis=1), q.argmax(axis=1)
    return ParityResult(
        role=role,
        frames=len(reference),
        agreement=float((winners_p == winners_q).mean()),
        mean_tv=float(0.5 * np.abs(p - q).sum(axis=1).mean()),
        max_abs_logit=float(np.abs(reference - candidate).max()),
        reference_accuracy=None if truth is None else float((winners_p == truth).mean()),
        accuracy=None if truth is None else float((winners_q == truth).mean()),
    )


def check_budget(result: ParityResult, budget: ParityBudget) -> None:
    """Refuse a candidate that is too far from the reference.

    Args:
        result: From `compare`.
        budget: The bundle's.

    Raises:
        ParityError: One figure is beyond the budget.
    """
    failures = []
    if result.agreement < budget.min_agreement:
        failures.append(f"agreement {result.agreement:.3f} (budget {budget.min_agreement:.3f} or more)")
    if result.mean_tv > budget.max_mean_tv:
        failures.append(f"mean total variation {result.mean_tv:.4f} (budget {budget.max_mean_tv:.4f} or less)")
    if result.accuracy is not None and result.reference_accuracy is not None:
        drop = result.reference_accuracy - result.accuracy
        if drop > budget.max_accuracy_drop:
            failures.append(f"accuracy lost {drop:.4f} (budget {budget.max_accuracy_drop:.4f} or less)")
    if failures:
        raise ParityError(
            f"model {result.role!r} is too far from the reference on {result.frames} frames",
            got="; ".join(failures),
            fix="Leave more layers in float (--float-convs), or use more calibration frames.",
        )
