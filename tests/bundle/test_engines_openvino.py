from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.engines.choose import open_engine
from bundle.engines.ort import OrtEngine
from bundle.errors import EngineError
from bundle.manifest import ModelEntry, Preprocessing
from bundle.verify import load_bundle
from tests.simulators.bundle_factory import CLASSES, SIZE, make_model

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("openvino", reason="OpenVINO is not installed (extra openvino)")

from bundle.engines.ov import OvEngine

_ENTRY = ModelEntry(role="reference", file="model.fp32.onnx", precision="fp32", opset=17)
_SPEC = Preprocessing(size_wh=(SIZE, SIZE))
_FRAMES = np.random.default_rng(0).random((5, 3, SIZE, SIZE), np.float32)


def _engine() -> OvEngine:
    return OvEngine(make_model(), _ENTRY, _SPEC, classes=len(CLASSES), threads=1)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_ov_engine_answers_like_onnx_runtime(batch: int) -> None:
    with _engine() as ours, OrtEngine(make_model(), _ENTRY, _SPEC, classes=len(CLASSES)) as reference:
        np.testing.assert_allclose(ours.infer(_FRAMES[:batch]), reference.infer(_FRAMES[:batch]), atol=1e-3)


def test_ov_engine_result_survives_the_next_call() -> None:
    with _engine() as engine:
        first = engine.infer(_FRAMES[:1])
        kept = first.copy()
        engine.infer(_FRAMES[1:2])
        np.testing.assert_array_equal(first, kept)


def test_ov_engine_does_not_alter_its_input() -> None:
    frames = _FRAMES.copy()
    with _engine() as engine:
        engine.infer(frames)
    np.testing.assert_array_equal(frames, _FRAMES)


def test_ov_engine_garbage_model_is_one_clear_error() -> None:
    with pytest.raises(EngineError, match=r"OpenVINO does not load model\.fp32\.onnx"):
        OvEngine(b"this is no model", _ENTRY, _SPEC, classes=7)


def test_ov_engine_model_with_other_classes_is_refused() -> None:
    with pytest.raises(EngineError, match="another signature"):
        OvEngine(make_model(5), _ENTRY, _SPEC, classes=7)


def test_ov_engine_model_with_other_size_is_refused() -> None:
    with pytest.raises(EngineError, match="another signature"):
        OvEngine(make_model(), _ENTRY, Preprocessing(size_wh=(64, 64)), classes=len(CLASSES))


def test_open_engine_auto_without_a_named_runtime_uses_the_race(tiny_bundle: Path) -> None:
    with open_engine(load_bundle(tiny_bundle), threads=1) as engine:
        assert engine.role == "cpu"
        assert "openvino-int8" in engine.reason
        assert "onnxruntime-int8" in engine.reason
