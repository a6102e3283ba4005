"""Visits in, a candidate bundle out: INT8 ranges, confidence and drift reference, as far as labels and tools allow.

What can be re-fitted without labels: ranges, and what is normal (brightness, colour, blur, view, share of unsure
visits). What cannot: the promise. It then stays as it was, marked unverified.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle.engines.ort import OrtEngine
from bundle.errors import InputError
from bundle.golden import GOLDEN_NAME, encode_golden, infer_frames, read_golden
from bundle.parity import compare
from bundle.preprocess import normalize_batch, resize
from calibration.derive import Changes, derive
from calibration.refit import MIN_LABELLED, needed_for, no_promise, reference_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.manifest import Calibration, ModelEntry, ParityResult
    from bundle.verify import Bundle
    from calibration.assess import Wish
    from calibration.observe import Observed

MIN_RANGE_FRAMES = 32
MAX_RANGE_FRAMES = 200
_HELD_OUT = 0.3
_DIALECTS = {"cpu": "cpu", "tensorrt": "tensorrt"}


@dataclass(frozen=True, slots=True)
class Material:
    """What a candidate is made of.

    Attributes:
        bundle: The current one.
        role: Of the model that the robot runs.
        observed: Usable visits, answered by the current bundle.
        pictures: Loads the frames of a visit: uint8, (h, w, 3), BGR, at the network's size.
    """

    bundle: Bundle
    role: str
    observed: Observed
    pictures: Callable[[int], list[NDArray[np.uint8]]]


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


@dataclass(frozen=True, slots=True)
class _Requantized:
    models: Mapping[str, ModelEntry]
    files: Mapping[str, bytes]
    parity: Mapping[str, ParityResult]
    logits: NDArray[np.float32]


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
    did, did_not = [], []
    obstacle = _obstacle(material, used) if ranges else "not asked for"
    observed, requantized = material.observed, None
    if obstacle:
        did_not.append(f"INT8 ranges: {obstacle}")
    else:
        told("fitting INT8 ranges")
        requantized = _requantize(material, used, held_out)
        observed = observed.with_logits(requantized.logits)
        did.append(f"INT8 ranges, from {min(len(used), MAX_RANGE_FRAMES)} visits")
    told("fitting the confidence")
    calibration, labelled = _calibration(material, observed, wish)
    if labelled:
        did.append(f"confidence, from {labelled} labelled visits")
    else:
        did_not.append(f"error promise: needs >= {MIN_LABELLED} labelled visits, so the old one stays, unverified")
    drift = reference_of(observed, calibration)
    (did if drift else did_not).append("drift reference: brightness, contrast, blur, colour, view, unsure share")
    note = "; ".join([*did, *(f"not {words}" for words in did_not)]) + "."
    changes = (
        Changes(calibration, drift=drift, note=f"Recalibrated on a robot: {note}")
        if requantized is None
        else (
            Changes(
                calibration,
                drift,
                requantized.models,
                requantized.parity,
                requantized.files,
                f"Recalibrated on a robot: {note}",
            )
        )
    )
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


def _obstacle(material: Material, used: NDArray[np.int64]) -> str:
    """Why ranges cannot be re-fitted here, or nothing."""
    if importlib.util.find_spec("onnx") is None:
        return "the package onnx is not installed here (pip install 'bintally[recalibrate]')"
    if len(used) < MIN_RANGE_FRAMES:
        return f"{len(used)} visits, at least {MIN_RANGE_FRAMES} are needed"
    reference = material.bundle.read(_entry(material.bundle, "reference").file)
    if not any(entry.role in _DIALECTS for entry in material.bundle.manifest.models):
        return "the bundle has no INT8 model"
    import onnx

    graph = onnx.load_model_from_string(reference).graph
    return "" if any(node.op_type == "Conv" for node in graph.node) else "the network has no convolutions"


def _entry(bundle: Bundle, role: str) -> ModelEntry:
    found = bundle.manifest.model(role)
    if found is None:
        raise InputError(f"bundle {bundle.label} has no {role} model", fix="Export it again.")
    return found


def _requantize(material: Material, used: NDArray[np.int64], held_out: NDArray[np.int64]) -> _Requantized:
    from calibration.int8.quantize import Recipe, prepare, quantize

    manifest = material.bundle.manifest
    reference = material.bundle.read(_entry(material.bundle, "reference").file)
    chosen = used[np.linspace(0, len(used) - 1, min(len(used), MAX_RANGE_FRAMES)).astype(np.int64)]
    # The published frames are among them: when the light is as it was again, nothing may saturate.
    golden = [resize(frame, manifest.preprocessing) for frame in read_golden(material.bundle, "reference").frames]
    pictures = np.stack([*golden, *(material.pictures(int(row))[0] for row in chosen)])
    prepared = prepare(reference, normalize_batch(pictures, manifest.preprocessing))
    models: dict[str, ModelEntry] = {}
    files: dict[str, bytes] = {}
    for entry in manifest.models:
        if entry.role == "reference":
            continue
        kept_float = frozenset(entry.float_nodes) & frozenset(prepared.convolutions)
        quantized = quantize(prepared, Recipe(entry.role, "minmax", kept_float))
        models[entry.role] = entry.model_copy(update={"float_nodes": quantized.float_nodes})
        files[entry.file] = quantized.model
    files[GOLDEN_NAME] = _golden(material.bundle, models, files)
    logits, parity = _answers(material, models, files, held_out)
    return _Requantized(models, files, parity, logits)


def _run(
    bundle: Bundle, entry: ModelEntry, model: bytes, pictures: NDArray[np.uint8] | list[NDArray[np.uint8]]
) -> NDArray[np.float32]:
    manifest = bundle.manifest
    with OrtEngine(model, entry, manifest.preprocessing, classes=len(manifest.count_classes), threads=1) as engine:
        return np.concatenate(
            [infer_frames(engine, picture[np.newaxis], manifest.preprocessing) for picture in pictures]
        )


def _golden(bundle: Bundle, models: Mapping[str, ModelEntry], files: Mapping[str, bytes]) -> bytes:
    """The old golden frames with the answers of the new models; the reference's answers stay what was published."""
    published = read_golden(bundle, "reference")
    logits, tolerances = {"reference": published.logits}, {"reference": published.tolerance}
    for role, entry in models.items():
        logits[role] = _run(bundle, entry, files[entry.file], published.frames)
        tolerances[role] = read_golden(bundle, role).tolerance
    return encode_golden(published.frames, logits, tolerances)


def _answers(
    material: Material,
    models: Mapping[str, ModelEntry],
    files: Mapping[str, bytes],
    held_out: NDArray[np.int64],
) -> tuple[NDArray[np.float32], dict[str, ParityResult]]:
    """Logits of the model that the robot runs on all visits, and the parity of every new one on held-out visits."""
    reference = _entry(material.bundle, "reference")
    pictures = [picture for row in held_out for picture in material.pictures(int(row))]
    expected = _run(material.bundle, reference, material.bundle.read(reference.file), pictures)
    parity: dict[str, ParityResult] = {}
    for entry in models.values():
        if entry.role != "reference":
            answers = _run(material.bundle, entry, files[entry.file], pictures)
            parity[entry.role] = compare(entry.role, expected, answers)
    if material.role not in models:
        return material.observed.logits, parity
    runs = models[material.role]
    everything = [picture for row in range(len(material.observed)) for picture in material.pictures(row)]
    return _run(material.bundle, runs, files[runs.file], everything), parity


def _calibration(material: Material, observed: Observed, wish: Wish) -> tuple[Calibration, int]:
    current = material.bundle.manifest.calibration
    data = observed.labelled(material.bundle.manifest.count_classes)
    if data is None or len(data) < MIN_LABELLED:
        promise = None if current.promise is None else current.promise.model_copy(update={"verified": False})
        return current.model_copy(update={"promise": promise}), 0
    fitted = wish.fit(data, _entry(material.bundle, material.role).role)
    if fitted.promise is None:
        raise no_promise(len(data), needed_for(data, fitted, wish), wish)
    return fitted, len(data)
