"""What machine a figure was measured on: a figure without it means nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

from bundle.engines.cuda import Cuda, driver_version
from bundle.engines.trt_build import import_tensorrt
from bundle.errors import EngineError

_PACKAGES = (
    "bintally", "numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt",
    "cuda-python",
)  # fmt: skip
_TELLING_FLAGS = ("avx2", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")
_BOARD = (Path("/proc/device-tree/model"), Path("/sys/devices/virtual/dmi/id/product_name"))
_JETSON_RELEASE = Path("/etc/nv_tegra_release")
_POWER_FILES = (Path("/var/lib/nvpmodel/status"), Path("/sys/firmware/acpi/platform_profile"))


def describe_machine() -> dict[str, object]:
    """Describe this machine as far as it matters to speed and numbers.

    Returns:
        Plain values: board, processor, instruction sets, cores, memory_gb, os, python, packages, load, on a Jetson the
        release of its system; and gpu, compute_capability, cuda, driver, power_mode, tensorrt, None where absent.
    """
    cpu = _cpu_fields()
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    return {
        "board": next((text for file in _BOARD if (text := _text(file))), ""),
        "processor": cpu.get("model name") or platform.processor() or platform.machine(),
        "instructions": [flag for flag in _TELLING_FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "os": f"{platform.freedesktop_os_release().get('PRETTY_NAME', '')}, kernel {platform.release()}"
        if Path("/etc/os-release").exists()
        else platform.platform(),
        "jetson": _text(_JETSON_RELEASE).splitlines()[0] if _text(_JETSON_RELEASE) else "",
        **_graphics(),
        "driver": driver_version() or None,
        "tensorrt": _tensorrt(),
        "power_mode": _power_mode(),
        "python": platform.python_version(),
        "packages": _versions(),
        "load": round(os.getloadavg()[0], 2),
    }


def _graphics() -> dict[str, str | None]:
    """What CUDA says of the first graphics processor."""
    try:
        cuda = Cuda()
        try:
            device = cuda.device()
        finally:
            cuda.close()
    except EngineError:
        return {"gpu": None, "compute_capability": None, "cuda": None}
    version = f"{device.cuda // 1000}.{device.cuda % 1000 // 10}"
    return {"gpu": device.name, "compute_capability": device.compute_capability, "cuda": version}


def _tensorrt() -> str | None:
    """Also where JetPack installed it without a package that pip knows."""
    try:
        return str(import_tensorrt().__version__)
    except EngineError:
        return None


def _power_mode() -> str | None:
    """What nvpmodel says on a Jetson, else the firmware's profile: both decide how fast the board may run."""
    tool = shutil.which("nvpmodel")
    if tool is not None:
        try:
            done = subprocess.run(
                [tool, "-q"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            done = None
        if done is not None and done.returncode == 0 and done.stdout.strip():
            return " ".join(done.stdout.split())
    return next((text for file in _POWER_FILES if (text := _text(file))), None)


def _cpu_fields() -> dict[str, str]:
    first = _text(Path("/proc/cpuinfo")).split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
