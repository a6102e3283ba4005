"""TensorRT: the engine of Jetsons and of NVIDIA cards. Builds what is not in the cache, then runs it.

One stream, pinned host buffers, and the sequence copy - infer - copy recorded once as a CUDA graph for single frames,
which is what a robot asks for thousands of times. Where recording fails, the same work is queued call by call.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.engines.base import Engine, Port
from bundle.engines.child import in_child
from bundle.engines.cuda import Cuda
from bundle.engines.trt_build import (
    MAX_BATCH,
    BuildRequest,
    build_engine,
    import_tensorrt,
    make_logger,
    tensorrt_errors,
)
from bundle.engines.trt_cache import EngineCache, EngineKey, default_folder
from bundle.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.engines.trt_build import Precision
    from bundle.manifest import ModelEntry, Preprocessing

_LOG = logging.getLogger(__name__)
_BUILD_LIMIT_S = 3600.0
_FP16_SLACK = 20.0


class TrtEngine(Engine):
    """One model as a TensorRT engine, built on this device.

    Args:
        model: The ONNX file: Q/DQ for "int8", the FP32 reference for "fp16".
        entry: Its entry in the manifest.
        preprocessing: Says what input the model must take.
        classes: Number of count classes that it must return.
        precision: What to compute in.
        cache: Folder of built engines; None takes the default.

    Raises:
        EngineError: TensorRT or its device is missing, the build failed, or the engine has another signature.
    """

    def __init__(
        self,
        model: bytes,
        entry: ModelEntry,
        preprocessing: Preprocessing,
        *,
        classes: int,
        precision: Precision,
        cache: Path | None = None,
    ) -> None:
        width, height = preprocessing.size_wh
        super().__init__(
            f"tensorrt-{precision}",
            role=entry.role,
            input_chw=(3, height, width),
            classes=classes,
            golden_slack=_FP16_SLACK if precision == "fp16" else 1.0,
        )
        self._trt = import_tensorrt()
        self._logger = make_logger(self._trt, lambda words: _LOG.warning("%s", words))
        self._cuda = Cuda()
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._single: Callable[[], None] | None = None
        try:
            with tensorrt_errors(self.name):
                self._start(BuildRequest(model, entry.input, self.input_chw, precision), entry, cache)
        except BaseException:
            self.close()
            raise

    def _start(self, request: BuildRequest, entry: ModelEntry, cache: Path | None) -> None:
        self._runtime = self._trt.Runtime(self._logger)
        self._engine = self._open(request, EngineCache(cache or default_folder()))
        modes = self._trt.TensorIOMode
        self._require_signature(entry, self._ports(modes.INPUT), self._ports(modes.OUTPUT))
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{self.name} has no room on the device", fix="Free memory, or choose another engine.")
        self._allocate(entry)

    def _open(self, request: BuildRequest, cache: EngineCache) -> Any:  # noqa: ANN401 - TensorRT ships no types
        device = self._cuda.device()
        digest = hashlib.sha256(request.model).hexdigest()
        key = EngineKey(
            digest,
            _version(self._trt),
            device.name,
            device.compute_capability,
            device.cuda,
            device.driver,
            request.flags(),
        )
        found = cache.load(key)
        engine = self._runtime.deserialize_cuda_engine(found[0]) if found else None
        if engine is None:
            cache.drop(key)
            found = _build(request, key, cache)
            engine = self._runtime.deserialize_cuda_engine(found[0])
        self.built_s = found[1] if found else None
        if engine is None:
            cache.drop(key)
            raise EngineError(f"{self.name} was built and does not load", fix="What TensorRT said stands above.")
        return engine

    def _ports(self, mode: Any) -> list[Port]:  # noqa: ANN401 - TensorRT ships no types
        engine, floats = self._engine, self._trt.DataType.FLOAT
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = [(name, engine.get_tensor_dtype(name)) for name in names if engine.get_tensor_mode(name) == mode]
        return [
            Port(name, "float32" if dtype == floats else str(dtype), tuple(engine.get_tensor_shape(name))[1:])
            for name, dtype in found
        ]

    def _allocate(self, entry: ModelEntry) -> None:
        self._input = entry.input
        self._host_in = self._cuda.pinned((MAX_BATCH, *self.input_chw))
        self._host_out = self._cuda.pinned((MAX_BATCH, self.classes))
        self._device_in = self._cuda.allocate(self._host_in.nbytes)
        self._device_out = self._cuda.allocate(self._host_out.nbytes)
        self._context.set_tensor_address(entry.input, self._device_in)
        self._context.set_tensor_address(entry.output, self._device_out)
        self._shaped_for = 0
        self._infer(np.zeros((1, *self.input_chw), np.float32))
        try:
            self._single = self._cuda.record(lambda: self._queue(1))
        except EngineError as exc:
            _LOG.info("%s runs without a CUDA graph: %s", self.name, exc)

    def _run(self, tensor_nchw: NDArray[np.float32]) -> NDArray[np.float32]:
        starts = range(0, len(tensor_nchw), MAX_BATCH)
        with tensorrt_errors(self.name):
            parts = [self._infer(tensor_nchw[start : start + MAX_BATCH]) for start in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _infer(self, part: NDArray[np.float32]) -> NDArray[np.float32]:
        batch = len(part)
        self._host_in[:batch] = part
        if batch != self._shaped_for:
            # A recorded graph keeps the shape that it was recorded with, so shapes are set for queued work alone.
            if not self._context.set_input_shape(self._input, (batch, *self.input_chw)):
                raise EngineError(f"{self.name} takes no batch of {batch}")
            self._shaped_for = batch
        if batch == 1 and self._single is not None:
            self._single()
        else:
            self._queue(batch)
        self._cuda.wait()
        return np.array(self._host_out[:batch])

    def _queue(self, batch: int) -> None:
        self._cuda.copy_in(self._device_in, self._host_in[:batch])
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError(f"{self.name} failed on a batch", fix="What TensorRT said stands above.")
        self._cuda.copy_out(self._host_out[:batch], self._device_out)

    def close(self) -> None:
        """Free the engine and its memory."""
        self._single = None
        self._context = self._engine = self._runtime = None
        self._cuda.close()


def _build(request: BuildRequest, key: EngineKey, cache: EngineCache) -> tuple[bytes, float]:
    timed = BuildRequest(request.model, request.input, request.input_chw, request.precision, cache.timings(key))
    built = in_child(build_engine, timed, timeout_s=_BUILD_LIMIT_S, say=lambda words: _LOG.info("%s", words))
    engine: bytes = built["engine"]
    try:
        cache.save(key, engine, built_in_s=built["seconds"])
        cache.save_timings(key, built["timings"])
    except EngineError as exc:  # a full disk costs the next start another build, not this robot its engine
        _LOG.warning("the engine was built and will be built again at the next start: %s", exc)
    return engine, float(built["seconds"])


def _version(trt: Any) -> str:  # noqa: ANN401
    """The module's version and, where pip installed it, the package's, which has the build number too."""
    try:
        return f"{trt.__version__} {importlib.metadata.version('tensorrt')}"
    except importlib.metadata.PackageNotFoundError:
        return str(trt.__version__)
