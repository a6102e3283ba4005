"""Damaged models, re-signed: whoever built the bundle hashed the damaged file, so only engines and golden frames stand.

The long form, with 400 flips of a real model and photos that are not golden frames, is `benchmarks/damage.py`.
"""

from __future__ import annotations

import json
import random
import warnings
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bundle.engines import ort
from bundle.engines.choose import open_engine
from bundle.engines.ort import OrtEngine
from bundle.errors import BintallyError, EngineError, IntegrityError
from bundle.golden import read_golden
from bundle.manifest import ModelEntry, Preprocessing
from bundle.store import Store
from bundle.verify import load_bundle
from tests.simulators.bundle_factory import CLASSES, SIZE, make_model, write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import TypeAlias

    from numpy.typing import NDArray

    _Weights: TypeAlias = NDArray[np.float32]

_ENTRY = ModelEntry(role="cpu", file="model.cpu.onnx", precision="int8", opset=17)
_SPEC = Preprocessing(size_wh=(SIZE, SIZE))


def _flipped(data: bytes, byte: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[byte] ^= 1 << bit
    return bytes(changed)


def _sign_again(folder: Path, model: bytes) -> None:
    (folder / _ENTRY.file).write_bytes(model)
    write_manifest(folder, json.loads((folder / "manifest.json").read_bytes()))


def _with_weights(change: Callable[[_Weights], _Weights]) -> bytes:
    model = onnx.load_model_from_string(make_model())
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "weight")
    weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight).copy()), "weight"))
    return bytes(model.SerializeToString())


def _nan(weight: _Weights) -> _Weights:
    weight[0, 3] = np.nan
    return weight


def _external() -> bytes:
    model = onnx.load_model_from_string(make_model())
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../weights.bin")
    return bytes(model.SerializeToString())


_DAMAGES = {
    "truncated early": lambda: make_model()[:100],
    "truncated late": lambda: make_model()[:-40],
    "empty": lambda: b"",
    "other classes": lambda: make_model(5),
    "weights of another shape": lambda: _with_weights(lambda weight: weight[:2]),
    "nan weight": lambda: _with_weights(_nan),
    "infinite weight": lambda: _with_weights(lambda weight: weight * np.float32(np.inf)),
    "zeroed weights": lambda: _with_weights(np.zeros_like),
    "weights outside the file": _external,
}


@pytest.mark.parametrize("damage", _DAMAGES)
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_open_engine_damaged_model_is_never_activated(tiny_bundle: Path, name: str, damage: str) -> None:
    if name == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed (extra openvino)")
    _sign_again(tiny_bundle, _DAMAGES[damage]())
    with pytest.raises((EngineError, IntegrityError)):
        open_engine(load_bundle(tiny_bundle), engine=name, threads=1)


@pytest.mark.parametrize("damage", ["truncated late", "other classes", "nan weight", "weights outside the file"])
def test_open_engine_auto_runs_the_whole_model_or_none(tiny_bundle: Path, damage: str) -> None:
    _sign_again(tiny_bundle, _DAMAGES[damage]())
    try:
        with open_engine(load_bundle(tiny_bundle), threads=1) as engine:
            assert engine.role == "reference"
            assert "refused" in engine.reason
    except IntegrityError:
        pass


def test_open_engine_flipped_bits_are_refusals_or_within_the_tolerance(tiny_bundle: Path) -> None:
    """Anywhere in a small file, so most flips hit its structure; no other kind of error may come out."""
    rng, model = random.Random(5), make_model()
    outcomes = {"refused": 0, "within": 0}
    for _ in range(120):
        _sign_again(tiny_bundle, _flipped(model, rng.randrange(len(model)), rng.randrange(8)))
        bundle = load_bundle(tiny_bundle)
        try:
            with open_engine(bundle, engine="onnxruntime", threads=1) as engine:
                assert engine.golden_error is not None
                assert engine.golden_error <= read_golden(bundle, "cpu").tolerance
                outcomes["within"] += 1
        except BintallyError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 5


def test_store_flipped_bits_as_found_are_never_activated(tiny_bundle: Path, tmp_path: Path) -> None:
    rng, file = random.Random(6), tiny_bundle / _ENTRY.file
    whole = file.read_bytes()
    for number in range(60):
        file.write_bytes(_flipped(whole, rng.randrange(len(whole)), rng.randrange(8)))
        with pytest.raises(IntegrityError, match=r"model\.cpu\.onnx is not the published file"):
            Store(tmp_path / f"store-{number}").install(tiny_bundle)


def test_ort_engine_name_that_is_no_text_is_one_clear_error(capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime cites the name in a message that Python cannot decode; and stdout belongs to data."""
    model = make_model().replace(b"Flatten", b"Flat\xf3en")
    with pytest.raises(EngineError, match="does not load"):
        OrtEngine(model, _ENTRY, _SPEC, classes=len(CLASSES))
    assert capfd.readouterr().out == ""


def test_ort_engine_device_that_is_only_in_the_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "devices", lambda: ("cpu", "cuda"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ONNX Runtime's own word on it
        with pytest.raises(EngineError, match="cannot use its cuda device"):
            OrtEngine(make_model(), _ENTRY, _SPEC, classes=len(CLASSES), device="cuda")
