"""What frames did inside a network, kept on disk: asked again for the same network and frames, it costs nothing.

The key is the digest of the model, of the frames and of this package's own code, so nothing stale is ever found. A file
that is damaged is made anew. The folder holds the newest few.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.durable import write_bytes
from calibration.int8.qdq import Filters
from calibration.int8.quantize import Prepared, prepare
from calibration.int8.ranges import Activation, Observed

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEPT = 4
_SUFFIX = ".ranges.npz"
_FILTER_PARTS = ("rounded", "scales", "bias")


def prepare_cached(model: bytes, tensors_nchw: NDArray[np.float32], folder: Path | None) -> Prepared:
    """Look at frames inside a network, or find what was seen the last time.

    Args:
        model: The FP32 reference.
        tensors_nchw: float32, (N, 3, H, W), preprocessed frames, at least 16.
        folder: Where to keep it, created if needed; None keeps nothing.

    Returns:
        What recipes work on. Moments, which no recipe needs, are left out of what was kept.

    Raises:
        InputError: There are too few frames, or the network cannot be quantised.
        OSError: The disk refused.
    """
    if folder is None:
        return prepare(model, tensors_nchw)
    file = folder / f"{key_of(model, tensors_nchw)}{_SUFFIX}"
    known = _read(file)
    if known is not None:
        return known
    prepared = prepare(model, tensors_nchw)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(file, _encoded(prepared))
    for old in sorted(folder.glob(f"*{_SUFFIX}"), key=lambda one: one.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)
    return prepared


def key_of(model: bytes, tensors_nchw: NDArray[np.float32]) -> str:
    """Digest of everything that the result depends on.

    Args:
        model: The FP32 reference.
        tensors_nchw: float32, (N, 3, H, W).

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    digest.update(hashlib.sha256(model).digest())
    digest.update(f"{np.__version__} {tensors_nchw.dtype} {tensors_nchw.shape}".encode())
    digest.update(np.ascontiguousarray(tensors_nchw).data)
    return digest.hexdigest()


def _encoded(prepared: Prepared) -> bytes:
    seen, filters = prepared.observed.activations, prepared.filters
    content: dict[str, NDArray[Any]] = {
        "model": np.frombuffer(prepared.model.SerializeToString(), np.uint8),
        "convolutions": np.array(prepared.convolutions, np.str_),
        "products": np.array(prepared.products, np.str_),
        "tensors": np.array(list(seen), np.str_),
        "bounds": np.array([(one.low, one.high) for one in seen.values()], np.float64),
        "histograms": np.array([one.histogram for one in seen.values()], np.int64),
    }
    for number, name in enumerate(prepared.convolutions):
        content |= {f"{part}-{number}": getattr(filters[name], part) for part in _FILTER_PARTS}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **content)
    return buffer.getvalue()


def _read(file: Path) -> Prepared | None:
    """What stands in a file; None when there is none that can be used."""
    import onnx

    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as content:
            names = tuple(str(name) for name in content["convolutions"])
            filters = {
                name: Filters(*(content[f"{part}-{number}"] for part in _FILTER_PARTS))
                for number, name in enumerate(names)
            }
            seen = {
                str(name): Activation(float(low), float(high), histogram)
                for name, (low, high), histogram in zip(
                    content["tensors"], content["bounds"], content["histograms"], strict=True
                )
            }
            products = tuple(str(name) for name in content["products"])
            model = onnx.load_model_from_string(content["model"].tobytes())
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return Prepared(model, names, products, Observed(seen, {}), filters)
