"""The search, with a scripted machine: how far a model is depends only on what the test says of its convolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from bundle.manifest import ParityBudget
from calibration.int8.quantize import prepare
from export.quantize import Attempt, Judged, Search, quantize_within
from tests.simulators.networks import CLASSES, CONVOLUTIONS, images, residual_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from calibration.int8.placement import Dialect
    from calibration.int8.quantize import Prepared, Recipe

_BUDGET = ParityBudget(min_agreement=0, max_mean_tv=0.02, max_accuracy_drop=1)
_PIXELS = np.zeros((8, 16, 16, 3), np.uint8)
_REFERENCE = np.zeros((8, CLASSES), np.float32)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(residual_network(), images())


def _search(prepared: Prepared, harm: dict[str, float], said: list[str], budget: ParityBudget = _BUDGET) -> Search:
    """A model's distance grows with the harm of its integer convolutions."""

    def infer(model: bytes, dialect: Dialect, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        del dialect
        nodes = onnx.load_model_from_string(model).graph.node
        integer = [node.name for node in nodes if node.op_type == "Conv" and node.input[1].endswith(".float")]
        logits = np.zeros((len(pixels), CLASSES), np.float32)
        logits[:, 0] = sum(harm.get(name, 0.0) for name in integer)
        return logits

    judged = Judged(_PIXELS, _REFERENCE, np.zeros(8, np.int64))
    return Search(prepared, judged, judged, budget, infer, said.append)


def _float(attempt: Attempt) -> set[str]:
    return set(attempt.quantized.float_nodes) - {"fc"}


def test_quantize_within_good_int8_needs_no_float(prepared: Prepared) -> None:
    said: list[str] = []
    (attempt,) = quantize_within(_search(prepared, {}, said), "cpu")
    assert attempt.refusal is None
    assert attempt.float_convolutions == 0
    assert not any("measuring" in words for words in said)


def test_quantize_within_the_worst_convolutions_go_to_float_first(prepared: Prepared) -> None:
    attempts = quantize_within(_search(prepared, {"b2": 1.0, "stem": 0.5, "a1": 0.01}, []), "tensorrt")
    assert [attempt.float_convolutions for attempt in attempts] == [0, 1, 2]
    assert [attempt.refusal is None for attempt in attempts] == [False, False, True]
    assert _float(attempts[1]) == {"b2"}
    assert _float(attempts[2]) == {"b2", "stem"}


def test_quantize_within_impossible_budget_ends_with_everything_in_float_and_a_refusal(prepared: Prepared) -> None:
    budget = ParityBudget(min_agreement=0, max_mean_tv=0.0, max_accuracy_drop=1)
    search = _search(prepared, dict.fromkeys(CONVOLUTIONS, 1.0), [], budget)
    attempts = quantize_within(search, "cpu", float_convolutions=3)
    assert [attempt.float_convolutions for attempt in attempts] == [3]
    assert attempts[-1].refusal is not None
    assert "mean total variation" in str(attempts[-1].refusal)


def test_quantize_within_compares_every_range_method_and_says_so(prepared: Prepared) -> None:
    said: list[str] = []
    quantize_within(_search(prepared, {}, said), "cpu")
    assert all(method in said[0] for method in ("minmax", "percentile", "entropy", "mse"))


def test_quantize_within_fine_tunes_only_what_is_beyond_the_budget(prepared: Prepared) -> None:
    """Fine-tuning is tried before a convolution goes back to float, and what it made is judged like anything else."""
    tuned: list[int] = []

    def tune(network: Prepared, recipe: Recipe) -> Prepared:
        tuned.append(len(recipe.float_convolutions))
        return network

    search = _search(prepared, {"b2": 1.0}, [])
    attempts = quantize_within(replace(search, tune=tune), "cpu")
    assert tuned == [0]
    assert [(attempt.float_convolutions, attempt.tuned) for attempt in attempts] == [(0, False), (0, True), (1, False)]
    assert attempts[-1].refusal is None


def test_quantize_within_fine_tuning_that_meets_the_budget_ends_the_search(prepared: Prepared) -> None:
    search = _search(prepared, {"b2": 1.0}, [])
    better = replace(prepared, model=_renamed(prepared, "b2"))
    attempts = quantize_within(replace(search, tune=lambda _network, _recipe: better), "cpu")
    assert [(attempt.float_convolutions, attempt.tuned) for attempt in attempts] == [(0, False), (0, True)]
    assert attempts[-1].refusal is None


def _renamed(prepared: Prepared, name: str) -> onnx.ModelProto:
    """The same network, but a convolution does no harm any more: the scripted machine knows it by its name."""
    model = onnx.ModelProto()
    model.CopyFrom(prepared.model)
    next(node for node in model.graph.node if node.name == name).name = "harmless"
    return model
