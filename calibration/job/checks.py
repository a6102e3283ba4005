"""What a candidate must pass before it may be activated. Every check says what it measured.

The labels are checked as well as the candidate: labels that know nothing about the pictures, or that fit better when
they are shifted by one, would make a bundle that is confidently wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bundle.engines.choose import open_engine
from bundle.errors import BintallyError
from bundle.golden import read_golden
from bundle.parity import distances
from calibration.assess import FOLDS, cross_fit
from calibration.bounds import supports
from calibration.confidence import fit_temperature, tops
from calibration.job.journal import Band, Check

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bundle.verify import Bundle
    from calibration.assess import Wish
    from calibration.job.fit import Candidate
    from calibration.labelled import Labelled
    from calibration.observe import Observed

_GOLDEN_SLACK = 0.05
_SHADOW_SLACK = 0.01
_LEAST_SHADOW_AGREEMENT = 0.75
_OFFSETS = (-2, -1, 1, 2)
_LEAST_CLASSES = 3
_KEPT_COVERAGE = 0.5
_SIGMAS = 2.0


def check_candidate(candidate: Candidate, current: Bundle, before: Observed, wish: Wish) -> list[Check]:
    """Hold a candidate against everything that needs no further visits.

    Args:
        candidate: From `calibration.job.fit`.
        current: The bundle that is active.
        before: The same visits, answered by the current bundle.
        wish: What the confidence is for.

    Returns:
        All checks; the candidate may go on when every one passed.
    """
    checks = [
        _golden(candidate.bundle),
        _known_pictures(candidate.bundle, current),
        _parity(candidate, current),
        _shadow(candidate, before),
    ]
    data = candidate.observed.labelled(current.manifest.count_classes)
    if candidate.labelled and data is not None:
        checks += [_promise_holds(data, wish), _not_worse(data, current, before, wish)]
    return checks


def check_labels(data: Labelled) -> list[Check]:
    """Ask whether labels are about these pictures at all; nothing may be fitted to them otherwise.

    Args:
        data: Labelled visits, answered by the current bundle.

    Returns:
        All checks.
    """
    return [_labels_vary(data), _labels_inform(data), _labels_are_not_shifted(data)]


def _golden(bundle: Bundle) -> Check:
    """The runtime of this robot computes what the candidate says."""
    try:
        open_engine(bundle, engine="auto", threads=1).close()
    except BintallyError as exc:
        return Check(name="golden frames", passed=False, words=str(exc))
    return Check(name="golden frames", passed=True, words="every model reproduces them")


def _known_pictures(candidate: Bundle, current: Bundle) -> Check:
    """On the published golden frames the new INT8 model stays close to the reference: ranges fit real bins."""
    budget = current.manifest.parity.budget.max_mean_tv
    worst, allowed = 0.0, budget + _GOLDEN_SLACK
    for entry in candidate.manifest.models:
        if entry.role == "reference":
            continue
        old = _golden_distance(current, entry.role)
        new = _golden_distance(candidate, entry.role)
        worst, allowed = max(worst, new), max(allowed, old + _GOLDEN_SLACK)
    words = f"distance to the reference {worst:.3f}, at most {allowed:.3f}"
    return Check(name="published pictures", passed=worst <= allowed, words=words)


def _golden_distance(bundle: Bundle, role: str) -> float:
    reference = read_golden(bundle, "reference")
    return float(distances(reference.logits, read_golden(bundle, role).logits).mean())


def _parity(candidate: Candidate, current: Bundle) -> Check:
    """On held-out visits the new INT8 model is within the budget, or no farther off than the old one is there."""
    budget = current.manifest.parity.budget
    changed = [
        result for result in candidate.bundle.manifest.parity.results if result not in current.manifest.parity.results
    ]
    if not changed:
        return Check(name="parity", passed=True, words="the models are unchanged")
    far = [result for result in changed if result.mean_tv > budget.max_mean_tv + _SHADOW_SLACK]
    words = ", ".join(
        f"{result.role}: agreement {result.agreement:.3f}, distance {result.mean_tv:.4f}" for result in changed
    )
    return Check(name="parity", passed=not far, words=f"{words}; budget {budget.max_mean_tv:.4f}")


def _shadow(candidate: Candidate, before: Observed) -> Check:
    """Side by side on held-out visits, the old and the new bundle mostly count the same."""
    same = agreement(candidate.observed, before)[candidate.held_out]
    words = f"{same.mean():.1%} of {len(same)} visits counted the same, at least {_LEAST_SHADOW_AGREEMENT:.0%}"
    return Check(name="shadow", passed=bool(same.mean() >= _LEAST_SHADOW_AGREEMENT), words=words)


def agreement(first: Observed, second: Observed) -> NDArray[np.bool_]:
    """Where two bundles count the same.

    Args:
        first: Visits, answered by one.
        second: The same visits, answered by the other.

    Returns:
        bool, (V,).
    """
    counts = [one.posteriors(1.0).argmax(axis=1) for one in (first, second)]
    return np.asarray(counts[0] == counts[1])


def _labels_vary(data: Labelled) -> Check:
    shares = np.bincount(data.truth, minlength=data.logits.shape[1]) / len(data)
    kinds = int((shares > 0).sum())
    words = f"{kinds} different counts, at least {_LEAST_CLASSES}"
    return Check(name="labels vary", passed=kinds >= min(_LEAST_CLASSES, len(shares)), words=words)


def _labels_inform(data: Labelled) -> Check:
    """The pictures say more about the labels than the labels' own frequencies do, on unseen visits."""
    posterior = cross_fitted_posterior(data)
    shares = (np.bincount(data.truth, minlength=posterior.shape[1]) + 1) / (len(data) + posterior.shape[1])
    rows = np.arange(len(data))
    gain = np.log(np.maximum(posterior[rows, data.truth], 1e-6)) - np.log(shares[data.truth])
    mean, error = float(gain.mean()), float(gain.std() / np.sqrt(len(gain)))
    words = f"{mean:+.3f} nats per visit (+- {error:.3f}), must be above {_SIGMAS:.0f} standard errors"
    return Check(name="labels fit the pictures", passed=mean > _SIGMAS * error, words=words)


def cross_fitted_posterior(data: Labelled) -> NDArray[np.float64]:
    """Posteriors whose temperature was fitted on other visits.

    Args:
        data: Labelled outputs.

    Returns:
        float64, (V, K).
    """
    fold = np.arange(len(data)) % FOLDS
    posterior = np.zeros((len(data), data.logits.shape[1]))
    for held_out in range(FOLDS):
        rows = np.flatnonzero(fold == held_out)
        temperature = fit_temperature(data.take(np.flatnonzero(fold != held_out)))
        posterior[rows] = data.take(rows).posteriors(temperature)
    return posterior


def _labels_are_not_shifted(data: Labelled) -> Check:
    counted = data.posteriors(1.0).argmax(axis=1)
    hits = {offset: int((counted + offset == data.truth).sum()) for offset in (0, *_OFFSETS)}
    best = max(hits, key=lambda offset: (hits[offset], offset == 0))
    words = "the counts agree best as they are" if best == 0 else f"the labels agree better when shifted by {-best:+d}"
    return Check(name="labels are not shifted", passed=best == 0, words=words)


def _promise_holds(data: Labelled, wish: Wish) -> Check:
    """Fitted without a fold, the promise is not clearly broken on that fold."""
    unseen = cross_fit(data, wish)
    chosen = int(unseen.confident.sum())
    wrong = int((unseen.confident & ~unseen.right).sum())
    # Broken for certain: even the luckiest reading of these errors lies above the risk.
    broken = chosen > 0 and wrong > 0 and supports(chosen - wrong, chosen, 1 - wish.risk, 0.95)
    words = f"{wrong} of {chosen} confident counts wrong on unseen visits, promised at most {wish.risk:.0%}"
    return Check(name="promise", passed=not broken, words=words)


def _not_worse(data: Labelled, current: Bundle, before: Observed, wish: Wish) -> Check:
    """Where the old promise still holds, the candidate must not be confident of far fewer visits."""
    old = before.labelled(current.manifest.count_classes)
    fitted = current.manifest.calibration
    if old is None or fitted.promise is None or fitted.threshold >= 1:
        return Check(name="not worse", passed=True, words="the old bundle promised nothing")
    top, wrong = tops(old, fitted.temperature, fitted.ordinal)
    chosen = top >= fitted.threshold
    still = chosen.any() and wrong[chosen].mean() <= fitted.promise.risk
    new = float(cross_fit(data, wish).confident.mean())
    words = f"confident of {new:.0%} of the visits, the old bundle of {chosen.mean():.0%}"
    if not still:
        return Check(name="not worse", passed=True, words=f"{words}, and wrong more often than it promised")
    comparable = wish.risk >= fitted.promise.risk
    return Check(name="not worse", passed=not comparable or new >= _KEPT_COVERAGE * chosen.mean(), words=words)


def describe(candidate: Candidate, before: Observed) -> Band:
    """Say what the visits so far look like to the candidate, so that later ones can be held against them.

    Args:
        candidate: That passed.
        before: The same visits, answered by the current bundle.

    Returns:
        The basis of the prediction.
    """
    same = agreement(candidate.observed, before)
    unsure = unsure_visits(candidate.bundle, candidate.observed)
    return Band(visits=len(same), unsure=int(unsure.sum()), agreeing=int(same.sum()))


def unsure_visits(bundle: Bundle, observed: Observed) -> NDArray[np.bool_]:
    """Which visits a bundle is unsure of.

    Args:
        bundle: Its calibration decides.
        observed: Visits, answered by it.

    Returns:
        bool, (V,).
    """
    fitted = bundle.manifest.calibration
    top = observed.posteriors(fitted.temperature, fitted.ordinal).max(axis=1)
    return np.asarray((top < fitted.threshold) | (fitted.threshold >= 1))
