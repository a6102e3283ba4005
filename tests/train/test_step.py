"""One step: shared out over processes, looked into, in half precision; and what the rules make of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.train.tiny import config
from train.batches import Batch, epoch_order, grouped_order
from train.learner import Learner, build_learner
from train.loss import pair_loss
from train.optimizer import learning_rate
from train.ranks import Ranks
from train.saver import DivergedError
from train.sections import OptimizerConfig
from train.step import Stepper
from train.watch import check_stream

if TYPE_CHECKING:
    from train.config import TrainConfig


def _network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def _batch(photos: int, *, scale: float = 1.0) -> Batch:
    rng = np.random.default_rng(2)
    inputs = (rng.standard_normal((photos, 3, 8, 8)) * scale).astype(np.float32)
    return Batch(inputs, rng.integers(0, 3, photos), np.arange(photos) // 2, photos)


def _stepper(
    wanted: TrainConfig, network: nn.Module | None = None, ranks: Ranks | None = None
) -> tuple[Stepper, Learner]:
    learner = build_learner(network or _network(), wanted, "cpu", channels_last=False)
    return Stepper(learner, wanted, ranks or Ranks(), channels_last=False), learner


def _gradients(learner: Learner) -> list[torch.Tensor]:
    return [value.grad.clone() for value in learner.model.parameters() if value.grad is not None]


def test_backward_parts_of_a_batch_add_up_to_the_whole() -> None:
    wanted, batch = config(pairs__weight=0.5), _batch(10)
    whole, learner = _stepper(wanted)
    whole.backward(batch)
    parts = []
    for rank, rows in enumerate(np.array_split(np.arange(10), 3)):
        stepper, other = _stepper(config(), ranks=Ranks(rank, 3))
        stepper.backward(Batch(batch.inputs[rows], batch.targets[rows], batch.groups[rows], 10))
        parts.append(_gradients(other))
    plain, plainly = _stepper(config())
    plain.backward(batch)
    for index, gradient in enumerate(_gradients(plainly)):
        assert torch.allclose(gradient, torch.stack([part[index] for part in parts]).sum(dim=0), atol=1e-6)
    # And the pairs do pull: the whole with them is another gradient.
    assert not all(map(torch.equal, _gradients(learner), _gradients(plainly)))


def test_pair_loss_is_the_error_of_the_difference() -> None:
    logits = torch.full((4, 3), -50.0)
    for row, said in enumerate((0, 2, 1, 1)):
        logits[row, said] = 50.0
    targets = torch.tensor([0, 1, 0, 2])
    # Pair (0, 1): said +2, true +1, Huber 0.5. Pair (2, 3): said 0, true +2, Huber 1.5. No pair across groups.
    assert float(pair_loss(logits, targets, np.array([7, 7, 9, 9]))) == pytest.approx(2.0)
    assert float(pair_loss(logits, targets, np.array([7, 8, 9, 10]))) == 0
    assert float(pair_loss(logits, targets, np.array([-1, -1, -1, -1]))) == 0


def test_grouped_order_is_a_permutation_with_groups_side_by_side() -> None:
    groups = np.random.default_rng(0).integers(0, 40, 100)
    order = grouped_order(groups, seed=3, epoch=1)
    assert sorted(order.tolist()) == list(range(100))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    assert len(starts) == len(np.unique(groups))
    assert order.tolist() == grouped_order(groups, seed=3, epoch=1).tolist()
    assert order.tolist() != grouped_order(groups, seed=3, epoch=2).tolist()


def test_grouped_order_of_single_photos_is_the_plain_one() -> None:
    assert grouped_order(np.arange(30), seed=1, epoch=0).tolist() == epoch_order(30, seed=1, epoch=0).tolist()


def _stream(network: nn.Module, batch: Batch, **changes: object) -> list[dict[str, Any]]:
    stepper, _ = _stepper(config(**changes), network)
    stepper.backward(batch)
    try:
        record, _ = stepper.update(0.01)
    except DivergedError:
        return stepper.take_probe()
    return [record, *stepper.take_probe()]


def _fired(records: list[dict[str, Any]]) -> set[str]:
    return {finding.rule for finding in check_stream(records)}


def test_rules_healthy_step_fires_none() -> None:
    assert _fired(_stream(_network(), _batch(8))) <= {"poor_weight_initialization"}


def test_rules_dead_relu_and_vanishing_gradient_fire_on_a_dead_network() -> None:
    network = _network()
    with torch.no_grad():
        network.get_parameter("0.bias").fill_(-100.0)
    assert {"dead_relu", "vanishing_gradient"} <= _fired(_stream(network, _batch(8)))


def test_rules_saturated_fires_on_a_saturated_sigmoid() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Sigmoid(), nn.Linear(5, 3))
    with torch.no_grad():
        network.get_parameter("1.bias").fill_(200.0)
    assert "saturated" in _fired(_stream(network, _batch(8)))


def test_rules_exploding_tensor_fires_on_a_loss_that_is_no_number() -> None:
    (record,) = _stream(_network(), _batch(8, scale=math.inf))
    stops = [finding.rule for finding in check_stream([record]) if finding.severity == "stop"]
    assert stops == ["exploding_tensor"]


def test_probe_leaves_no_hook_behind() -> None:
    network = _network()
    _stream(network, _batch(4))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())


def test_fp16_scaler_moves_weights_and_travels_in_the_checkpoint() -> None:
    wanted = config(precision="fp16")
    stepper, learner = _stepper(wanted)
    before = learner.model.get_parameter("4.weight").clone()
    for _ in range(3):
        stepper.backward(_batch(8))
        stepper.update(0.01)
    assert not torch.equal(before, learner.model.get_parameter("4.weight"))
    state = learner.state()
    state["scaler"]["scale"] = 128.0
    _, other = _stepper(wanted)
    other.restore(state)
    assert other.scaler.get_scale() == 128.0


def test_fp16_overflow_leaves_one_update_out_and_halves_the_scale() -> None:
    stepper, learner = _stepper(config(precision="fp16"))
    scale = learner.scaler.get_scale()
    before = learner.model.get_parameter("4.weight").clone()
    stepper.backward(_batch(8))
    learner.model.get_parameter("4.weight").grad = torch.full_like(before, math.inf)
    stepper.update(0.01)
    assert torch.equal(before, learner.model.get_parameter("4.weight"))
    assert learner.scaler.get_scale() == scale / 2


def test_learning_rate_one_cycle_is_torchs() -> None:
    settings = OptimizerConfig(schedule="onecycle", warmup=0.3, lr=0.1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=50, pct_start=0.3)
    for step in range(50):
        assert learning_rate(step, 50, settings) == pytest.approx(float(schedule.get_last_lr()[0])), step
        optimizer.step()
        schedule.step()


def test_learning_rate_restarts_jump_back_to_the_top() -> None:
    settings = OptimizerConfig(schedule="restarts", cycles=3, warmup=0, lr=1.0, floor=0)
    rates = [learning_rate(step, 30, settings) for step in range(30)]
    assert [step for step in range(1, 30) if rates[step] > rates[step - 1]] == [10, 20]
    assert rates[0] == rates[10] == rates[20] == 1.0
