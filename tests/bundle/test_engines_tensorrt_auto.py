"""A bundle with a model for TensorRT: what `auto` and the commands make of it, on stand-ins."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from bundle.cli import bundle as bundle_command
from bundle.counter import Counter
from bundle.engines import trt
from bundle.engines.choose import open_engine
from bundle.engines.cli import engine as engine_command
from bundle.errors import IntegrityError
from bundle.golden import GOLDEN_NAME, encode_golden, read_golden
from bundle.manifest import ModelEntry
from bundle.verify import load_bundle
from tests.simulators.bundle_factory import make_model, write_manifest

if TYPE_CHECKING:
    from pathlib import Path

_ENTRY = ModelEntry(role="tensorrt", file="model.trt.onnx", precision="int8", opset=17)


def _add_tensorrt(folder: Path, error: float = 0.0) -> None:
    """Give a tiny bundle a model for TensorRT, with golden logits of its own."""
    bundle = load_bundle(folder)
    golden = {role: read_golden(bundle, role) for role in ("reference", "cpu")}
    logits = {role: entry.logits for role, entry in golden.items()} | {
        "tensorrt": golden["cpu"].logits + np.float32(error)
    }
    tolerances = dict.fromkeys(logits, golden["cpu"].tolerance)
    (folder / GOLDEN_NAME).write_bytes(encode_golden(golden["cpu"].frames, logits, tolerances))
    (folder / _ENTRY.file).write_bytes(make_model())
    content = bundle.manifest.model_dump(mode="json")
    content["models"].append(_ENTRY.model_dump(mode="json"))
    write_manifest(folder, content)


def test_open_engine_auto_races_tensorrt_and_says_so(nvidia: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    del nvidia
    _add_tensorrt(tiny_bundle)
    with open_engine(load_bundle(tiny_bundle)) as engine:
        assert all(name in engine.reason for name in ("tensorrt-int8", "onnxruntime-int8"))
        assert "fp32" not in engine.reason
        assert "fp16" not in engine.reason  # its INT8 passed


@pytest.mark.usefixtures("nvidia")
def test_open_engine_auto_lets_fp16_race_where_int8_missed_the_golden_frames(tiny_bundle: Path) -> None:
    _add_tensorrt(tiny_bundle, error=1.0)
    with open_engine(load_bundle(tiny_bundle)) as engine:
        assert "tensorrt refused" in engine.reason
        assert "tensorrt-fp16" in engine.reason


@pytest.mark.parametrize("what", ["runtime", "builder", "deserialise", "run"])
def test_open_engine_auto_survives_what_the_real_bindings_raise(
    nvidia: pytest.MonkeyPatch, tiny_bundle: Path, what: str
) -> None:
    nvidia.setenv("BINTALLY_FAKE_TENSORRT_FAILS", f"{what}-raises")
    _add_tensorrt(tiny_bundle)
    with open_engine(load_bundle(tiny_bundle)) as engine:
        assert engine.role == "cpu"
        assert "factory function returned nullptr" in engine.reason
    from cuda.bindings import runtime

    assert (runtime.live_buffers(), runtime.live_streams()) == (0, 0)


@pytest.mark.usefixtures("nvidia")
def test_promise_is_proven_on_tensorrt_when_it_was_fitted_there_and_not_elsewhere(tiny_bundle: Path) -> None:
    _add_tensorrt(tiny_bundle)
    assert _promises(tiny_bundle, "cpu") == {"tensorrt": "inherited", "onnxruntime": "proven"}
    assert _promises(tiny_bundle, "tensorrt") == {"tensorrt": "proven", "onnxruntime": "inherited"}


def _promises(folder: Path, fitted_on: str) -> dict[str, str]:
    content = load_bundle(folder).manifest.model_dump(mode="json")
    promise = {"risk": 0.02, "confidence": 0.95, "coverage": 0.9, "frames": 1000, "verified": True}
    content["calibration"] |= {"fitted_on": fitted_on, "promise": promise}
    write_manifest(folder, content)
    found: dict[str, str] = {}
    for name in ("tensorrt", "onnxruntime"):
        counter = Counter.open(folder, engine=name)
        found[name] = counter.promise
        counter.close()
    return found


def test_open_engine_tensorrt_that_answers_something_else_falls_back(
    nvidia: pytest.MonkeyPatch, tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nvidia.setenv("BINTALLY_FAKE_TENSORRT_FAILS", "wrong")
    _add_tensorrt(tiny_bundle)
    with caplog.at_level(logging.WARNING), open_engine(load_bundle(tiny_bundle)) as engine:
        assert engine.role == "cpu"
        assert "tensorrt refused: engine tensorrt-int8 misses the golden frames" in engine.reason
    assert "engine tensorrt is out of the race" in caplog.text


def test_bundle_verify_golden_frames_of_tensorrt_that_prove_nothing_are_refused_anywhere(tiny_bundle: Path) -> None:
    _add_tensorrt(tiny_bundle, error=float("nan"))
    done = CliRunner().invoke(bundle_command, ["verify", str(tiny_bundle)])
    assert isinstance(done.exception, IntegrityError)
    assert "model 'tensorrt'" in str(done.exception)


def test_open_engine_no_device_falls_back(nvidia: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    nvidia.setenv("BINTALLY_FAKE_CUDA_FAILS", "device")
    _add_tensorrt(tiny_bundle)
    with open_engine(load_bundle(tiny_bundle)) as engine:
        assert engine.role == "cpu"


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
    assert len(list((tmp_path / "cache" / "engines").glob("*.plan"))) == 2
    with open_engine(load_bundle(tiny_bundle), engine="tensorrt") as found:
        assert found.name == "tensorrt-int8"
