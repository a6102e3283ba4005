"""Builds a TensorRT engine from an ONNX file. Runs in a child process: a build takes minutes and may crash.

What differs between TensorRT 8.6, 10 and 11 stands here and only here:
- 8.6 wants networks with an explicit batch; later ones know no other.
- Up to 10, INT8 and FP16 are allowed by builder flags. Since 11 the file alone decides, so there an FP32 file cannot be
  built as FP16.
- Progress is reported since 10.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bundle.engines.base import CPP_ERRORS
from bundle.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bundle.engines.child import Say

Precision = Literal["int8", "fp16"]
MAX_BATCH = 8
"""Most frames in one call of a built engine; larger batches are cut."""
WORKSPACE_BYTES = 512 << 20
"""Scratch memory that the builder may use: a Jetson shares its memory with everything else."""
_REPORT_S = 5.0


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build.

    Attributes:
        model: The ONNX file.
        input: Name of its input.
        input_chw: Channels, height and width.
        precision: "int8" for a Q/DQ file, "fp16" for the FP32 reference.
        timings: Serialised timing cache, or empty.
    """

    model: bytes
    input: str
    input_chw: tuple[int, int, int]
    precision: Precision
    timings: bytes = b""

    def flags(self) -> tuple[str, ...]:
        """Everything that changes the result, for the cache's key.

        Returns:
            Words.
        """
        return (self.precision, f"batch 1..{MAX_BATCH}", f"workspace {WORKSPACE_BYTES}", "format 1")


def build_engine(say: Say, request: BuildRequest) -> dict[str, Any]:
    """Build; meant for `bundle.engines.child.in_child`.

    Args:
        say: Told how far it is.
        request: What to build.

    Returns:
        engine: serialised engine; timings: serialised timing cache; seconds.

    Raises:
        EngineError: TensorRT refuses the file or cannot build it.
    """
    with tensorrt_errors("TensorRT's builder"):
        return _build(say, request)


@contextmanager
def tensorrt_errors(who: str) -> Iterator[None]:
    """Translate what TensorRT raises.

    A factory of its that fails in C++ is "TypeError: pybind11::init(): factory function returned nullptr".

    Args:
        who: Names what failed.

    Raises:
        EngineError: In place of the runtime's own exceptions.
    """
    try:
        yield
    except (*CPP_ERRORS, TypeError) as exc:
        raise EngineError(f"{who} failed", got=repr(exc)[:300], fix="Check the driver with `nvidia-smi`.") from exc


def _build(say: Say, request: BuildRequest) -> dict[str, Any]:
    trt = import_tensorrt()
    started = time.monotonic()
    logger = make_logger(trt, say)
    builder = trt.Builder(logger)
    network = _parse(trt, builder, logger, request)
    config = _configure(trt, builder, request)
    timing_cache = config.create_timing_cache(request.timings)
    config.set_timing_cache(timing_cache, False)
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = _make_monitor(trt, say)
    say(f"building a TensorRT {request.precision} engine; this takes minutes, once")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError("TensorRT could not build an engine", fix="What it said stands above.")
    seconds = time.monotonic() - started
    say(f"built in {seconds:.0f} s")
    return {"engine": bytes(plan), "timings": bytes(config.get_timing_cache().serialize()), "seconds": seconds}


def import_tensorrt() -> Any:  # noqa: ANN401 - TensorRT ships no types
    """Import TensorRT.

    Returns:
        The module.

    Raises:
        EngineError: It is missing, or one of its libraries is.
    """
    try:
        import tensorrt
    except (ImportError, OSError) as exc:
        raise EngineError(
            "TensorRT cannot be imported",
            got=str(exc)[:200],
            fix="On a Jetson: apt install python3-libnvinfer, deploy/install.sh; elsewhere: pip install '.[tensorrt]'",
        ) from exc
    return tensorrt


def make_logger(trt: Any, say: Say) -> Any:  # noqa: ANN401
    """A TensorRT logger that passes warnings and errors on.

    Args:
        trt: The module.
        say: Told each line.

    Returns:
        A `tensorrt.ILogger`; the caller keeps it as long as anything of TensorRT lives.
    """

    class Logger(trt.ILogger):  # type: ignore[misc] # the base exists at run time alone
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:  # noqa: ANN401
            if int(severity) <= int(trt.ILogger.Severity.WARNING):
                say(f"TensorRT: {msg}")

    return Logger()


def _parse(trt: Any, builder: Any, logger: Any, request: BuildRequest) -> Any:  # noqa: ANN401
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(request.model):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise EngineError(
            f"TensorRT {trt.__version__} does not read the model",
            got="; ".join(errors)[:300],
            fix="Export the bundle for this TensorRT (--target), or choose another engine.",
        )
    return network


def _configure(trt: Any, builder: Any, request: BuildRequest) -> Any:  # noqa: ANN401
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    flags = trt.BuilderFlag
    if hasattr(flags, "FP16"):
        config.set_flag(flags.FP16)
        if request.precision == "int8":
            config.set_flag(flags.INT8)
    elif request.precision == "fp16":
        raise EngineError(
            f"TensorRT {trt.__version__} takes its precision from the file alone",
            got="an FP32 file",
            expected="an FP16 file",
            fix="Use the INT8 engine: --engine tensorrt.",
        )
    profile = builder.create_optimization_profile()
    one, most = (1, *request.input_chw), (MAX_BATCH, *request.input_chw)
    profile.set_shape(request.input, one, one, most)
    config.add_optimization_profile(profile)
    return config


def _make_monitor(trt: Any, say: Say) -> Any:  # noqa: ANN401
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc] # the base exists at run time alone
        """Reports the outermost phase, every five seconds at most."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._reported = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            now = time.monotonic()
            if phase_name in self._steps and now - self._reported >= _REPORT_S:
                self._reported = now
                say(f"{phase_name}: {100 * step / max(1, self._steps[phase_name]):.0f} %")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
