"""ONNX Runtime on the CPU: the engine that runs anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.engines.base import Engine
from bundle.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bundle.manifest import ModelEntry, Preprocessing

_FLOAT = "tensor(float)"


class OrtEngine(Engine):
    """One ONNX model in one ONNX Runtime session.

    The model comes as bytes that were hashed by the caller; external data cannot be reached that way.

    Args:
        model: A single-file ONNX model.
        entry: Its entry in the manifest.
        preprocessing: Says what input the model must take.
        classes: Number of count classes that it must return.
        threads: Threads inside one operator; None leaves it to ONNX Runtime.

    Raises:
        EngineError: ONNX Runtime refuses the model, or its signature is not the manifest's.
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
        super().__init__(
            f"onnxruntime-{entry.precision}", role=entry.role, input_chw=(3, height, width), classes=classes
        )
        self._input, self._output = entry.input, entry.output
        self._session: Any = _open_session(model, entry.file, threads)
        self._check_signature(entry.file)

    def _check_signature(self, file: str) -> None:
        inputs = [(value.name, value.type, list(value.shape)[1:]) for value in self._session.get_inputs()]
        outputs = [(value.name, value.type, list(value.shape)[1:]) for value in self._session.get_outputs()]
        expected_in = [(self._input, _FLOAT, list(self.input_chw))]
        expected_out = [(self._output, _FLOAT, [self.classes])]
        if inputs != expected_in or outputs != expected_out:
            raise EngineError(
                f"{file} has another signature than its manifest",
                got=f"{inputs} -> {outputs}",
                expected=f"{expected_in} -> {expected_out}",
                fix="Export the bundle again.",
            )

    def _run(self, tensor_nchw: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            (logits,) = self._session.run([self._output], {self._input: tensor_nchw})
        except _runtime_errors() as exc:
            raise EngineError(f"{self.name} failed on a batch", got=str(exc)[:300]) from exc
        return np.asarray(logits)

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def _open_session(model: bytes, file: str, threads: int | None) -> Any:  # noqa: ANN401 - ONNX Runtime ships no types
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    # Idle threads that spin would take the cores from capture and delivery.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except _runtime_errors() as exc:
        raise EngineError(
            f"ONNX Runtime does not load {file}",
            got=str(exc)[:300],
            fix="Verify the bundle, or export it again.",
        ) from exc


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Everything that ONNX Runtime raises: its exceptions share no base below Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
