"""The TensorRT engine from build to logits, on stand-ins that pretend to be TensorRT 8.6, 10 and 11."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from bundle.engines import trt
from bundle.engines.choose import open_engine
from bundle.engines.cli import engine as engine_command
from bundle.engines.cuda import Cuda
from bundle.engines.ort import OrtEngine
from bundle.engines.trt import TrtEngine
from bundle.engines.trt_build import BuildRequest, build_engine
from bundle.engines.trt_cache import EngineCache, EngineKey, default_folder
from bundle.errors import EngineError
from bundle.golden import GOLDEN_NAME, encode_golden, read_golden
from bundle.manifest import ModelEntry, Preprocessing
from bundle.verify import load_bundle
from tests.simulators.bundle_factory import CLASSES, SIZE, make_model, write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

_FAKES = Path(__file__).parent.parent / "simulators" / "nvidia"
_VERSIONS = ("8.6.1", "10.3.0", "10.16.1", "11.4.0")
_ENTRY = ModelEntry(role="tensorrt", file="model.trt.onnx", precision="int8", opset=17)
_SPEC = Preprocessing(size_wh=(SIZE, SIZE))
_FRAMES = np.random.default_rng(0).random((19, 3, SIZE, SIZE), np.float32)
_KEY = EngineKey("a" * 64, "10.3.0", "Orin", "8.7", 12060, ("int8",))


def _forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("tensorrt", "cuda")]:
        del sys.modules[name]


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """TensorRT 10.3 and CUDA on a fake Orin, with an empty engine cache; builds run in this process."""
    monkeypatch.syspath_prepend(_FAKES)
    monkeypatch.setenv("BINTALLY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trt, "in_child", lambda work, *arguments, say, **_: work(say, *arguments))
    _forget()
    yield monkeypatch
    _forget()


def _open(precision: str = "int8") -> TrtEngine:
    kind = "int8" if precision == "int8" else "fp16"
    return TrtEngine(make_model(), _ENTRY, _SPEC, classes=len(CLASSES), precision=kind)  # type: ignore[arg-type]


def _add_tensorrt(folder: Path) -> None:
    """Give a tiny bundle a model for TensorRT, with golden logits of its own."""
    bundle = load_bundle(folder)
    golden = {role: read_golden(bundle, role) for role in ("reference", "cpu")}
    logits = {role: entry.logits for role, entry in golden.items()} | {"tensorrt": golden["cpu"].logits}
    tolerances = dict.fromkeys(logits, golden["cpu"].tolerance)
    (folder / GOLDEN_NAME).write_bytes(encode_golden(golden["cpu"].frames, logits, tolerances))
    (folder / _ENTRY.file).write_bytes(make_model())
    content = bundle.manifest.model_dump(mode="json")
    content["models"].append(_ENTRY.model_dump(mode="json"))
    write_manifest(folder, content)


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
    _forget()
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
    _forget()
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


def test_open_engine_auto_races_tensorrt_and_says_so(nvidia: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    del nvidia
    _add_tensorrt(tiny_bundle)
    with open_engine(load_bundle(tiny_bundle)) as engine:
        assert all(name in engine.reason for name in ("tensorrt-int8", "tensorrt-fp16", "onnxruntime-int8"))
        assert "fp32" not in engine.reason


def test_open_engine_tensorrt_that_answers_something_else_falls_back(
    nvidia: pytest.MonkeyPatch, tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nvidia.setenv("BINTALLY_FAKE_TENSORRT_FAILS", "wrong")
    _add_tensorrt(tiny_bundle)
    with caplog.at_level(logging.WARNING), open_engine(load_bundle(tiny_bundle)) as engine:
        assert engine.role == "cpu"
        assert "tensorrt refused: engine tensorrt-int8 misses the golden frames" in engine.reason
    assert "engine tensorrt is out of the race" in caplog.text


def test_open_engine_no_device_falls_back(nvidia: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    nvidia.setenv("BINTALLY_FAKE_CUDA_FAILS", "device")
    _add_tensorrt(tiny_bundle)
    with open_engine(load_bundle(tiny_bundle)) as engine:
        assert engine.role == "cpu"


@pytest.mark.usefixtures("nvidia")
def test_cuda_device_names_what_the_cache_is_keyed_by() -> None:
    device = Cuda().device()
    assert (device.name, device.compute_capability, device.driver) == ("Fake Orin", "8.7", 12060)


def test_cache_keeps_the_newest_six(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines")
    keys = [EngineKey(f"{number:064d}", "10", "Orin", "8.7", 1, ()) for number in range(9)]
    for number, key in enumerate(keys):
        cache.save(key, f"engine {number}".encode(), built_in_s=1)
    assert [cache.load(key) is not None for key in keys] == [False] * 3 + [True] * 6
    assert len(list((tmp_path / "engines").iterdir())) == 12


def test_cache_hash_belongs_to_the_engine(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.save(_KEY, b"engine", built_in_s=1)
    assert cache.load(_KEY) == (b"engine", 1.0)
    (tmp_path / f"{_KEY.digest()}.plan").write_bytes(b"another")
    assert cache.load(_KEY) is None


def test_cache_record_of_another_key_does_not_count(tmp_path: Path) -> None:
    """Someone renamed a whole pair of files: the record says what it really is."""
    cache = EngineCache(tmp_path)
    other = EngineKey("b" * 64, "10.3.0", "Orin", "8.7", 12060, ("int8",))
    cache.save(other, b"engine", built_in_s=1)
    for suffix in (".plan", ".json"):
        (tmp_path / f"{other.digest()}{suffix}").rename(tmp_path / f"{_KEY.digest()}{suffix}")
    assert cache.load(_KEY) is None


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_cache_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "engines"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(EngineError, match="others may write"):
        EngineCache(folder)


def test_cache_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(EngineError, match="cannot be used"):
        EngineCache(tmp_path / "file")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("BINTALLY_CACHE", "/somewhere", "/somewhere/engines"),
        ("CACHE_DIRECTORY", "/var/cache/bintally:/other", "/var/cache/bintally/engines"),
        ("XDG_CACHE_HOME", "/xdg", "/xdg/bintally/engines"),
    ],
)
def test_default_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    for name in ("BINTALLY_CACHE", "CACHE_DIRECTORY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    assert default_folder() == Path(expected)


def test_build_command_builds_what_the_agent_then_finds(
    nvidia: pytest.MonkeyPatch, tiny_bundle: Path, tmp_path: Path
) -> None:
    """The command measures each engine in a child of its own, which finds the stand-ins as this process does."""
    nvidia.setattr(trt, "in_child", lambda *_, **__: pytest.fail("the agent builds what is built"))
    _add_tensorrt(tiny_bundle)
    done = CliRunner().invoke(engine_command, ["build", str(tiny_bundle)])
    assert done.exit_code == 0, done.output
    assert "tensorrt-int8" in done.stdout
    assert "this takes minutes, once" in done.stderr
    assert len(_plans(tmp_path)) == 2
    with open_engine(load_bundle(tiny_bundle), engine="tensorrt") as found:
        assert found.name == "tensorrt-int8"
