"""Blends of photos."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bundle.errors import ConfigError
from tests.train.tiny import CONFIG, config
from train.batches import Batch
from train.config import load_config
from train.learner import build_learner
from train.loss import count_loss
from train.mixup import draw_blend
from train.ranks import Ranks
from train.step import Stepper


def test_draw_blend_of_a_repeated_step_is_the_same_and_of_another_step_is_not() -> None:
    once, again, other = (draw_blend(64, 0.2, seed) for seed in (7, 7, 8))
    assert once.share == again.share
    assert torch.equal(once.partners, again.partners)
    assert not torch.equal(once.partners, other.partners)
    assert sorted(once.partners.tolist()) == list(range(64))
    assert 0 <= once.share <= 1


def test_blend_shows_both_photos_in_their_shares_and_costs_both_labels() -> None:
    blend = draw_blend(4, 1.0, 3)
    images = torch.rand(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    blended = blend.images(images)
    row = 2
    expected = blend.share * images[row] + (1 - blend.share) * images[blend.partners[row]]
    torch.testing.assert_close(blended[row], expected)
    assert blended.is_contiguous(memory_format=torch.channels_last)
    targets = torch.tensor([0, 1, 2, 3])
    losses = blend.losses(lambda wanted: wanted.float(), targets)
    torch.testing.assert_close(losses, blend.share * targets + (1 - blend.share) * targets[blend.partners])


def test_stepper_with_mixup_learns_from_the_blend() -> None:
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    rng = np.random.default_rng(2)
    batch = Batch(rng.random((4, 3, 2, 2), np.float32), np.array([0, 1, 2, 1]), np.arange(4), 4)
    wanted = config(mixup__alpha=1.0)
    learner = build_learner(network, wanted, "cpu", channels_last=False)
    Stepper(learner, wanted, Ranks(), channels_last=False).backward(batch)
    found = learner.model.get_parameter("1.weight").grad
    blend = draw_blend(4, 1.0, 0)  # seed 0, epoch 0, batch 0, rank 0
    by_hand = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    by_hand.load_state_dict(network.state_dict())
    logits = by_hand(blend.images(torch.from_numpy(batch.inputs)))
    losses = blend.losses(lambda labels: count_loss(logits, labels, wanted.loss), torch.from_numpy(batch.targets))
    torch.autograd.backward(losses.mean())
    assert found is not None
    torch.testing.assert_close(found, by_hand.get_parameter("1.weight").grad)


def test_mixup_with_pairs_is_refused() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        load_config(None, [("pairs.weight", 0.1), ("mixup.alpha", 0.2)], base=CONFIG)
