# ruff: noqa: N801, N802, N803, N815, N816, PLW0603 - NVIDIA's names, and the state of a stream
"""A stand-in for cuda.bindings.runtime: device memory is host memory, and a stream does its work at once."""

from __future__ import annotations

import ctypes
import enum
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

cudaHostAllocDefault = 0
_STREAM = 7
_streams = 0
_buffers: dict[int, Any] = {}
_recording: list[Callable[[], None]] | None = None
_recordings: list[list[Callable[[], None]]] = []
_FAILURES = os.environ.get("BINTALLY_FAKE_CUDA_FAILS", "").split()


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNotSupported = 801


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


_OK = cudaError_t.cudaSuccess


@dataclass
class cudaDeviceProp:
    name: bytes = b"Fake Orin"
    major: int = 8
    minor: int = 7


def do_or_record(stream: object, work: Callable[[], None]) -> None:
    """Do what was queued, or keep it while the stream is being recorded. Not one of NVIDIA's."""
    if stream != _STREAM:
        raise ValueError(stream)
    if _recording is None:
        work()
    else:
        _recording.append(work)


def cudaGetDeviceCount() -> tuple[Any, ...]:
    if "library" in _FAILURES:
        raise RuntimeError("Failed to dlopen libcudart.so.12")
    return _OK, 0 if "device" in _FAILURES else 1


def cudaGetDeviceProperties(device: int) -> tuple[Any, ...]:
    del device
    return _OK, cudaDeviceProp()


def cudaDriverGetVersion() -> tuple[Any, ...]:
    return _OK, int(os.environ.get("BINTALLY_FAKE_DRIVER", "12060"))


def _allocate(size: int) -> tuple[Any, ...]:
    if "memory" in _FAILURES:
        return cudaError_t.cudaErrorMemoryAllocation, None
    buffer = ctypes.create_string_buffer(size)
    _buffers[ctypes.addressof(buffer)] = buffer
    return _OK, ctypes.addressof(buffer)


def cudaMalloc(size: int) -> tuple[Any, ...]:
    return _allocate(size)


def cudaHostAlloc(size: int, flags: int) -> tuple[Any, ...]:
    del flags
    return _allocate(size)


def cudaFree(devPtr: int) -> tuple[Any, ...]:
    return (_OK,) if _buffers.pop(devPtr, None) is not None else (cudaError_t.cudaErrorInvalidValue,)


def cudaFreeHost(ptr: int) -> tuple[Any, ...]:
    return cudaFree(ptr)


def cudaStreamCreate() -> tuple[Any, ...]:
    global _streams
    _streams += 1
    return _OK, _STREAM


def cudaStreamDestroy(stream: object) -> tuple[Any, ...]:
    global _streams
    del stream
    _streams -= 1
    return (_OK,)


def cudaMemcpyAsync(dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: object) -> tuple[Any, ...]:
    del kind

    def copy() -> None:
        ctypes.memmove(dst, src, count)

    do_or_record(stream, copy)
    return (_OK,)


def cudaStreamSynchronize(stream: object) -> tuple[Any, ...]:
    del stream
    return (_OK,)


def cudaStreamBeginCapture(stream: object, mode: cudaStreamCaptureMode) -> tuple[Any, ...]:
    global _recording
    del stream, mode
    if "graph" in _FAILURES:
        return (cudaError_t.cudaErrorNotSupported,)
    _recording = []
    return (_OK,)


def cudaStreamEndCapture(stream: object) -> tuple[Any, ...]:
    global _recording
    del stream
    recorded, _recording = _recording, None
    return _OK, recorded


def cudaGraphInstantiate(graph: list[Callable[[], None]], flags: int) -> tuple[Any, ...]:
    del flags
    recorded = list(graph)
    _recordings.append(recorded)
    return _OK, recorded


def cudaGraphLaunch(graphExec: list[Callable[[], None]], stream: object) -> tuple[Any, ...]:
    for work in graphExec:
        do_or_record(stream, work)
    return (_OK,)


def cudaGraphExecDestroy(graphExec: list[Callable[[], None]]) -> tuple[Any, ...]:
    _recordings.remove(graphExec)
    return (_OK,)


def cudaGraphDestroy(graph: list[Callable[[], None]]) -> tuple[Any, ...]:
    graph.clear()
    return (_OK,)


def live_buffers() -> int:
    """Buffers that nobody has freed. Not one of NVIDIA's."""
    return len(_buffers)


def live_recordings() -> int:
    """Instantiated graphs that nobody has destroyed. Not one of NVIDIA's."""
    return len(_recordings)


def live_streams() -> int:
    """Streams that nobody has destroyed. Not one of NVIDIA's."""
    return _streams
