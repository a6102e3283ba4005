from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.engines.base import Engine
from bundle.engines.choose import open_engine
from bundle.engines.ort import OrtEngine
from bundle.errors import EngineError, IntegrityError
from bundle.golden import check_golden, read_golden
from bundle.manifest import ModelEntry, Preprocessing
from bundle.verify import load_bundle
from tests.simulators.bundle_factory import CLASSES, SIZE, make_model, spoil_golden

if TYPE_CHECKING:
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
    spoil_golden(tiny_bundle, "cpu")
    with caplog.at_level(logging.WARNING), open_engine(load_bundle(tiny_bundle)) as engine:
        assert engine.role == "reference"
        assert "onnxruntime refused" in engine.reason
    assert "engine onnxruntime is out of the race" in caplog.text
    assert "golden frames" in caplog.text


def test_open_engine_named_model_off_the_golden_frames_is_refused(tiny_bundle: Path) -> None:
    spoil_golden(tiny_bundle, "cpu")
    with pytest.raises(EngineError, match="misses the golden frames"):
        open_engine(load_bundle(tiny_bundle), engine="onnxruntime")


def test_check_golden_right_engine_is_within_the_tolerance(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    with open_engine(bundle) as engine:
        assert check_golden(bundle, engine) <= read_golden(bundle, "cpu").tolerance


def test_read_golden_role_that_is_not_covered_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(IntegrityError, match="tensorrt"):
        read_golden(load_bundle(tiny_bundle), "tensorrt")


def test_open_engine_leaves_nothing_on_disk_and_reports_to_nobody(tiny_bundle: Path, tmp_path: Path) -> None:
    """ONNX Runtime's telemetry writes an identifier and its queue below the home and temporary folders."""
    home = tmp_path / "home"
    home.mkdir()
    code = f"""
from pathlib import Path
from bundle.counter import Counter
Counter.open(Path({str(tiny_bundle)!r}), engine="onnxruntime").close()
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG", "ORT", "CI", "GITHUB"))}
    places = {"HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], env=kept | places)
    assert list(home.rglob("*")) == []
