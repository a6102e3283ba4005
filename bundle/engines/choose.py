"""Which engine runs a bundle on this machine: the fastest of those that compute the golden frames.

"auto" opens every engine whose runtime is installed, holds each against the golden frames, and lets those that pass
run against the clock. Engines of the INT8 models come first, because the bundle's confidence was fitted on INT8
outputs, and TensorRT's FP16 stands in where its INT8 does not pass. The FP32 reference runs only where none of them
passes. `engine.reason` says why an engine was chosen.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle.engines.ort import OrtEngine, devices
from bundle.engines.single_file import require_single_file
from bundle.engines.speed import best_block_ms
from bundle.errors import ConfigError, EngineError
from bundle.golden import check_golden, read_golden
from bundle.preprocess import preprocess

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from bundle.engines.base import Engine
    from bundle.engines.ort import Device
    from bundle.engines.trt_build import Precision
    from bundle.manifest import ModelEntry
    from bundle.verify import Bundle

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kind:
    """One way to execute one of a bundle's models.

    Attributes:
        package: Python package of the runtime.
        role: Model that it executes.
        device: For ONNX Runtime, what executes it.
        precision: For TensorRT, what it computes in.
    """

    package: Literal["onnxruntime", "openvino", "tensorrt"]
    role: Literal["reference", "cpu", "tensorrt"]
    device: Device = "cpu"
    precision: Precision = "int8"


_KINDS = {
    "tensorrt": _Kind("tensorrt", "tensorrt"),
    "tensorrt-fp16": _Kind("tensorrt", "reference", precision="fp16"),
    "openvino": _Kind("openvino", "cpu"),
    "onnxruntime": _Kind("onnxruntime", "cpu"),
    "openvino-fp32": _Kind("openvino", "reference"),
    "onnxruntime-fp32": _Kind("onnxruntime", "reference"),
    "onnxruntime-cuda": _Kind("onnxruntime", "reference", device="cuda"),
    "onnxruntime-tensorrt": _Kind("onnxruntime", "tensorrt", device="tensorrt"),
}
_INT8_FIRST = (("tensorrt", "tensorrt-fp16", "openvino", "onnxruntime"), ("openvino-fp32", "onnxruntime-fp32"))
"""What "auto" lets race, by tier. The two last kinds above run by choice alone: TensorRT itself is faster."""
ENGINES = ("auto", *_KINDS)
"""Names that a configuration may ask for."""


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
        IntegrityError: The model's file is not the published one, or reaches outside itself.
    """
    if engine == "auto":
        return _open_fastest(bundle, threads)
    if engine not in _KINDS:
        raise ConfigError("unknown engine", got=engine, expected=f"one of {', '.join(ENGINES)}")
    if bundle.manifest.model(_KINDS[engine].role) is None:
        raise ConfigError(
            f"bundle {bundle.label} has no model for engine {engine}",
            got=[entry.role for entry in bundle.manifest.models],
            fix="Choose engine auto, or export the bundle with INT8.",
        )
    opened = _open_checked(bundle, engine, threads)
    opened.reason = f"{opened.name}: asked for by name"
    return opened


def usable_engines(bundle: Bundle) -> tuple[str, ...]:
    """Engines whose runtime is installed here and whose model is in the bundle.

    Args:
        bundle: A verified bundle.

    Returns:
        Names of `ENGINES` without "auto", in the order in which "auto" tries them.
    """
    return tuple(name for name, kind in _KINDS.items() if bundle.manifest.model(kind.role) and _installed(kind))


def _installed(kind: _Kind) -> bool:
    if kind.package == "onnxruntime":
        return kind.device in devices()
    return importlib.util.find_spec(kind.package) is not None


def _open_fastest(bundle: Bundle, threads: int | None) -> Engine:
    tiers = _INT8_FIRST[::-1] if bundle.manifest.calibration.fitted_on == "reference" else _INT8_FIRST
    usable = usable_engines(bundle)
    refusals: list[str] = []
    for tier in tiers:
        passed: list[Engine] = []
        for name in (name for name in tier if name in usable):
            if name == "tensorrt-fp16" and any(engine.role == "tensorrt" for engine in passed):
                continue  # built and raced for nothing: INT8 is what the device is made for
            try:
                passed.append(_open_checked(bundle, name, threads))
            except EngineError as exc:
                _LOG.warning("engine %s is out of the race: %s", name, exc)
                refusals.append(f"{name} refused: {exc}")
        if passed:
            return _race(bundle, passed, refusals)
    raise EngineError(
        f"no engine on this machine can run bundle {bundle.label}",
        got="; ".join(refusals),
        fix="Run `bintally engine selftest` and report what it prints.",
    )


def _race(bundle: Bundle, engines: Sequence[Engine], refusals: Sequence[str]) -> Engine:
    """Keep the fastest engine, close the others, and write down why."""
    if len(engines) == 1:
        winner, words = engines[0], f"{engines[0].name}: the only one that passed the golden frames"
    else:
        golden = read_golden(bundle, engines[0].role)
        frame = preprocess(golden.frames[0], bundle.manifest.preprocessing)[np.newaxis]
        latencies = best_block_ms(engines, frame)
        order = sorted(range(len(engines)), key=latencies.__getitem__)
        winner = engines[order[0]]
        figures = [f"{engines[i].name} {latencies[i]:.2f} ms" for i in order]
        words = f"{figures[0]} a frame, the fastest of those that passed the golden frames ({', '.join(figures[1:])})"
        for engine in engines:
            if engine is not winner:
                engine.close()
    winner.reason = "; ".join([words, *refusals])
    _LOG.info("engine chosen: %s", winner.reason)
    return winner


def _open_checked(bundle: Bundle, name: str, threads: int | None) -> Engine:
    kind = _KINDS[name]
    entry = bundle.manifest.model(kind.role)
    if entry is None:
        raise EngineError(f"bundle {bundle.label} has no model {kind.role}", fix="Export the bundle with INT8.")
    candidate = _open(bundle, kind, entry, threads)
    try:
        candidate.golden_error = check_golden(bundle, candidate)
    except BaseException:
        candidate.close()
        raise
    return candidate


def _open(bundle: Bundle, kind: _Kind, entry: ModelEntry, threads: int | None) -> Engine:
    model, preprocessing = bundle.read(entry.file), bundle.manifest.preprocessing
    classes = len(bundle.manifest.count_classes)
    require_single_file(model, entry.file)
    if kind.package == "openvino":
        from bundle.engines.ov import OvEngine

        return OvEngine(model, entry, preprocessing, classes=classes, threads=threads)
    if kind.package == "tensorrt":
        from bundle.engines.trt import TrtEngine

        return TrtEngine(model, entry, preprocessing, classes=classes, precision=kind.precision)
    return OrtEngine(model, entry, preprocessing, classes=classes, threads=threads, device=kind.device)
