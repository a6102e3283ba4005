"""ONNX Runtime: the engine that runs anywhere; on a graphics processor where its package can and it is asked to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bundle.engines.base import CPP_ERRORS, Engine, Port
from bundle.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bundle.manifest import ModelEntry, Preprocessing

Device = Literal["cpu", "cuda", "tensorrt"]
_PROVIDERS: dict[Device, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_OPTIONS: dict[Device, dict[str, str]] = {"tensorrt": {"trt_int8_enable": "1", "trt_fp16_enable": "1"}}
"""TensorRT has to be allowed what the Q/DQ file asks for. Its engine cache inside ONNX Runtime stays off: it is not
bound to a hash, and engines are executable code."""
_DISABLED = ["WeightBiasQuantization"]
"""Since 1.21 ONNX Runtime turns a float convolution between Q/DQ nodes into an INT8 one, with one scale for all its
filters: exactly those that were left in float because INT8 hurts them (seen: 95 % of the answers kept, then 18 %)."""
_DEVICE_SLACK = 20.0
"""Graphics processors multiply float32 in fewer digits (TF32) by default. An INT8 file gets none: its golden tolerance
is wide already, and 20 times that would let anything pass."""


class OrtEngine(Engine):
    """One ONNX model in one ONNX Runtime session.

    The model comes as bytes that were hashed by the caller; external data cannot be reached that way.

    Args:
        model: A single-file ONNX model.
        entry: Its entry in the manifest.
        preprocessing: Says what input the model must take.
        classes: Number of count classes that it must return.
        threads: Threads inside one operator; None leaves it to ONNX Runtime.
        device: What executes it; what the device cannot do runs on the CPU.

    Raises:
        EngineError: ONNX Runtime refuses the model or has no such device, or the signature is not the manifest's.
    """

    def __init__(
        self,
        model: bytes,
        entry: ModelEntry,
        preprocessing: Preprocessing,
        *,
        classes: int,
        threads: int | None = None,
        device: Device = "cpu",
    ) -> None:
        width, height = preprocessing.size_wh
        name = f"onnxruntime-{entry.precision}" if device == "cpu" else f"onnxruntime-{device}-{entry.precision}"
        super().__init__(
            name,
            role=entry.role,
            input_chw=(3, height, width),
            classes=classes,
            golden_slack=_DEVICE_SLACK if device != "cpu" and entry.role == "reference" else 1.0,
        )
        self._input, self._output = entry.input, entry.output
        self._session: Any = _open_session(model, entry.file, threads, device)
        self._require_signature(entry, _ports(self._session.get_inputs()), _ports(self._session.get_outputs()))

    def _run(self, tensor_nchw: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            (logits,) = self._session.run([self._output], {self._input: tensor_nchw})
        except _runtime_errors() as exc:
            raise EngineError(f"{self.name} failed on a batch", got=str(exc)[:300]) from exc
        return np.asarray(logits)

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def _ports(values: Sequence[Any]) -> list[Port]:
    return [
        Port(value.name, "float32" if value.type == "tensor(float)" else value.type, tuple(value.shape[1:]))
        for value in values
    ]


def devices() -> tuple[Device, ...]:
    """What this ONNX Runtime can execute on.

    Returns:
        "cpu", and others where the package has them; whether there is such a device shows when it is opened.
    """
    import onnxruntime as ort

    present = ort.get_available_providers()
    return tuple(device for device, provider in _PROVIDERS.items() if provider in present)


def _open_session(model: bytes, file: str, threads: int | None, device: Device) -> Any:  # noqa: ANN401 - untyped library
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    # Idle threads that spin would take the cores from capture and delivery.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if device not in devices():
        raise EngineError(
            f"this ONNX Runtime has no {device} device",
            got=devices(),
            fix="Install onnxruntime-gpu instead of onnxruntime, or choose another engine.",
        )
    wanted = {_PROVIDERS[device]: _OPTIONS.get(device, {}), _PROVIDERS["cpu"]: {}}
    try:
        # Its fallback would print to stdout, which is data here, and count on another device than it says.
        session = ort.InferenceSession(
            model, options, providers=list(wanted.items()), disabled_optimizers=_DISABLED, enable_fallback=0
        )
    except _runtime_errors() as exc:
        raise EngineError(
            f"ONNX Runtime does not load {file}",
            got=str(exc)[:300],
            fix="Verify the bundle, or export it again.",
        ) from exc
    if session.get_providers()[0] != _PROVIDERS[device]:  # a device whose libraries are missing is left out silently
        raise EngineError(
            f"this ONNX Runtime cannot use its {device} device",
            got=session.get_providers(),
            fix="Check driver and libraries with `nvidia-smi`, or choose another engine.",
        )
    return session


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Everything that ONNX Runtime raises: its own exceptions share no base below Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (*CPP_ERRORS, *own)
