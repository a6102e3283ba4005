"""OpenVINO on the CPU: the fastest engine on x86 robots.

The network is compiled once with its batch left open, so that one call takes the frames of one or of several cameras.
What is not INT8 in the file runs in float32, not in bfloat16, although OpenVINO would prefer the latter where the
processor has it: layers were left in float because they need the digits.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.engines.base import CPP_ERRORS, Engine, Port
from bundle.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bundle.manifest import ModelEntry, Preprocessing


class OvEngine(Engine):
    """One ONNX model compiled by OpenVINO.

    The model comes as bytes that were hashed by the caller.

    Args:
        model: A single-file ONNX model.
        entry: Its entry in the manifest.
        preprocessing: Says what input the model must take.
        classes: Number of count classes that it must return.
        threads: Threads of the network; None leaves it to OpenVINO.

    Raises:
        EngineError: OpenVINO is missing or refuses the model, or its signature is not the manifest's.
    """

    def __init__(
        self,
        model: bytes,
        entry: ModelEntry,
        preprocessing: Preprocessing,
        *,
        classes: int,
        threads: int | None = None,
    ) -> None:
        width, height = preprocessing.size_wh
        super().__init__(f"openvino-{entry.precision}", role=entry.role, input_chw=(3, height, width), classes=classes)
        self._compiled: Any = _compile(model, entry.file, threads)
        self._require_signature(entry, _ports(self._compiled.inputs), _ports(self._compiled.outputs))
        self._request: Any = self._compiled.create_infer_request()

    def _run(self, tensor_nchw: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            # The input is shared for the length of the call; the output is copied, so the caller owns it.
            return np.array(self._request.infer([tensor_nchw], share_inputs=True, share_outputs=True)[0])
        except CPP_ERRORS as exc:
            raise EngineError(f"{self.name} failed on a batch", got=str(exc)[:300]) from exc

    def close(self) -> None:
        """Drop the compiled network."""
        self._request = self._compiled = None


def _ports(ports: Sequence[Any]) -> list[Port]:
    return [Port(port.get_any_name(), _dtype(port), _sizes(port)) for port in ports]


def _dtype(port: Any) -> str:  # noqa: ANN401 - OpenVINO ships no types
    name: str = port.get_element_type().get_type_name()
    return "float32" if name == "f32" else name


def _sizes(port: Any) -> tuple[int | str, ...]:  # noqa: ANN401
    sizes = list(port.get_partial_shape())[1:]
    return tuple(size.get_length() if size.is_static else str(size) for size in sizes)


def _compile(model: bytes, file: str, threads: int | None) -> Any:  # noqa: ANN401
    try:
        import openvino
    except ImportError as exc:
        raise EngineError(
            "OpenVINO is not installed", got=str(exc), fix="In the project's folder: pip install '.[openvino]'"
        ) from exc
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_PRECISION_HINT": "f32",
        # A pinned thread waits when capture or delivery holds its core.
        "ENABLE_CPU_PINNING": False,
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        core = openvino.Core()
        return core.compile_model(core.read_model(io.BytesIO(model)), "CPU", options)
    except CPP_ERRORS as exc:
        raise EngineError(
            f"OpenVINO does not load {file}",
            got=" ".join(str(exc).split())[-300:],
            fix="Verify the bundle, or export it again.",
        ) from exc
