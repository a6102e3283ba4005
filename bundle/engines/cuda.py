"""What TensorRT needs of CUDA: memory, one stream, copies, and a recorded sequence of work. Adapter of cuda-python.

Every call of cuda-python returns its error code first; here a code other than success becomes an EngineError.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.engines.base import CPP_ERRORS
from bundle.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DRIVER_FILES = (Path("/proc/driver/nvidia/version"), Path("/etc/nv_tegra_release"))
"""Where the kernel's module and, on a Jetson, the release of its system name themselves, in their first line."""


@dataclass(frozen=True, slots=True)
class Device:
    """The first graphics processor.

    Attributes:
        name: For example "Orin".
        compute_capability: For example "8.7".
        cuda: Newest CUDA that the driver supports, for example 12060.
        driver: The driver itself, of `driver_version`.
    """

    name: str
    compute_capability: str
    cuda: int
    driver: str


class Cuda:
    """CUDA on the first device, with one stream. Not thread-safe.

    Raises:
        EngineError: cuda-python is missing, or there is no usable device.
    """

    def __init__(self) -> None:
        self._runtime: Any = _import_runtime()
        (count,) = self._call("cudaGetDeviceCount")
        if count < 1:
            raise EngineError("there is no CUDA device", got=f"{count} devices", fix="Choose another engine.")
        (self._stream,) = self._call("cudaStreamCreate")
        self._memory: list[int] = []
        self._pinned: list[int] = []
        self._recorded: list[object] = []

    @property
    def stream(self) -> int:
        """Handle of the stream, for TensorRT."""
        return int(self._stream)

    def device(self) -> Device:
        """Describe the device.

        Returns:
            Name, compute capability, CUDA and driver.

        Raises:
            EngineError: CUDA failed.
        """
        (found,) = self._call("cudaGetDeviceProperties", 0)
        (cuda,) = self._call("cudaDriverGetVersion")
        name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
        return Device(name.strip("\0 "), f"{found.major}.{found.minor}", int(cuda), driver_version())

    def allocate(self, size: int) -> int:
        """Reserve device memory; `close` frees it.

        Args:
            size: Bytes.

        Returns:
            Its address.

        Raises:
            EngineError: There is not enough.
        """
        (address,) = self._call("cudaMalloc", size)
        self._memory.append(int(address))
        return int(address)

    def pinned(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Reserve host memory that copies to and from the device need not go around; `close` frees it.

        Args:
            shape: Of the array.

        Returns:
            float32 array, valid until `close`.

        Raises:
            EngineError: There is not enough.
        """
        size = int(np.prod(shape)) * 4
        (address,) = self._call("cudaHostAlloc", size, self._runtime.cudaHostAllocDefault)
        self._pinned.append(int(address))
        buffer = (ctypes.c_float * (size // 4)).from_address(int(address))
        return np.ctypeslib.as_array(buffer).reshape(shape)

    def copy_in(self, target: int, source: NDArray[np.float32]) -> None:
        """Queue a copy to the device.

        Args:
            target: Device address.
            source: Pinned, contiguous.

        Raises:
            EngineError: CUDA failed.
        """
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source.ctypes.data, source.nbytes, kind, self._stream)

    def copy_out(self, target: NDArray[np.float32], source: int) -> None:
        """Queue a copy from the device.

        Args:
            target: Pinned, contiguous.
            source: Device address.

        Raises:
            EngineError: CUDA failed.
        """
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, source, target.nbytes, kind, self._stream)

    def wait(self) -> None:
        """Wait until everything queued is done.

        Raises:
            EngineError: Something queued failed.
        """
        self._call("cudaStreamSynchronize", self._stream)

    def record(self, queue: Callable[[], None]) -> Callable[[], None]:
        """Record work once, so that it can be queued again in one call (a CUDA graph).

        Args:
            queue: Queues work on the stream and waits for nothing.

        Returns:
            A function that queues the same work.

        Raises:
            EngineError: The work cannot be recorded.
        """
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            queue()
        finally:
            (graph,) = self._call("cudaStreamEndCapture", self._stream)
        (recorded,) = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)  # the recording itself; what was made of it lives on
        self._recorded.append(recorded)
        return lambda: self._launch(recorded)

    def _launch(self, recorded: object) -> None:
        self._call("cudaGraphLaunch", recorded, self._stream)

    def close(self) -> None:
        """Free all memory, what was recorded, and the stream.

        Raises:
            EngineError: CUDA failed.
        """
        for recorded in self._recorded:
            self._call("cudaGraphExecDestroy", recorded)
        for address in self._memory:
            self._call("cudaFree", address)
        for address in self._pinned:
            self._call("cudaFreeHost", address)
        self._memory, self._pinned, self._recorded = [], [], []
        self._call("cudaStreamDestroy", self._stream)

    def _call(self, name: str, *arguments: object) -> tuple[Any, ...]:
        try:
            code, *results = getattr(self._runtime, name)(*arguments)
        except CPP_ERRORS as exc:  # how cuda-python says that it finds no CUDA library
            raise EngineError(f"CUDA's {name} failed", got=str(exc)[:200], fix="Check the CUDA installation.") from exc
        if code != self._runtime.cudaError_t.cudaSuccess:
            raise EngineError(f"CUDA's {name} failed", got=str(code), fix="Check the driver with `nvidia-smi`.")
        return tuple(results)


def driver_version() -> str:
    """Name the driver that is loaded.

    Returns:
        What the driver and, on a Jetson, its system say of themselves; empty where there is none.
    """
    found = []
    for file in DRIVER_FILES:
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        found += [" ".join(lines[0].split())] if lines else []
    return "; ".join(found)


def _import_runtime() -> Any:  # noqa: ANN401 - cuda-python ships no types
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart  # where cuda-python before 12.6 has it
        except ImportError as exc:
            raise EngineError(
                "cuda-python is not installed",
                got=str(exc),
                fix="On a Jetson run deploy/install.sh; elsewhere, in a checkout: pip install '.[tensorrt]'",
            ) from exc
        return cudart
    return runtime
