from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.engines.base import Engine
from bundle.engines.choose import open_engine
from bundle.engines.ort import OrtEngine
from bundle.errors import EngineError, IntegrityError
from bundle.golden import check_golden, encode_golden, read_golden
from bundle.manifest import ModelEntry, Preprocessing
from bundle.verify import load_bundle
from tests.simulators.bundle_factory import CLASSES, SIZE, make_model, write_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_ENTRY = ModelEntry(role="reference", file="model.fp32.onnx", precision="fp32", opset=17)
_SPEC = Preprocessing(size_wh=(SIZE, SIZE))


class _Scripted(Engine):
    """Returns what it is told, to see what the contract lets through."""

    def __init__(self, output: NDArray[np.float32]) -> None:
        super().__init__("scripted", role="reference", input_chw=(3, 4, 4), classes=2)
        self.output = output

    def _run(self, tensor_nchw: NDArray[np.float32]) -> NDArray[np.float32]:
        del tensor_nchw
        return self.output

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.array([[1, np.nan]], np.float32), "not finite"),
        (np.array([[np.inf, 0]], np.float32), "not finite"),
        (np.zeros((1, 3), np.float32), "wrong output"),
        (np.zeros((2, 2), np.float32), "wrong output"),
        (np.zeros((1, 2), np.float64), "float64"),
    ],
    ids=["nan", "inf", "classes", "batch", "dtype"],
)
def test_infer_output_that_is_no_logits_is_refused(output: NDArray[np.float32], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        _Scripted(output).infer(np.zeros((1, 3, 4, 4), np.float32))


def test_ort_engine_garbage_model_is_one_clear_error() -> None:
    with pytest.raises(EngineError, match=r"does not load model\.fp32\.onnx"):
        OrtEngine(b"this is no model", _ENTRY, _SPEC, classes=7)


def test_ort_engine_model_with_other_classes_is_refused() -> None:
    with pytest.raises(EngineError, match="another signature"):
        OrtEngine(make_model(5), _ENTRY, _SPEC, classes=7)


def test_ort_engine_model_with_other_size_is_refused() -> None:
    with pytest.raises(EngineError, match="another signature"):
        OrtEngine(make_model(), _ENTRY, Preprocessing(size_wh=(64, 64)), classes=len(CLASSES))


def test_open_engine_model_off_the_golden_frames_falls_back_and_says_so(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _spoil_golden(tiny_bundle, "cpu")
    with caplog.at_level(logging.WARNING), open_engine(load_bundle(tiny_bundle)) as engine:
        assert engine.role == "reference"
        assert "onnxruntime refused" in engine.reason
    assert "engine onnxruntime is out of the race" in caplog.text
    assert "golden frames" in caplog.text


def test_open_engine_named_model_off_the_golden_frames_is_refused(tiny_bundle: Path) -> None:
    _spoil_golden(tiny_bundle, "cpu")
    with pytest.raises(EngineError, match="misses the golden frames"):
        open_engine(load_bundle(tiny_bundle), engine="onnxruntime")


def test_check_golden_right_engine_is_within_the_tolerance(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    with open_engine(bundle) as engine:
        assert check_golden(bundle, engine) <= read_golden(bundle, "cpu").tolerance


def test_read_golden_role_that_is_not_covered_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(IntegrityError, match="tensorrt"):
        read_golden(load_bundle(tiny_bundle), "tensorrt")


def _spoil_golden(folder: Path, role: str) -> None:
    bundle = load_bundle(folder)
    logits, tolerances = {}, {}
    for name in ("reference", "cpu"):
        golden = read_golden(bundle, name)
        logits[name] = golden.logits + (1.0 if name == role else 0.0)
        tolerances[name] = golden.tolerance
    (folder / "golden.npz").write_bytes(encode_golden(golden.frames, logits, tolerances))
    content = bundle.manifest.model_dump(mode="json")
    write_manifest(folder, content)
