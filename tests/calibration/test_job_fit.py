"""What a recalibration may call proven."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bundle.manifest import Calibration, ModelEntry, Promise
from calibration.job.fit import answered_elsewhere, unproven
from calibration.requantize import Requantized

if TYPE_CHECKING:
    from typing import Literal


@pytest.mark.parametrize(
    ("role", "refitted", "elsewhere"), [("tensorrt", True, True), ("tensorrt", False, False), ("cpu", True, False)]
)
def test_answered_elsewhere_is_a_new_tensorrt_model(
    *, role: Literal["cpu", "tensorrt"], refitted: bool, elsewhere: bool
) -> None:
    entry = ModelEntry(role=role, file=f"model.{role}.onnx", precision="int8", opset=17)
    assert answered_elsewhere(role, Requantized({role: entry} if refitted else {}, {}, {}, "")) is elsewhere


def test_unproven_keeps_every_number_but_not_the_proof() -> None:
    promise = Promise(risk=0.05, confidence=0.95, coverage=0.8, frames=200, verified=True)
    before = Calibration(fitted_on="tensorrt", threshold=0.9, promise=promise)
    after = unproven(before).promise
    assert after == promise.model_copy(update={"verified": False})
    assert unproven(Calibration()).promise is None
