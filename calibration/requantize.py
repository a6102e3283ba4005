"""INT8 models anew, from frames of the place where they will run; without torch, so on a robot as well.

The published golden frames are among the frames that ranges are taken from, so that nothing saturates when the light is
again as it was. Every way to turn histograms into ranges is tried, and a model that is no closer to the reference than
the old one is not taken.
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

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.manifest import ModelEntry, ParityResult
    from bundle.verify import Bundle

MIN_FRAMES = 32
MAX_FRAMES = 200


@dataclass(frozen=True, slots=True)
class Requantized:
    """What changes in a bundle; empty when the old models are as good.

    Attributes:
        models: New entries by role.
        files: New content by file name, golden frames included.
        parity: New results by role.
        words: What was found, by role.
    """

    models: Mapping[str, ModelEntry]
    files: Mapping[str, bytes]
    parity: Mapping[str, ParityResult]
    words: str


def obstacle(bundle: Bundle, frames: int) -> str:
    """Why ranges cannot be fitted anew here.

    Args:
        bundle: The current one.
        frames: How many there are to take ranges from.

    Returns:
        The reason, or an empty text.
    """
    if importlib.util.find_spec("onnx") is None:
        return "the package onnx is not installed here (deploy/install.sh brings it; elsewhere: pip install onnx)"
    if frames < MIN_FRAMES:
        return f"{frames} visits, at least {MIN_FRAMES} are needed"
    if all(entry.role == "reference" for entry in bundle.manifest.models):
        return "the bundle has no INT8 model"
    import onnx

    graph = onnx.load_model_from_string(bundle.read(entry_of(bundle, "reference").file)).graph
    return "" if any(node.op_type == "Conv" for node in graph.node) else "the network has no convolutions"


def entry_of(bundle: Bundle, role: str) -> ModelEntry:
    """The entry of a model that must be there.

    Args:
        bundle: Any.
        role: Of the model.

    Returns:
        Its entry.

    Raises:
        InputError: The bundle has no such model.
    """
    found = bundle.manifest.model(role)
    if found is None:
        raise InputError(f"bundle {bundle.label} has no {role} model", fix="Export it again.")
    return found


def requantize(
    bundle: Bundle, pictures_bgr: NDArray[np.uint8], held_out_bgr: NDArray[np.uint8], *, cache: Path | None = None
) -> Requantized:
    """Quantise every INT8 model of a bundle anew.

    Args:
        bundle: The current one.
        pictures_bgr: uint8, (N, h, w, 3), BGR, at the network's size, to take ranges from.
        held_out_bgr: uint8, (M, h, w, 3), others, to judge on.
        cache: Folder where what the pictures did inside the network is kept, or None.

    Returns:
        The models that came closer to the reference.

    Raises:
        InputError: The network cannot be quantised.
        EngineError: A model does not run.
        OSError: The cache cannot be written.
    """
    from calibration.int8.cache import prepare_cached
    from calibration.int8.quantize import Recipe, quantize
    from calibration.int8.ranges import RANGE_METHODS

    spec = bundle.manifest.preprocessing
    reference = entry_of(bundle, "reference")
    weights = bundle.read(reference.file)
    golden = [resize(frame, spec) for frame in read_golden(bundle, "reference").frames]
    prepared = prepare_cached(weights, normalize_batch(np.stack([*golden, *pictures_bgr]), spec), cache)
    expected = run_model(bundle, reference, weights, held_out_bgr)
    models: dict[str, ModelEntry] = {}
    files: dict[str, bytes] = {}
    parity: dict[str, ParityResult] = {}
    words = []
    for entry in bundle.manifest.models:
        if entry.role == "reference":
            continue
        kept_float = frozenset(entry.float_nodes) & frozenset(prepared.convolutions)
        tried = [quantize(prepared, Recipe(entry.role, method, kept_float)) for method in RANGE_METHODS]
        results = [compare(entry.role, expected, run_model(bundle, entry, one.model, held_out_bgr)) for one in tried]
        best = int(np.argmin([result.mean_tv for result in results]))
        old = compare(entry.role, expected, run_model(bundle, entry, bundle.read(entry.file), held_out_bgr))
        words.append(f"{entry.role} {old.mean_tv:.4f} -> {results[best].mean_tv:.4f} from the reference")
        if results[best].mean_tv < old.mean_tv:
            models[entry.role] = entry.model_copy(update={"float_nodes": tried[best].float_nodes})
            files[entry.file] = tried[best].model
            parity[entry.role] = results[best]
    if models:
        files[GOLDEN_NAME] = _golden(bundle, models, files)
    return Requantized(models, files, parity, "; ".join(words))


def run_model(
    bundle: Bundle, entry: ModelEntry, model: bytes, pictures_bgr: Iterable[NDArray[np.uint8]]
) -> NDArray[np.float32]:
    """Run a model of a bundle, or one that shall replace it, on one thread.

    Args:
        bundle: Says how pictures are prepared.
        entry: Of the model.
        model: ONNX.
        pictures_bgr: Each uint8, (H, W, 3), BGR; at least one.

    Returns:
        float32, (N, K) logits.

    Raises:
        EngineError: The model does not run.
    """
    spec = bundle.manifest.preprocessing
    with OrtEngine(model, entry, spec, classes=len(bundle.manifest.count_classes), threads=1) as engine:
        return np.concatenate([infer_frames(engine, picture[np.newaxis], spec) for picture in pictures_bgr])


def _golden(bundle: Bundle, models: Mapping[str, ModelEntry], files: Mapping[str, bytes]) -> bytes:
    """The published golden frames with the answers of the new models; all other answers stay what was published."""
    published = read_golden(bundle, "reference")
    logits: dict[str, NDArray[np.float32]] = {}
    tolerances: dict[str, float] = {}
    for entry in bundle.manifest.models:
        known = read_golden(bundle, entry.role)
        logits[entry.role], tolerances[entry.role] = known.logits, known.tolerance
        if entry.role in models:
            logits[entry.role] = run_model(bundle, models[entry.role], files[entry.file], published.frames)
    return encode_golden(published.frames, logits, tolerances)
