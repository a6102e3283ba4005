"""Which engine runs a bundle on this machine: the first in order that computes the golden frames."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from bundle.engines.ort import OrtEngine
from bundle.errors import ConfigError, EngineError
from bundle.golden import check_golden

if TYPE_CHECKING:
    from bundle.engines.base import Engine
    from bundle.manifest import ModelEntry
    from bundle.verify import Bundle

_LOG = logging.getLogger(__name__)

_ROLES = {"auto": ("cpu", "reference"), "onnxruntime": ("cpu",), "onnxruntime-fp32": ("reference",)}
ENGINES = tuple(_ROLES)
"""Names that a configuration may ask for; "auto" takes INT8 where it agrees with the golden frames, else FP32."""


def open_engine(bundle: Bundle, *, engine: str = "auto", threads: int | None = None) -> Engine:
    """Load the bundle's model into a runtime and hold it against the golden frames.

    Args:
        bundle: A verified bundle.
        engine: One of `ENGINES`.
        threads: Threads for the runtime; None leaves it to the runtime.

    Returns:
        An engine that owns its session and reproduced the golden frames.

    Raises:
        ConfigError: No such engine, or the bundle has no model for it.
        EngineError: Every candidate was refused by its runtime or missed the golden frames.
        IntegrityError: The model's file is not the published one.
    """
    if engine not in _ROLES:
        raise ConfigError("unknown engine", got=engine, expected=f"one of {', '.join(ENGINES)}")
    entries = [entry for role in _ROLES[engine] if (entry := bundle.manifest.model(role)) is not None]
    if not entries:
        raise ConfigError(
            f"bundle {bundle.label} has no model for engine {engine}",
            got=[entry.role for entry in bundle.manifest.models],
            fix="Choose engine auto, or export the bundle with INT8.",
        )
    for position, entry in enumerate(entries):
        try:
            return _open_checked(bundle, entry, threads)
        except EngineError as exc:
            if position == len(entries) - 1:
                raise
            _LOG.warning("falling back from the %s model: %s", entry.role, exc)
    raise AssertionError("unreachable: the last entry returns or raises")


def _open_checked(bundle: Bundle, entry: ModelEntry, threads: int | None) -> Engine:
    manifest = bundle.manifest
    candidate = OrtEngine(
        bundle.read(entry.file), entry, manifest.preprocessing, classes=len(manifest.count_classes), threads=threads
    )
    try:
        check_golden(bundle, candidate)
    except EngineError:
        candidate.close()
        raise
    return candidate
