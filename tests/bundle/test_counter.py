from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.counter import Counter, count_from_posterior, fuse, posterior_from_logits
from bundle.errors import ConfigError, EngineError, InputError
from tests.simulators.bundle_factory import CLASSES, grey, spoil_golden, write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def counter(tiny_bundle: Path) -> Iterator[Counter]:
    opened = Counter.open(tiny_bundle, threads=1)
    yield opened
    opened.close()


@pytest.mark.parametrize("count", range(7))
def test_count_clear_picture_is_confident(counter: Counter, count: int) -> None:
    result = counter.count([grey(count)])
    assert result.count == count
    assert result.confident
    assert result.label == CLASSES[count]


def test_count_open_class_is_at_least_and_never_exact(counter: Counter) -> None:
    result = counter.count([grey(6)])
    assert (result.label, result.count, result.at_least) == ("6+", 6, True)


def test_count_exact_class_is_not_at_least(counter: Counter) -> None:
    assert not counter.count([grey(5)]).at_least


def test_count_between_two_classes_is_unsure(counter: Counter) -> None:
    result = counter.count([grey(2.5)])
    assert not result.confident
    assert result.confidence < 0.8


def test_count_contradicting_frames_are_less_sure_than_each(counter: Counter) -> None:
    assert counter.count([grey(2), grey(4)]).confidence < counter.count([grey(2)]).confidence


def test_count_without_frames_is_refused(counter: Counter) -> None:
    with pytest.raises(InputError, match="no frames"):
        counter.count([])


def test_posteriors_of_a_batch_equal_those_one_by_one(counter: Counter) -> None:
    frames = [grey(1), grey(3.3, (90, 70)), grey(6)]
    together = counter.posteriors(frames)
    alone = np.concatenate([counter.posteriors([frame]) for frame in frames])
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize(
    ("engine", "role"), [("auto", "cpu"), ("onnxruntime", "cpu"), ("onnxruntime-fp32", "reference")]
)
def test_open_engine_runs_the_model_that_was_asked_for(tiny_bundle: Path, engine: str, role: str) -> None:
    opened = Counter.open(tiny_bundle, engine=engine)
    assert opened.engine.role == role
    opened.close()


def test_open_unknown_engine_lists_the_known(tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="onnxruntime-fp32"):
        Counter.open(tiny_bundle, engine="abacus")


def test_infer_wrong_shape_or_dtype_is_refused(counter: Counter) -> None:
    with pytest.raises(EngineError, match="expected float32"):
        counter.engine.infer(np.zeros((1, 3, 16, 16), np.float32))
    with pytest.raises(EngineError, match="float64"):
        counter.engine.infer(np.zeros((1, 3, 32, 32), np.float64).astype(np.dtype("float64")))


def test_posterior_from_logits_matches_a_hand_computed_softmax() -> None:
    posterior = posterior_from_logits(np.array([[0.0, np.log(3.0)]], np.float32), 1.0)
    np.testing.assert_allclose(posterior, [[0.25, 0.75]], rtol=1e-6)


def test_posterior_from_logits_high_temperature_flattens() -> None:
    flattened = posterior_from_logits(np.array([[0.0, 4.0]], np.float32), 4.0)
    np.testing.assert_allclose(flattened, posterior_from_logits(np.array([[0.0, 1.0]], np.float32), 1.0), rtol=1e-6)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=9), st.floats(0.05, 20))
def test_posterior_from_logits_any_logits_sum_to_one(values: list[float], temperature: float) -> None:
    posterior = posterior_from_logits(np.array([values], np.float32), temperature)
    assert abs(posterior.sum() - 1) < 1e-9
    assert (posterior >= 0).all()


def test_fuse_of_equal_frames_changes_nothing() -> None:
    posterior = np.array([0.2, 0.5, 0.3])
    np.testing.assert_allclose(fuse(np.stack([posterior] * 5)), posterior)


@pytest.mark.parametrize(("threshold", "confident"), [(0.69, True), (0.7, True), (0.71, False)])
def test_count_from_posterior_threshold_is_inclusive(threshold: float, *, confident: bool) -> None:
    result = count_from_posterior(np.array([0.1, 0.7, 0.2]), ("0", "1", "2+"), threshold)
    assert result.confident is confident


def test_count_of_the_model_that_was_calibrated_is_proven(tiny_bundle: Path) -> None:
    _promise(tiny_bundle, verified=True)
    with closing(Counter.open(tiny_bundle)) as counter:
        assert counter.promise == "proven"
        assert counter.count([grey(3)]).proven


def test_count_of_the_fallback_keeps_the_threshold_and_is_not_proven(tiny_bundle: Path) -> None:
    """The INT8 model is refused, the FP32 reference counts: nobody has shown the promise for its outputs."""
    _promise(tiny_bundle, verified=True)
    spoil_golden(tiny_bundle, "cpu")
    with closing(Counter.open(tiny_bundle)) as counter:
        assert (counter.engine.role, counter.promise, counter.threshold) == ("reference", "inherited", 0.8)
        count = counter.count([grey(3)])
    assert (count.confident, count.proven) == (True, False)


def test_count_after_ranges_were_fitted_without_labels_is_not_proven(tiny_bundle: Path) -> None:
    _promise(tiny_bundle, verified=False)
    with closing(Counter.open(tiny_bundle)) as counter:
        assert counter.promise == "inherited"
        assert not counter.count([grey(3)]).proven


def test_count_of_a_bundle_without_a_promise_is_not_proven(tiny_bundle: Path) -> None:
    with closing(Counter.open(tiny_bundle)) as counter:
        assert counter.promise == "none"
        assert not counter.count([grey(3)]).proven


def _promise(folder: Path, *, verified: bool) -> None:
    content = json.loads((folder / "manifest.json").read_bytes())
    promise = {"risk": 0.1, "confidence": 0.95, "coverage": 0.5, "frames": 200, "verified": verified}
    content["calibration"]["promise"] = promise
    write_manifest(folder, content)
