"""The photos that an export works with, by purpose: INT8, parity and confidence, final figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle.engines.ort import OrtEngine
from bundle.errors import InputError
from bundle.preprocess import normalize
from calibration.picking import pick_pictures
from export.frames import Frames, load_frames
from train.data.manifest import Dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bundle.manifest import ModelEntry
    from train.run import Run

_CANDIDATES = 3
"""Training photos looked at for each one that INT8 is fitted on."""
_COMPARED = 4
"""One in so many of the photos that INT8 is fitted on is kept from the ranges."""


@dataclass(frozen=True, slots=True)
class Material:
    """Photos by purpose.

    Attributes:
        dataset: They are of this one.
        training: Candidates for INT8 ranges, and what fine-tuning learns from.
        validation: Parity and confidence are judged on these.
        test: Final figures are measured on these; the validation photos where there is no other split.
        measured_on: Name of the split of `test`.
    """

    dataset: Dataset
    training: Frames
    validation: Frames
    test: Frames
    measured_on: str


def load_material(run: Run, *, training: int, judged: int, min_judged: int) -> Material:
    """Read the photos of a run's dataset.

    Args:
        run: A finished run; its own splits are used.
        training: At most so many training photos.
        judged: At most so many validation and test photos.
        min_judged: At least so many validation photos.

    Returns:
        The photos.

    Raises:
        InputError: The dataset is not the run's, a split is missing, or there are too few validation photos.
    """
    dataset = _dataset_of(run)
    validation = load_frames(dataset, run.config.eval_split, run.classes, run.preprocessing, limit=judged)
    if len(validation.rows) < min_judged:
        raise InputError(
            f"split {run.config.eval_split} holds too few photos to prove that INT8 agrees with the network",
            got=len(validation.rows),
            expected=f"at least {min_judged}",
            fix="Split the dataset with a larger validation part, or lower --min-frames.",
        )
    measured_on = "test" if "test" in dataset.split_names() else run.config.eval_split
    test = validation
    if measured_on == "test":
        test = load_frames(dataset, "test", run.classes, run.preprocessing, limit=judged)
    learned = load_frames(dataset, run.config.train_split.split(","), run.classes, run.preprocessing, limit=training)
    return Material(dataset, learned, validation, test, measured_on)


def training_photos(range_frames: int, tuned_on: int) -> int:
    """How many training photos to load.

    Args:
        range_frames: Photos that INT8 is fitted on.
        tuned_on: Photos that fine-tuning learns from; 0 without it.

    Returns:
        The number.
    """
    return max(_CANDIDATES * range_frames, tuned_on)


def for_fitting(
    training: Frames, reference: NDArray[np.float32], number: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training photos that INT8 is fitted on: as different in light, blur and fill as there are.

    Args:
        training: All that were loaded.
        reference: float32, (N, K) logits of the FP32 network on them.
        number: How many.

    Returns:
        Positions in `training`, int64: three quarters to take ranges from, and the rest, on which range methods are
        compared and the harm of each convolution is measured.
    """
    candidates = spread(np.arange(len(training.rows)), min(_CANDIDATES * number, len(training.rows)))
    chosen = candidates[pick_pictures(training.pixels[candidates], reference[candidates], number)]
    compared = np.arange(len(chosen)) % _COMPARED == _COMPARED - 1
    return chosen[~compared], chosen[compared]


def logits_of(model: bytes, entry: ModelEntry, run: Run, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run a model frame by frame, as a robot does.

    Args:
        model: ONNX.
        entry: Of the model.
        run: Says how pixels become the network's input.
        pixels: uint8, (N, h, w, 3), BGR, at the network's size.

    Returns:
        float32, (N, K).

    Raises:
        EngineError: The model does not run.
    """
    with OrtEngine(model, entry, run.preprocessing, classes=len(run.classes)) as engine:
        return np.concatenate([engine.infer(normalize(image, run.preprocessing)[np.newaxis]) for image in pixels])


def spread(rows: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Evenly spread members.

    Args:
        rows: int64, (N,).
        number: How many, at most N.

    Returns:
        int64, (number,).
    """
    return rows[np.linspace(0, len(rows) - 1, number).astype(np.int64)]


def _dataset_of(run: Run) -> Dataset:
    dataset = Dataset.open(run.dataset)
    if dataset.digest != run.dataset_sha256:
        raise InputError(
            f"dataset {run.dataset} is not the one that run {run.folder} learned from",
            got=dataset.digest[:12],
            expected=run.dataset_sha256[:12],
            fix="Restore that dataset: its training photos must not be measured on.",
        )
    return dataset
