from __future__ import annotations

import math

import pytest
import torch

from train.loss import count_loss, multilabel_neighbours, ranked_probability, soft_neighbours, soft_targets
from train.sections import LossConfig


def _logits(*shares: float) -> torch.Tensor:
    return torch.tensor([[math.log(share) for share in shares]])


def test_soft_targets_are_a_bell_cut_at_the_edge() -> None:
    found = soft_targets(torch.tensor([0, 1]), 3, 1.0)
    near, far = math.exp(-0.5), math.exp(-2.0)
    edge, middle = 1 + near + far, 1 + 2 * near
    expected = [[1 / edge, near / edge, far / edge], [near / middle, 1 / middle, near / middle]]
    assert torch.allclose(found, torch.tensor(expected))


def test_soft_neighbours_is_the_cross_entropy_to_the_bell() -> None:
    near, far = math.exp(-0.5), math.exp(-2.0)
    total = 1 + near + far
    expected = -(math.log(0.5) + near * math.log(0.3) + far * math.log(0.2)) / total
    assert soft_neighbours(_logits(0.5, 0.3, 0.2), torch.tensor([0]), 1.0).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("target", "expected"),
    # Cumulative posterior 0.5, 0.8; the truth's step is (1, 1), (0, 1) and (0, 0).
    [(0, 0.5**2 + 0.2**2), (1, 0.5**2 + 0.2**2), (2, 0.5**2 + 0.8**2)],
)
def test_ranked_probability_is_the_squared_distance_of_steps(target: int, expected: float) -> None:
    found = ranked_probability(_logits(0.5, 0.3, 0.2), torch.tensor([target]))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_multilabel_neighbours_marks_three_classes() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0, 3.0]])
    signs = (1, 1, 1, -1)
    expected = sum(math.log1p(math.exp(-sign * value)) for sign, value in zip(signs, [2, 0, -1, 3], strict=True)) / 4
    assert multilabel_neighbours(logits, torch.tensor([1])).item() == pytest.approx(expected, rel=1e-5)


def test_count_loss_mixes_by_weight() -> None:
    logits, target = _logits(0.5, 0.3, 0.2), torch.tensor([2])
    mixed = count_loss(logits, target, LossConfig(neighbour="ranked", weight=0.25)).item()
    assert mixed == pytest.approx(0.75 * -math.log(0.2) + 0.25 * (0.25 + 0.64), rel=1e-5)


def test_count_loss_without_term_is_cross_entropy() -> None:
    found = count_loss(_logits(0.5, 0.3, 0.2), torch.tensor([2]), LossConfig(neighbour="none"))
    assert found.item() == pytest.approx(-math.log(0.2), rel=1e-5)


@pytest.mark.parametrize("neighbour", ["soft", "ranked"])
def test_neighbour_term_far_answer_costs_more_than_near_answer(neighbour: str) -> None:
    config = LossConfig.model_validate({"neighbour": neighbour, "weight": 0.5})
    near, far = torch.tensor([[0.0, 5.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0, 5.0]])
    truth = torch.tensor([0])
    assert count_loss(near, truth, config).item() < count_loss(far, truth, config).item()
