"""Which way to round a weight, so that the errors of a filter cancel on real frames. Pure numpy.

A filter that compares colours or neighbours has large weights and small results, so rounding each weight to the nearest
integer changes its results by more than its last digit. Here the weights of a filter are rounded one after the other,
and the error of each is given to those that are still to come, in proportion to how their inputs move together (Frantar
et al., GPTQ, 2022; Hassibi and Stork, 1993). What remains of the mean error goes into the bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from calibration.int8.ranges import Moments

LIMIT = 127
_DAMPING = 0.01
_BLOCK = 32


def weight_scales(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale of each filter, such that its largest weight becomes 127.

    Args:
        weight: float32, (O, ...).

    Returns:
        float32, (O,), above 0 also where a filter is empty.
    """
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    return np.asarray(np.maximum(largest, np.finfo(np.float32).tiny * LIMIT * 2) / LIMIT, np.float32)


def round_to_nearest(weight: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.int8]:
    """Round every weight on its own.

    Args:
        weight: float32, (O, ...).
        scales: float32, (O,).

    Returns:
        int8, the shape of `weight`, -127..127.
    """
    spread = scales.reshape(-1, *[1] * (weight.ndim - 1))
    return np.asarray(np.clip(np.rint(weight / spread), -LIMIT, LIMIT), np.int8)


def round_together(weight: NDArray[np.float32], scales: NDArray[np.float32], moments: Moments) -> NDArray[np.int8]:
    """Round the weights of each filter so that the error of its results is small.

    Args:
        weight: float32, (O, ...), I weights per filter.
        scales: float32, (O,).
        moments: Of the G groups that the O filters belong to.

    Returns:
        int8, the shape of `weight`, -127..127.
    """
    groups, inner = moments.mean.shape
    left = weight.reshape(groups, -1, inner).astype(np.float64)
    spread = scales.reshape(groups, -1).astype(np.float64)
    order = np.argsort(-np.diagonal(moments.covariance, axis1=1, axis2=2), axis=1)
    left = np.take_along_axis(left, order[:, np.newaxis, :], axis=2)
    factors = _error_factors(moments.covariance, order)
    rounded, errors = np.empty_like(left), np.empty_like(left)
    for start in range(0, inner, _BLOCK):
        end = min(start + _BLOCK, inner)
        for column in range(start, end):
            rounded[:, :, column] = np.clip(np.rint(left[:, :, column] / spread), -LIMIT, LIMIT)
            error = (left[:, :, column] - rounded[:, :, column] * spread) / factors[:, column, column, np.newaxis]
            left[:, :, column:end] -= error[:, :, np.newaxis] * factors[:, np.newaxis, column, column:end]
            errors[:, :, column] = error
        # The rest of the filter hears of a whole block at once: one matrix product instead of many thin ones.
        left[:, :, end:] -= np.matmul(errors[:, :, start:end], factors[:, start:end, end:])
    back = np.argsort(order, axis=1)
    return np.take_along_axis(rounded, back[:, np.newaxis, :], axis=2).reshape(weight.shape).astype(np.int8)


def _error_factors(covariance: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Upper Cholesky factor of the inverse covariance: row i says where the error of weight i goes."""
    sorted_rows = np.take_along_axis(covariance, order[:, :, np.newaxis], axis=1)
    matrix = np.take_along_axis(sorted_rows, order[:, np.newaxis, :], axis=2)
    diagonal = np.diagonal(matrix, axis1=1, axis2=2)
    damping = _DAMPING * diagonal.mean(axis=1, keepdims=True) + 1e-12
    inner = matrix.shape[1]
    damped = matrix + damping[:, :, np.newaxis] * np.eye(inner)
    inverse = np.linalg.inv(damped)
    lower = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2)
    return np.asarray(lower.transpose(0, 2, 1))


def corrected_bias(
    bias: NDArray[np.float32],
    weight: NDArray[np.float32],
    rounded: NDArray[np.float32],
    moments: Moments,
) -> NDArray[np.float32]:
    """Move the mean error that rounding leaves into the bias.

    Args:
        bias: float32, (O,).
        weight: float32, (O, ...), before rounding.
        rounded: float32, (O, ...), what the rounded weights stand for.
        moments: As in `round_together`.

    Returns:
        float32, (O,).
    """
    groups, inner = moments.mean.shape
    error = (weight.astype(np.float64) - rounded).reshape(groups, -1, inner)
    shift = np.matmul(error, moments.mean[:, :, np.newaxis])
    return np.asarray(bias + shift.reshape(-1), np.float32)
