"""NVIDIA's real Python bindings for TensorRT, importable without TensorRT.

The bindings are small wheels; what they link against is huge and cannot be installed everywhere. Empty libraries with
the few C functions that they look up are enough to import them and to read every class, enum and signature. Nothing in
them can be called.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "getNvOnnxParserVersion",
    "initLibNvInferPlugins",
    # Looked up by the bindings of 8.6 alone; C++ names are ordinary names to C.
    "_ZN11nvuffparser15createUffParserEv",
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    "_ZN14nvcaffeparser117createCaffeParserEv",
    "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
)
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")

_DESCRIBE = """
import json, sys
import tensorrt_bindings as trt
facts = {"version": trt.__version__, "modules": sorted(n for n in dir(trt) if not n.startswith("_")), "classes": {}}
def members(kind):
    found = {}
    for name in dir(kind):
        if name.startswith("__") and name != "__init__":
            continue
        value = getattr(kind, name)
        found[name] = (value.__doc__ or "") if callable(value) and not isinstance(value, kind) else None
    return found
for name in dir(trt):
    kind = getattr(trt, name)
    if isinstance(kind, type):
        facts["classes"][name] = members(kind)
        for inner in dir(kind):
            if not inner.startswith("_") and isinstance(getattr(kind, inner), type):
                facts["classes"][name + "." + inner] = members(getattr(kind, inner))
json.dump(facts, sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Bindings:
    """What one version of the bindings offers.

    Attributes:
        version: As it says itself.
        names: Public names of the module.
        classes: Members by class ("Outer.Inner" for nested ones); the docstring of a method, None for anything else.
    """

    version: str
    names: frozenset[str]
    classes: dict[str, dict[str, str | None]]


def load_bindings(requirement: str, cache: Path) -> Bindings:
    """Fetch a wheel of bindings once, and describe it from a process that has the stand-in libraries.

    Args:
        requirement: For pip, for example "tensorrt-cu12-bindings==10.3.0".
        cache: Folder that survives test runs.
    """
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not on this machine, so the stand-in libraries cannot be made")
    name, _, version = requirement.partition("==")
    folder = cache / f"{name}-{version}-{sys.version_info.major}{sys.version_info.minor}"
    if not (folder / "tensorrt_bindings").is_dir():
        _fetch(requirement, folder)
    libraries = _compile(compiler, cache / "libraries", version.split(".")[0])
    environment = os.environ | {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", _DESCRIBE], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    facts = json.loads(done.stdout)
    return Bindings(facts["version"], frozenset(facts["modules"]), facts["classes"])


def _fetch(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    staging = folder.with_suffix(f".{os.getpid()}")
    try:
        done = subprocess.run(
            [*command, "--only-binary", ":all:", "--target", str(staging), requirement],
            capture_output=True,
            check=False,
            timeout=180,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip did not fetch {requirement} within three minutes")
    if done.returncode != 0:
        pytest.skip(f"pip cannot fetch {requirement} here: {done.stderr.decode().strip().splitlines()[-1][:200]}")
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)


def _compile(compiler: str, folder: Path, major: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    source = "\n".join(f"void *{name}(void) {{ return 0; }}" for name in _FUNCTIONS)
    for name in _LIBRARIES:
        target = folder / f"lib{name}.so.{major}"
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(target)]
        subprocess.run(command, input=source.encode(), check=True)
    return folder
