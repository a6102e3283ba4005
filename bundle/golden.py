"""Golden frames: a few images with the logits that each model must give, stored in the bundle.

A hash proves that the file is the published one; golden frames prove that THIS runtime on THIS machine computes what
was published. ONNX Runtime loads 398 of 400 models with one flipped bit without an error, so loading proves nothing.

golden.npz holds `frames` uint8 (N, H, W, 3) BGR, and for each model role `logits_<role>` float32 (N, K) and
`tolerance_<role>` float32 (), the largest allowed absolute difference of a logit.
"""

from __future__ import annotations

import io
import zipfile
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
        IntegrityError: golden.npz is not listed, damaged, or does not cover this role.
    """
    try:
        with np.load(io.BytesIO(bundle.read(GOLDEN_NAME)), allow_pickle=False) as arrays:
            return Golden(
                np.asarray(arrays["frames"], np.uint8),
                np.asarray(arrays[f"logits_{role}"], np.float32),
                float(arrays[f"tolerance_{role}"]),
            )
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as exc:
        raise IntegrityError(
            f"{GOLDEN_NAME} of bundle {bundle.label} does not cover model {role!r}",
            got=repr(exc),
            fix="Export the bundle again.",
        ) from exc


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
        IntegrityError: The bundle has no golden frames for the engine's model.
    """
    golden = read_golden(bundle, engine.role)
    logits = infer_frames(engine, golden.frames, bundle.manifest.preprocessing)
    worst = float(np.abs(logits - golden.logits).max())
    allowed = golden.tolerance * engine.golden_slack
    if worst > allowed:
        raise EngineError(
            f"engine {engine.name} misses the golden frames of bundle {bundle.label}",
            got=f"a logit off by {worst:.4g}",
            expected=f"at most {allowed:.4g}",
            fix="Do not count with it: choose another engine, or report this machine's processor and runtime.",
        )
    return worst
