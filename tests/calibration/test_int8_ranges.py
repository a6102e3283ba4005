from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from calibration.int8.graph import Graph, normal_form
from calibration.int8.ranges import (
    BINS,
    Activation,
    RangeMethod,
    convolution_patches,
    observe,
    observed_tensors,
    range_of,
)
from calibration.int8.rounding import corrected_bias, round_to_nearest, round_together, weight_scales
from tests.simulators.networks import images, residual_network


def _activation(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Activation:
    histogram, _ = np.histogram(values, bins=BINS, range=(values.min(), values.max()))
    return Activation(float(values.min()), float(values.max()), histogram)


_BELL = np.random.default_rng(0).normal(0, 1, 200_000)
_WITH_OUTLIER = np.append(_BELL, 60.0)


def test_observe_finds_the_extremes_of_the_input() -> None:
    frames = images()
    seen = observe(normal_form(residual_network()), frames)
    assert seen.activations["image"].low == pytest.approx(frames.min())
    assert seen.activations["image"].high == pytest.approx(frames.max())


def test_observe_moments_are_those_of_the_patches() -> None:
    """The centre of a filter meets every pixel, so its mean is that of the image (of most of its pixels)."""
    frames = images(16)
    model = normal_form(residual_network())
    moments = observe(model, frames).moments["stem"]
    assert moments.mean.shape == (1, 27)
    centre = moments.mean[0].reshape(3, 9)[:, 4]
    np.testing.assert_allclose(centre, frames.mean(axis=(0, 2, 3)), atol=5e-3)
    assert np.linalg.eigvalsh(moments.covariance[0]).min() > -1e-6


def test_observed_tensors_are_those_after_activation() -> None:
    names = observed_tensors(Graph(normal_form(residual_network())))
    assert "stem.relu.out" in names
    assert "stem.out" not in names
    assert {"image", "a.relu.out", "short.out", "b.add.out"} <= set(names)


def test_convolution_patches_times_weights_is_the_convolution() -> None:
    import torch

    rng = np.random.default_rng(2)
    array = rng.normal(size=(1, 6, 7, 7)).astype(np.float32)
    weight = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2], group=2)
    patches = convolution_patches(array, node, weight.shape)
    ours = np.matmul(weight.reshape(2, 2, 27), patches.transpose(0, 2, 1)).reshape(4, -1)
    theirs = torch.nn.functional.conv2d(
        torch.from_numpy(array), torch.from_numpy(weight), stride=2, padding=1, groups=2
    ).numpy()
    np.testing.assert_allclose(ours, theirs.reshape(4, -1), rtol=1e-4, atol=1e-4)


def test_range_of_minmax_clips_nothing() -> None:
    assert range_of(_activation(_WITH_OUTLIER), "minmax") == (float(_WITH_OUTLIER.min()), 60.0)


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_range_of_clips_a_lone_outlier(method: RangeMethod) -> None:
    low, high = range_of(_activation(_WITH_OUTLIER), method)
    assert 2 < high < 30
    assert _WITH_OUTLIER.min() <= low < -2


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_range_of_a_rectified_tensor_starts_at_0(method: RangeMethod) -> None:
    low, high = range_of(_activation(np.maximum(_BELL, 0)), method)
    assert low == 0
    assert 1.5 < high <= _BELL.max()


def test_weight_scales_of_an_empty_filter_are_above_0() -> None:
    scales = weight_scales(np.zeros((2, 3, 1, 1), np.float32))
    assert (scales > 0).all()
    assert round_to_nearest(np.zeros((2, 3, 1, 1), np.float32), scales).tolist() == [[[[0]]] * 3] * 2


def test_round_together_has_a_smaller_error_on_the_frames_than_rounding_to_the_nearest() -> None:
    """Filters that compare neighbours: large weights, small results."""
    seen = observe(normal_form(residual_network()), images())
    weight = np.asarray(Graph(normal_form(residual_network())).constants["stem.weight"], np.float32)
    scales, moments = weight_scales(weight), seen.moments["stem"]

    def error(rounded: np.ndarray[tuple[int, ...], np.dtype[np.int8]]) -> float:
        off = (weight - rounded * scales.reshape(-1, 1, 1, 1)).reshape(8, 27)
        return float(np.einsum("oi,ij,oj->", off, moments.covariance[0], off))

    assert error(round_together(weight, scales, moments)) < 0.5 * error(round_to_nearest(weight, scales))


def test_corrected_bias_removes_the_mean_error() -> None:
    seen = observe(normal_form(residual_network()), images())
    weight = np.asarray(Graph(normal_form(residual_network())).constants["stem.weight"], np.float32)
    scales, moments = weight_scales(weight), seen.moments["stem"]
    rounded = round_to_nearest(weight, scales) * scales.reshape(-1, 1, 1, 1)
    bias = np.zeros(8, np.float32)
    corrected = corrected_bias(bias, weight, rounded, moments)
    before = weight.reshape(8, 27) @ moments.mean[0]
    after = rounded.reshape(8, 27) @ moments.mean[0] + corrected
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert np.abs(corrected).max() > 1e-4
