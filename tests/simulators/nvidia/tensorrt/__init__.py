"""A stand-in for the tensorrt package; see tests.simulators.nvidia."""

from __future__ import annotations

import ctypes
import enum
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__version__ = os.environ.get("BINTALLY_FAKE_TENSORRT", "10.3.0")
MAJOR = int(__version__.split(".", maxsplit=1)[0])
_HEADER = b"fake-plan\n"
_FAILURES = os.environ.get("BINTALLY_FAKE_TENSORRT_FAILS", "").split()


def _may_raise(what: str) -> None:
    """Fail as a C++ factory of the real bindings does; not one of NVIDIA's."""
    if f"{what}-raises" in _FAILURES:
        raise TypeError("pybind11::init(): factory function returned nullptr")


if MAJOR < 11:

    class BuilderFlag(enum.Enum):
        FP16 = 0
        INT8 = 1

    class NetworkDefinitionCreationFlag(enum.IntEnum):
        EXPLICIT_BATCH = 0

else:

    class BuilderFlag(enum.Enum):  # type: ignore[no-redef]
        TF32 = 7

    class NetworkDefinitionCreationFlag(enum.IntEnum):  # type: ignore[no-redef]
        STRONGLY_TYPED = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self) -> None:
        pass

    def log(self, severity: Severity, msg: str) -> None:
        pass


if MAJOR >= 10:

    class IProgressMonitor:
        def __init__(self) -> None:
            pass

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            del phase_name, step
            return True

        def phase_finish(self, phase_name: str) -> None:
            pass


class IHostMemory(bytes):
    __slots__ = ()

    @property
    def nbytes(self) -> int:
        return len(self)


class ParserError:
    def __init__(self, words: str) -> None:
        self._words = words

    def desc(self) -> str:
        return self._words


class INetworkDefinition:
    def __init__(self) -> None:
        self.model_ = b""


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        del logger
        self._network, self._errors = network, list[ParserError]()

    def parse(self, model: bytes, path: str | None = None) -> bool:
        del path
        import onnx

        try:
            found = onnx.load_model_from_string(model)
        except Exception as exc:  # noqa: BLE001 - a parser refuses whatever is wrong
            self._errors.append(ParserError(f"no model: {exc}"))
            return False
        newest = 17 if MAJOR < 10 else 20
        if found.opset_import[0].version > newest:
            self._errors.append(ParserError(f"opset {found.opset_import[0].version} is not supported"))
            return False
        self._network.model_ = bytes(model)
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes_: dict[str, Sequence[Sequence[int]]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:  # noqa: A002
        self.shapes_[input] = (min, opt, max)


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self.data_ = data

    def serialize(self) -> IHostMemory:
        return IHostMemory(self.data_ + b"timed ")


class IBuilderConfig:
    def __init__(self) -> None:
        self.flags_: set[Any] = set()
        self.profiles_: list[IOptimizationProfile] = []
        self.timing_cache_ = ITimingCache(b"")
        if MAJOR >= 10:
            self.progress_monitor: IProgressMonitor | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        del pool
        self.workspace_ = pool_size

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags_.add(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles_.append(profile)
        return len(self.profiles_) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:  # noqa: FBT001
        del ignore_mismatch
        self.timing_cache_ = cache
        return True

    def get_timing_cache(self) -> ITimingCache:
        return self.timing_cache_


class Builder:
    def __init__(self, logger: ILogger) -> None:
        _may_raise("builder")
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        if MAJOR < 10 and not flags & 1:
            self._logger.log(ILogger.Severity.ERROR, "implicit batch is not supported by the parser")
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        if "build" in _FAILURES:
            self._logger.log(ILogger.Severity.ERROR, "no tactic found")
            return None
        if "crash" in _FAILURES:
            os.abort()
        if MAJOR >= 10 and config.progress_monitor is not None:
            config.progress_monitor.phase_start("Building Engine", None, 2)
            config.progress_monitor.step_complete("Building Engine", 1)
            config.progress_monitor.phase_finish("Building Engine")
        flags = sorted(flag.name for flag in config.flags_)
        (profile,) = config.profiles_
        facts = json.dumps({"flags": flags, "shapes": profile.shapes_, "version": __version__})
        return IHostMemory(_HEADER + facts.encode() + b"\n" + network.model_)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        _, _, most = self._engine.facts_["shapes"][name]
        if shape[0] > most[0] or list(shape[1:]) != list(most[1:]):
            return False
        self._shape = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        _may_raise("run")
        if "run" in _FAILURES:
            return False
        from cuda.bindings import runtime

        shape = self._shape
        runtime.do_or_record(stream_handle, lambda: self._execute(shape))
        return True

    def _execute(self, shape: tuple[int, ...]) -> None:
        source, target = self._engine.names_
        floats = (ctypes.c_float * int(np.prod(shape))).from_address(self._addresses[source])
        (logits,) = self._engine.session_.run(None, {source: np.ctypeslib.as_array(floats).reshape(shape)})
        logits = np.ascontiguousarray(logits + np.float32("wrong" in _FAILURES))
        ctypes.memmove(self._addresses[target], logits.ctypes.data, logits.nbytes)


class ICudaEngine:
    def __init__(self, facts: dict[str, Any], model: bytes) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.facts_ = facts
        self.session_ = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.names_ = (self.session_.get_inputs()[0].name, self.session_.get_outputs()[0].name)

    @property
    def num_io_tensors(self) -> int:
        return 2

    def get_tensor_name(self, index: int) -> str:
        return str(self.names_[index])

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == self.names_[0] else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        del name
        return DataType.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        value = self.session_.get_inputs()[0] if name == self.names_[0] else self.session_.get_outputs()[0]
        return (-1, *value.shape[1:])

    def create_execution_context(self) -> IExecutionContext | None:
        return None if "memory" in _FAILURES else IExecutionContext(self)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        _may_raise("runtime")
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        _may_raise("deserialise")
        if not bytes(serialized_engine).startswith(_HEADER):
            self._logger.log(ILogger.Severity.ERROR, "the engine plan file is not compatible")
            return None
        facts, _, model = bytes(serialized_engine)[len(_HEADER) :].partition(b"\n")
        found = json.loads(facts)
        if found["version"] != __version__:
            self._logger.log(ILogger.Severity.ERROR, "the engine plan file is not compatible")
            return None
        return ICudaEngine(found, model)
