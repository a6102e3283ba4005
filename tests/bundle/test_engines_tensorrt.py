"""The TensorRT engine from build to logits, on stand-ins that pretend to be TensorRT 8.6, 10 and 11."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.engines import trt
from bundle.engines.cuda import Cuda
from bundle.engines.machine import describe_machine
from bundle.engines.ort import OrtEngine
from bundle.engines.trt import TrtEngine
from bundle.engines.trt_build import BuildRequest, build_engine
from bundle.engines.trt_cache import EngineCache, EngineKey, default_folder
from bundle.errors import EngineError
from bundle.manifest import ModelEntry, Preprocessing
from tests.bundle.conftest import forget_nvidia
from tests.simulators.bundle_factory import CLASSES, SIZE, make_model

if TYPE_CHECKING:
    from pathlib import Path

_VERSIONS = ("8.6.1", "10.3.0", "10.16.1", "11.4.0")
_ENTRY = ModelEntry(role="tensorrt", file="model.trt.onnx", precision="int8", opset=17)
_SPEC = Preprocessing(size_wh=(SIZE, SIZE))
_FRAMES = np.random.default_rng(0).random((19, 3, SIZE, SIZE), np.float32)


def _open(precision: str = "int8") -> TrtEngine:
    kind = "int8" if precision == "int8" else "fp16"
    return TrtEngine(make_model(), _ENTRY, _SPEC, classes=len(CLASSES), precision=kind)  # type: ignore[arg-type]


def _plans(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "engines").glob("*.plan"))


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("batch", [1, 3, 8, 19])
def test_trt_engine_answers_like_onnx_runtime(nvidia: pytest.MonkeyPatch, version: str, batch: int) -> None:
    nvidia.setenv("BINTALLY_FAKE_TENSORRT", version)
    with _open() as ours, OrtEngine(make_model(), _ENTRY, _SPEC, classes=len(CLASSES)) as reference:
        for frames in (_FRAMES[:batch], _FRAMES[-1:], _FRAMES[:batch]):
            np.testing.assert_array_equal(ours.infer(frames), reference.infer(frames))


@pytest.mark.parametrize(
    ("version", "flags"), [("8.6.1", ["FP16", "INT8"]), ("10.3.0", ["FP16", "INT8"]), ("11.4.0", [])]
)
def test_trt_engine_allows_int8_where_the_builder_has_to_be_told(
    nvidia: pytest.MonkeyPatch, tmp_path: Path, version: str, flags: list[str]
) -> None:
    nvidia.setenv("BINTALLY_FAKE_TENSORRT", version)
    _open().close()
    (plan,) = _plans(tmp_path)
    facts = json.loads(plan.read_bytes().split(b"\n")[1])
    assert facts["flags"] == flags
    assert facts["shapes"]["image"] == [[1, 3, SIZE, SIZE], [1, 3, SIZE, SIZE], [8, 3, SIZE, SIZE]]


def test_trt_engine_fp16_of_an_fp32_file_needs_a_builder_before_11(nvidia: pytest.MonkeyPatch) -> None:
    with _open("fp16") as engine:
        assert engine.name == "tensorrt-fp16"
        assert engine.golden_slack > 1
    forget_nvidia()
    nvidia.setenv("BINTALLY_FAKE_TENSORRT", "11.4.0")
    with pytest.raises(EngineError, match="precision from the file alone"):
        _open("fp16")


@pytest.mark.usefixtures("nvidia")
def test_trt_engine_results_belong_to_the_caller() -> None:
    with _open() as engine:
        first = engine.infer(_FRAMES[:1])
        kept = first.copy()
        engine.infer(_FRAMES[1:2])
        np.testing.assert_array_equal(first, kept)


@pytest.mark.usefixtures("nvidia")
def test_trt_engine_close_frees_everything() -> None:
    from cuda.bindings import runtime

    engine = _open()
    assert (runtime.live_buffers(), runtime.live_recordings()) == (4, 1)
    engine.close()
    assert (runtime.live_buffers(), runtime.live_recordings()) == (0, 0)


def test_trt_engine_without_cuda_graphs_queues_each_call(nvidia: pytest.MonkeyPatch) -> None:
    nvidia.setenv("BINTALLY_FAKE_CUDA_FAILS", "graph")
    with _open() as engine:
        assert engine._single is None
        assert engine.infer(_FRAMES[:1]).shape == (1, len(CLASSES))


@pytest.mark.parametrize(
    ("variable", "failure", "message"),
    [
        ("BINTALLY_FAKE_CUDA_FAILS", "device", "no CUDA device"),
        ("BINTALLY_FAKE_CUDA_FAILS", "memory", "cudaHostAlloc failed"),
        ("BINTALLY_FAKE_TENSORRT_FAILS", "build", "could not build"),
        ("BINTALLY_FAKE_TENSORRT_FAILS", "memory", "no room on the device"),
        ("BINTALLY_FAKE_TENSORRT_FAILS", "run", "failed on a batch"),
        ("BINTALLY_FAKE_CUDA_FAILS", "library", "cudaGetDeviceCount failed: got Failed to dlopen libcudart"),
    ],
)
def test_trt_engine_failure_is_one_clear_error(
    nvidia: pytest.MonkeyPatch, variable: str, failure: str, message: str
) -> None:
    nvidia.setenv(variable, failure)
    with pytest.raises(EngineError, match=message):
        _open()


@pytest.mark.usefixtures("nvidia")
def test_trt_engine_model_with_other_classes_is_refused() -> None:
    with pytest.raises(EngineError, match="another signature"):
        TrtEngine(make_model(5), _ENTRY, _SPEC, classes=7, precision="int8")


def test_trt_engine_file_that_this_tensorrt_does_not_read_says_what_it_said(nvidia: pytest.MonkeyPatch) -> None:
    nvidia.setenv("BINTALLY_FAKE_TENSORRT", "8.6.1")
    import onnx

    model = onnx.load_model_from_string(make_model())
    model.opset_import[0].version = 20
    with pytest.raises(EngineError, match="does not read the model: got opset 20 is not supported"):
        TrtEngine(model.SerializeToString(), _ENTRY, _SPEC, classes=len(CLASSES), precision="int8")


def test_trt_engine_is_built_once_and_then_loaded(nvidia: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with _open() as first:
        built_s = first.built_s
    (plan,) = _plans(tmp_path)
    nvidia.setattr(trt, "in_child", lambda *_, **__: pytest.fail("built again"))
    with _open() as again:
        assert again.built_s == pytest.approx(built_s, abs=0.1)  # what was written down, rounded
    assert _plans(tmp_path) == [plan]


@pytest.mark.parametrize(
    ("variable", "value"), [("BINTALLY_FAKE_TENSORRT", "10.3.1"), ("BINTALLY_FAKE_DRIVER", "13000")]
)
def test_trt_engine_other_version_or_driver_builds_anew(
    nvidia: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str
) -> None:
    _open().close()
    forget_nvidia()
    nvidia.setenv(variable, value)
    _open().close()
    assert len(_plans(tmp_path)) == 2


@pytest.mark.usefixtures("nvidia")
def test_trt_engine_other_precision_is_another_engine(tmp_path: Path) -> None:
    _open().close()
    _open("fp16").close()
    assert len(_plans(tmp_path)) == 2


@pytest.mark.usefixtures("nvidia")
def test_trt_engine_altered_in_the_cache_is_built_anew(tmp_path: Path) -> None:
    _open().close()
    (plan,) = _plans(tmp_path)
    whole = plan.read_bytes()
    plan.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with _open() as engine:
        assert engine.infer(_FRAMES[:1]).shape == (1, len(CLASSES))
    assert plan.read_bytes() == whole


def test_trt_engine_that_cannot_be_kept_runs_all_the_same(
    nvidia: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise EngineError("cannot keep an engine", got="No space left on device")

    nvidia.setattr(EngineCache, "save", full)
    with caplog.at_level(logging.WARNING), _open() as engine:
        assert engine.infer(_FRAMES[:1]).shape == (1, len(CLASSES))
    assert "No space left on device" in caplog.text


@pytest.mark.usefixtures("nvidia")
def test_trt_engine_that_no_longer_loads_is_built_anew(tmp_path: Path) -> None:
    """Seen between patch versions: the key is right, and TensorRT still refuses the plan."""
    _open().close()
    (plan,) = _plans(tmp_path)
    whole, key = plan.read_bytes(), _key_of(plan)
    EngineCache(default_folder()).save(key, b"from another build", built_in_s=1)
    _open().close()
    assert plan.read_bytes() == whole


def _key_of(plan: Path) -> EngineKey:
    facts = json.loads(plan.with_suffix(".json").read_text())["key"]
    return EngineKey(**{**facts, "flags": tuple(facts["flags"])})


def test_build_engine_reports_progress_and_keeps_timings(nvidia: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvidia.setattr("bundle.engines.trt_build._REPORT_S", 0.0)
    said: list[str] = []
    built = build_engine(said.append, BuildRequest(make_model(), "image", (3, SIZE, SIZE), "int8", b"before "))
    assert "Building Engine: 50 %" in said
    assert said[-1].startswith("built in")
    assert built["timings"] == b"before timed "
    _open().close()
    assert [file.read_bytes() for file in (tmp_path / "cache" / "engines").glob("*.timing")] == [b"timed "]


@pytest.mark.usefixtures("nvidia")
def test_trt_engine_builds_in_a_child_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from bundle.engines.child import in_child

    monkeypatch.setattr(trt, "in_child", in_child)
    with _open() as engine:
        assert engine.infer(_FRAMES[:2]).shape == (2, len(CLASSES))


def test_trt_engine_builder_that_crashes_leaves_this_process_alive(nvidia: pytest.MonkeyPatch) -> None:
    from bundle.engines.child import in_child

    nvidia.setattr(trt, "in_child", in_child)
    nvidia.setenv("BINTALLY_FAKE_TENSORRT_FAILS", "crash")
    with pytest.raises(EngineError, match="a child process died"):
        _open()


@pytest.mark.usefixtures("nvidia")
def test_cuda_device_names_what_the_cache_is_keyed_by() -> None:
    device = Cuda().device()
    assert (device.name, device.compute_capability, device.cuda) == ("Fake Orin", "8.7", 12060)


def test_trt_engine_other_driver_of_the_same_cuda_builds_anew(nvidia: pytest.MonkeyPatch, tmp_path: Path) -> None:
    release = tmp_path / "version"
    nvidia.setattr("bundle.engines.cuda.DRIVER_FILES", (release, tmp_path / "missing"))
    for driver in ("540.4.0", "540.5.0"):
        release.write_text(f"NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  {driver}\nGCC version: 12\n")
        _open().close()
    facts = [json.loads(plan.with_suffix(".json").read_text())["key"] for plan in _plans(tmp_path)]
    assert sorted(found["driver"][-7:] for found in facts) == ["540.4.0", "540.5.0"]


def test_describe_machine_names_the_graphics_processor(nvidia: pytest.MonkeyPatch, tmp_path: Path) -> None:
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R36 (release), REVISION: 4.3\n")
    nvidia.setattr("bundle.engines.cuda.DRIVER_FILES", (release,))
    tool = tmp_path / "nvpmodel"
    tool.write_text("#!/bin/sh\necho NV Power Mode: MAXN; echo 0\n")
    tool.chmod(0o755)
    nvidia.setenv("PATH", str(tmp_path))
    machine = describe_machine()
    asked = ("gpu", "compute_capability", "cuda", "driver", "tensorrt", "power_mode")
    assert [machine[key] for key in asked] == [
        "Fake Orin", "8.7", "12.6", "# R36 (release), REVISION: 4.3", "10.3.0", "NV Power Mode: MAXN 0",
    ]  # fmt: skip
    from cuda.bindings import runtime

    assert runtime.live_streams() == 0
