"""Golden frames: a few images with the logits that each model must give, stored in the bundle.

A hash proves that the file is the published one; golden frames prove that THIS runtime on THIS machine computes what
was published. ONNX Runtime loads 398 of 400 models with one flipped bit without an error, so loading proves nothing.

golden.npz holds `frames` uint8 (N, H, W, 3) BGR, and for each model role `logits_<role>` float32 (N, K) and
`tolerance_<role>` float32 (), the largest allowed absolute difference of a logit.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle.errors import EngineError, IntegrityError
from bundle.preprocess import preprocess

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bundle.engines.base import Engine
    from bundle.manifest import Preprocessing
    from bundle.verify import Bundle

GOLDEN_NAME = "golden.npz"


@dataclass(frozen=True, slots=True)
class Golden:
    """Frames and what one model must answer.

    Attributes:
        frames: uint8, (N, H, W, 3), BGR, 0..255.
        logits: float32, (N, K).
        tolerance: Largest allowed |difference| of a logit.
    """

    frames: NDArray[np.uint8]
    logits: NDArray[np.float32]
    tolerance: float


def encode_golden(
    frames: NDArray[np.uint8], logits: Mapping[str, NDArray[np.float32]], tolerances: Mapping[str, float]
) -> bytes:
    """Serialise golden frames.

    Args:
        frames: uint8, (N, H, W, 3), BGR, 0..255.
        logits: float32, (N, K), per model role.
        tolerances: Per model role.

    Returns:
        Content of golden.npz.
    """
    arrays: dict[str, NDArray[np.generic]] = {"frames": frames}
    for role, expected in logits.items():
        arrays[f"logits_{role}"] = expected.astype(np.float32)
        arrays[f"tolerance_{role}"] = np.array(tolerances[role], np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read_golden(bundle: Bundle, role: str) -> Golden:
    """Read the golden frames for one model.

    Args:
        bundle: A verified bundle.
        role: Of the model.

    Returns:
        The frames and what is expected.

    Raises:
        IntegrityError: golden.npz is not listed, damaged, does not cover this role, or holds arrays that prove nothing.
    """
    content = bundle.read(GOLDEN_NAME)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            frames, logits, tolerance = arrays["frames"], arrays[f"logits_{role}"], arrays[f"tolerance_{role}"]
    except Exception as exc:  # one flipped bit and NumPy raises anything, its header parser even TokenError
        raise IntegrityError(
            f"{GOLDEN_NAME} of bundle {bundle.label} does not cover model {role!r}",
            got=repr(exc),
            fix="Export the bundle again.",
        ) from exc
    flaw = _flaw(frames, logits, tolerance, len(bundle.manifest.count_classes))
    if flaw is not None:
        raise IntegrityError(
            f"{GOLDEN_NAME} of bundle {bundle.label} proves nothing about model {role!r}",
            got=flaw[0],
            expected=flaw[1],
            fix="Export the bundle again.",
        )
    return Golden(frames, logits, float(tolerance))


def _flaw(
    frames: NDArray[np.generic], logits: NDArray[np.generic], tolerance: NDArray[np.generic], classes: int
) -> tuple[str, str] | None:
    """What is wrong with golden arrays, and what would be right: a NaN or an infinite tolerance lets anything pass."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or frames.size == 0:  # noqa: PLR2004
        return f"frames {frames.dtype} {frames.shape}", "uint8 (N, H, W, 3), at least one frame"
    if logits.dtype != np.float32 or logits.shape != (len(frames), classes):
        return f"logits {logits.dtype} {logits.shape}", f"float32 {(len(frames), classes)}"
    if not np.isfinite(logits).all():
        return f"{int((~np.isfinite(logits)).sum())} logits that are not finite", "finite logits"
    if tolerance.dtype != np.float32 or tolerance.shape != () or not 0 < float(tolerance) < np.inf:
        return f"a tolerance of {tolerance}", "one finite float32 above 0"
    return None


def infer_frames(engine: Engine, frames: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Run frames through the preprocessing and an engine, one by one as a robot does.

    Args:
        engine: Any engine.
        frames: uint8, (N, H, W, 3), BGR, 0..255.
        preprocessing: The bundle's.

    Returns:
        float32, (N, K) logits.

    Raises:
        EngineError: The engine failed.
    """
    return np.concatenate([engine.infer(preprocess(frame, preprocessing)[np.newaxis]) for frame in frames])


def check_golden(bundle: Bundle, engine: Engine) -> float:
    """Refuse an engine that does not compute what was published.

    Args:
        bundle: A verified bundle.
        engine: An engine that runs one of its models.

    Returns:
        Largest absolute difference of a logit.

    Raises:
        EngineError: A logit differs by more than the tolerance.
        IntegrityError: The bundle has no usable golden frames for the engine's model.
    """
    golden = read_golden(bundle, engine.role)
    logits = infer_frames(engine, golden.frames, bundle.manifest.preprocessing)
    worst = float(np.abs(logits - golden.logits).max())
    allowed = golden.tolerance * engine.golden_slack
    if not worst <= allowed:  # so that a NaN refuses
        raise EngineError(
            f"engine {engine.name} misses the golden frames of bundle {bundle.label}",
            got=f"a logit off by {worst:.4g}",
            expected=f"at most {allowed:.4g}",
            fix="Do not count with it: choose another engine, or report this machine's processor and runtime.",
        )
    return worst
