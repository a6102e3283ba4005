from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch

from bundle.engines.ort import OrtEngine
from bundle.errors import InputError
from bundle.manifest import ModelEntry, Preprocessing
from bundle.parity import distances
from calibration.int8.graph import normal_form
from calibration.int8.quantize import Recipe, prepare, quantize
from export.fake_quant import FakeQuantized
from export.qat import Lessons, fine_tune
from tests.simulators.networks import CLASSES, SIZE, images, residual_network

if TYPE_CHECKING:
    from calibration.int8.placement import Dialect
    from calibration.int8.quantize import Prepared

_ENTRY = ModelEntry(role="reference", file="m.onnx", precision="fp32", opset=17)
_SPEC = Preprocessing(size_wh=(SIZE, SIZE))
_PIXELS = np.clip(images(96) * 60 + 120, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1).copy()
_Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def _infer(model: bytes, tensors: _Array) -> _Array:
    with OrtEngine(model, _ENTRY, _SPEC, classes=CLASSES) as engine:
        return engine.infer(tensors)


def _tensors() -> _Array:
    from bundle.preprocess import normalize_batch

    return normalize_batch(_PIXELS, _SPEC)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(residual_network(), _tensors()[:32], techniques=frozenset())


def _student(prepared: Prepared, recipe: Recipe) -> FakeQuantized:
    integer = {name: found for name, found in prepared.filters.items() if name not in recipe.float_convolutions}
    return FakeQuantized(prepared.model, recipe.dialect, prepared.observed.ranges(recipe.method), integer)


@pytest.mark.parametrize("left", [frozenset[str](), frozenset({"stem", "b2"})], ids=["all int8", "two in float"])
@pytest.mark.parametrize("dialect", ["cpu", "tensorrt"])
def test_fake_quantized_computes_what_the_int8_file_computes(
    prepared: Prepared, dialect: Dialect, left: frozenset[str]
) -> None:
    """Rounding falls where the file's Q/DQ nodes stand: what is left is a tie now and then, far below INT8's error."""
    recipe = Recipe(dialect, "percentile", left)
    with torch.inference_mode():
        trained = _student(prepared, recipe)(torch.from_numpy(_tensors())).numpy()
    written = _infer(quantize(prepared, recipe).model, _tensors())
    error = np.abs(written - _infer(residual_network(), _tensors())).mean()
    assert np.abs(trained - written).mean() < 0.1 * error


@pytest.mark.parametrize("dialect", ["cpu", "tensorrt"])
def test_fine_tune_brings_the_written_model_closer(prepared: Prepared, dialect: Dialect) -> None:
    recipe, said = Recipe(dialect, "minmax", frozenset({"a2"})), list[str]()
    reference = _infer(residual_network(), _tensors())
    lessons = Lessons(_PIXELS, reference, _SPEC, epochs=15)
    tuned = fine_tune(prepared, recipe, lessons, step=said.append)
    before, after = (
        float(distances(reference, _infer(quantize(one, recipe).model, _tensors())).mean()) for one in (prepared, tuned)
    )
    assert after < 0.8 * before
    assert said[0].startswith("fine-tuned on 96 photos")


def test_fine_tune_nothing_to_learn_changes_no_model(prepared: Prepared) -> None:
    """Without an update the model that is written is, bit by bit, the one that went in."""
    recipe = Recipe("cpu", "percentile", frozenset({"b1"}))
    filters, constants = _student(prepared, recipe).learned()
    for name, learned in filters.items():
        np.testing.assert_array_equal(learned.rounded, prepared.filters[name].rounded)
        np.testing.assert_allclose(learned.bias, prepared.filters[name].bias, rtol=1e-5, atol=1e-6)
    old = {t.name: onnx.numpy_helper.to_array(t) for t in prepared.model.graph.initializer}
    assert set(constants) == {"b1.weight", "b1.bias", "fc.w"}
    for name, array in constants.items():
        np.testing.assert_allclose(array, old[name], rtol=1e-5, atol=1e-6)


def test_fake_quantized_unknown_operator_is_refused(prepared: Prepared) -> None:
    model = normal_form(residual_network())
    model.graph.node[1].op_type = "HardSwish"
    with pytest.raises(InputError, match="operator HardSwish"):
        FakeQuantized(model, "cpu", prepared.observed.ranges("minmax"), {})
