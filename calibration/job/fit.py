"""Visits in, a candidate bundle out: INT8 ranges, confidence and drift reference, as far as labels and tools allow.

What can be re-fitted without labels: ranges, and what is normal (brightness, colour, blur, view, share of unsure
visits). What cannot: the promise. It then stays as it was, marked unverified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle.drift import MIN_REFERENCE_VISITS
from calibration.derive import Changes, derive
from calibration.picking import pick_different
from calibration.reference import reference_of
from calibration.refit import MIN_LABELLED, needed_for, no_promise
from calibration.requantize import MAX_FRAMES, Requantized, entry_of, obstacle, requantize, run_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.manifest import Calibration
    from bundle.verify import Bundle
    from calibration.assess import Wish
    from calibration.observe import Observed

_HELD_OUT = 0.3


@dataclass(frozen=True, slots=True)
class Material:
    """What a candidate is made of.

    Attributes:
        bundle: The current one.
        role: Of the model that the robot runs.
        observed: Usable visits, answered by the current bundle.
        pictures: Loads the frames of a visit: uint8, (h, w, 3), BGR, at the network's size.
        cache: Folder where what frames did inside the network is kept, so that a job that was killed is quick again.
    """

    bundle: Bundle
    role: str
    observed: Observed
    pictures: Callable[[int], list[NDArray[np.uint8]]]
    cache: Path


@dataclass(frozen=True, slots=True)
class Candidate:
    """A bundle that has yet to prove itself.

    Attributes:
        bundle: In the job's folder.
        observed: The same visits, answered by the candidate.
        held_out: int64, positions of visits that ranges were not fitted on.
        labelled: Labelled visits that the confidence rests on; 0 when the promise was kept.
        did: What was re-fitted, in words.
        did_not: What was not, and why, in words.
    """

    bundle: Bundle
    observed: Observed
    held_out: NDArray[np.int64]
    labelled: int
    did: tuple[str, ...]
    did_not: tuple[str, ...]


def make_candidate(
    material: Material, wish: Wish, out: Path, *, ranges: bool, now: datetime, told: Callable[[str], None]
) -> Candidate:
    """Fit what can be fitted and write the candidate.

    Args:
        material: What it is made of.
        wish: What the confidence is for.
        out: Folder of the candidate.
        ranges: Re-fit INT8 ranges if possible.
        now: Aware UTC time.
        told: Told in words what happens.

    Returns:
        The candidate.

    Raises:
        InputError: There are labels, and they cannot support the promise.
        EngineError: A re-quantised model does not run.
    """
    held_out, used = _split(material.observed)
    did: list[str] = []
    did_not: list[str] = []
    problem = obstacle(material.bundle, len(used)) if ranges else "not asked for"
    new = Requantized({}, {}, {}, "")
    if not problem:
        told("fitting INT8 ranges")
        new = _ranges(material, used, held_out)
        problem = "" if new.models else f"the old ones are as good here ({new.words})"
    (did_not if problem else did).append(f"INT8 ranges: {problem or new.words}")
    observed = _answers(material, new)
    told("fitting the confidence")
    calibration, labelled = _calibration(material, observed, wish)
    if labelled and answered_elsewhere(material.role, new):
        calibration = unproven(calibration)
        did_not.append(
            "proof on TensorRT: new ranges answered by ONNX Runtime; `calibrate confidence --engine tensorrt`"
        )
    if labelled:
        did.append(f"confidence, from {labelled} labelled visits")
    else:
        did_not.append(f"error promise: needs >= {MIN_LABELLED} labelled visits, so the old one stays, unverified")
    drift = reference_of(observed, calibration)
    if drift:
        did.append("drift reference: brightness, contrast, blur, colour, view, unsure share")
    else:
        did_not.append(f"drift reference: needs >= {MIN_REFERENCE_VISITS} visits; one for other numbers is left away")
    note = "Recalibrated on a robot: " + "; ".join([*did, *(f"not {words}" for words in did_not)]) + "."
    changes = Changes(calibration, drift, new.models, new.parity, new.files, note)
    candidate = derive(material.bundle, out, changes, now=now)
    return Candidate(candidate, observed, held_out, labelled, tuple(did), tuple(did_not))


def _split(observed: Observed) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold out every third or so visit, spread over time; visits of one bin stay together."""
    _, group = np.unique([visit.bin_id for visit in observed.visits], return_inverse=True)
    chosen = np.random.default_rng(0).random(int(group.max()) + 1) < _HELD_OUT
    mask = chosen[group]
    if mask.all() or not mask.any():
        mask = np.arange(len(observed)) % 3 == 0
    return np.flatnonzero(mask).astype(np.int64), np.flatnonzero(~mask).astype(np.int64)


def _ranges(material: Material, used: NDArray[np.int64], held_out: NDArray[np.int64]) -> Requantized:
    chosen = pick_different(material.observed, used, MAX_FRAMES)
    pictures = np.stack([material.pictures(int(row))[0] for row in chosen])
    judged = np.stack([material.pictures(int(row))[0] for row in held_out[:MAX_FRAMES]])
    return requantize(material.bundle, pictures, judged, cache=material.cache)


def _answers(material: Material, new: Requantized) -> Observed:
    """All visits, answered by the model that the robot will run."""
    if material.role not in new.models:
        return material.observed
    entry = new.models[material.role]
    pictures = (picture for row in range(len(material.observed)) for picture in material.pictures(row))
    return material.observed.with_logits(run_model(material.bundle, entry, new.files[entry.file], pictures))


def answered_elsewhere(role: str, new: Requantized) -> bool:
    """Whether another runtime than the robot's gave the answers that the confidence is fitted to.

    A re-quantised model is answered by ONNX Runtime. It stands for OpenVINO as in `bintally export`, not for TensorRT.

    Args:
        role: Of the model that the robot runs.
        new: What was re-quantised.

    Returns:
        True when the promise is not proven by these answers.
    """
    return role == "tensorrt" and role in new.models


def unproven(calibration: Calibration) -> Calibration:
    """Keep the promise, marked as inherited.

    Args:
        calibration: With or without a promise.

    Returns:
        The same numbers.
    """
    promise = calibration.promise
    kept = None if promise is None else promise.model_copy(update={"verified": False})
    return calibration.model_copy(update={"promise": kept})


def _calibration(material: Material, observed: Observed, wish: Wish) -> tuple[Calibration, int]:
    current = material.bundle.manifest.calibration
    data = observed.labelled(material.bundle.manifest.count_classes)
    if data is None or len(data) < MIN_LABELLED:
        return unproven(current), 0
    fitted = wish.fit(data, entry_of(material.bundle, material.role).role)
    if fitted.promise is None:
        raise no_promise(len(data), needed_for(data, fitted, wish), wish)
    return fitted, len(data)
