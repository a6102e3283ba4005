"""Our TensorRT code runs on stand-ins; here the stand-ins are held against NVIDIA's own Python bindings.

Every class, enum member, method and parameter that a stand-in offers has to exist in the real bindings of the same
version. Code of ours that works on the stand-ins therefore calls nothing that TensorRT lacks.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.simulators.stub_libraries import Bindings, load_bindings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_FAKES = Path(__file__).parent.parent / "simulators" / "nvidia"
_BINDINGS = {
    "8.6.1": "tensorrt-bindings==8.6.1",
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",
    "10.16.1.11": "tensorrt-cu13-bindings==10.16.1.11",
    "11.4.0.106": "tensorrt-cu13-bindings==11.4.0.106",
}
_OUR_SOURCES = ("trt.py", "trt_build.py", "cuda.py")


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("tensorrt", "cuda")]:
        del sys.modules[name]


@pytest.fixture(params=sorted(_BINDINGS), scope="module")
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def real(version: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bindings:
    if version == "8.6.1" and sys.version_info >= (3, 12):
        pytest.skip("NVIDIA has no bindings of TensorRT 8.6 for this Python")
    cache = getattr(request.config, "cache", None)  # kept between runs, unless that is switched off
    folder = tmp_path_factory.mktemp("tensorrt-bindings") if cache is None else cache.mkdir("tensorrt-bindings")
    return load_bindings(_BINDINGS[version], folder)


@pytest.fixture
def fake(version: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setenv("BINTALLY_FAKE_TENSORRT", version)
    monkeypatch.syspath_prepend(_FAKES)
    _forget()
    yield importlib.import_module("tensorrt")
    _forget()


def _classes(module: ModuleType) -> dict[str, type]:
    """Public classes of a stand-in, nested ones as "Outer.Inner"."""
    found = {
        name: kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and kind.__module__ == module.__name__ and not name.startswith("_")
    }
    inner = {
        f"{name}.{nested}": kind
        for name, outer in found.items()
        for nested, kind in vars(outer).items()
        if inspect.isclass(kind) and not nested.startswith("_")
    }
    return found | inner


def _members(kind: type) -> list[str]:
    """What a stand-in offers of its own: names that end in "_" are its private parts."""
    if issubclass(kind, enum.Enum):
        return [member.name for member in kind]
    return [name for name in vars(kind) if not name.startswith("_") and not name.endswith("_")]


def _signatures(documentation: str) -> list[list[str]]:
    """Parameter names of each overload in a pybind11 docstring, without self."""
    found = re.findall(r"^(?:\d+\. )?\w+\((.*?)\) -> ", documentation, re.MULTILINE)
    return [[part.split(":")[0].split("=")[0].strip() for part in _split(text)][1:] for text in found]


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    return [part for part in re.split(r",\s*(?![^\[<(]*[\]>)])", text) if part]


def test_contract_version_is_the_one_that_was_asked_for(real: Bindings, version: str) -> None:
    assert version.startswith(real.version.split("+")[0]) or real.version.startswith(version)


def test_contract_every_class_and_member_exists(real: Bindings, fake: ModuleType) -> None:
    missing = [
        f"{name}.{member}"
        for name, kind in _classes(fake).items()
        for member in _members(kind)
        if member not in real.classes.get(name, {})
    ]
    assert missing == []


def test_contract_every_call_has_parameters_that_the_real_one_takes(real: Bindings, fake: ModuleType) -> None:
    wrong = []
    for name, kind in _classes(fake).items():
        for member, function in vars(kind).items():
            documentation = real.classes.get(name, {}).get(member)
            if not inspect.isfunction(function) or documentation is None or member.endswith("_"):
                continue
            ours = list(inspect.signature(function).parameters)[1:]
            overloads = _signatures(documentation)
            if overloads and not any(overload[: len(ours)] == ours for overload in overloads):
                wrong.append(f"{name}.{member}{ours} is {overloads}")
    # The stand-in hands its inner objects over when it makes them; ours never makes those.
    made_by_others = {"ICudaEngine", "IExecutionContext", "ITimingCache", "INetworkDefinition", "ParserError"}
    assert [words for words in wrong if words.split(".")[0] not in made_by_others or "__init__" not in words] == []


def test_contract_enum_values_are_the_real_ones(real: Bindings) -> None:
    """Severity is compared by its number."""
    assert {"INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"} <= set(real.classes["ILogger.Severity"])


def test_contract_builder_flags_differ_as_our_code_believes(real: Bindings, version: str) -> None:
    flags = real.classes["BuilderFlag"]
    assert ("INT8" in flags and "FP16" in flags) == (_major(version) < 11)


def test_contract_progress_is_there_since_10(real: Bindings, version: str) -> None:
    since_10 = _major(version) >= 10
    assert ("IProgressMonitor" in real.names) == since_10
    assert ("progress_monitor" in real.classes["IBuilderConfig"]) == since_10


def test_contract_explicit_batch_is_asked_for_where_it_exists(real: Bindings, version: str) -> None:
    assert ("EXPLICIT_BATCH" in real.classes["NetworkDefinitionCreationFlag"]) == (_major(version) < 11)


@pytest.mark.usefixtures("fake")
def test_contract_our_code_names_nothing_that_the_stand_in_lacks(version: str, repository: Path) -> None:
    """Reads our sources for `trt.Name` and `trt.Name.MEMBER`; what differs by version is asked for with hasattr."""
    module = importlib.import_module("tensorrt")
    source = "".join((repository / "bundle" / "engines" / name).read_text() for name in _OUR_SOURCES)
    optional = {"IProgressMonitor"} if _major(version) < 10 else set()
    named = re.findall(r"(?:\b|_)trt\.([A-Z]\w+)(?:\.([A-Z]\w*))?", source)
    assert {"Builder", "Runtime", "TensorIOMode", "DataType"} <= {name for name, _ in named}
    for name, member in named:
        assert name in optional or hasattr(module, name), name
        assert not member or name in optional or hasattr(getattr(module, name), member), f"{name}.{member}"


def test_contract_cuda_python_has_every_function_and_constant(repository: Path) -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    source = (repository / "bundle" / "engines" / "cuda.py").read_text()
    asked = set(re.findall(r'_call\(\s*"(cuda\w+)"', source)) | set(re.findall(r"_runtime\.(cuda\w+)", source))
    assert len(asked) > 12
    assert [name for name in sorted(asked) if not hasattr(runtime, name)] == []
    assert hasattr(runtime.cudaMemcpyKind, "cudaMemcpyHostToDevice")
    assert hasattr(runtime.cudaMemcpyKind, "cudaMemcpyDeviceToHost")
    assert hasattr(runtime.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")


def test_contract_cuda_calls_take_what_ours_give(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    signatures = {
        name: list(inspect.signature(getattr(runtime, name)).parameters)
        for name in dir(runtime)
        if re.match(r"cuda[A-Z]", name) and inspect.isroutine(getattr(runtime, name))
    }
    monkeypatch.syspath_prepend(_FAKES)
    _forget()
    stand_in = importlib.import_module("cuda.bindings.runtime")
    ours = {name: f for name, f in vars(stand_in).items() if re.match(r"cuda[A-Z]", name) and inspect.isfunction(f)}
    differing = [name for name, f in ours.items() if list(inspect.signature(f).parameters) != signatures[name]]
    _forget()
    assert differing == []
