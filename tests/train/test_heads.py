"""CORN's chain as class logits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from bundle.errors import ConfigError
from train.heads import CornHead, head_outputs, narrow_head, replace_head
from train.model import build_model
from train.sections import ModelConfig

CLASSES = ("0", "1", "2", "3", "4+")


def _head(classes: int = 5) -> CornHead:
    torch.manual_seed(3)
    ends = torch.ones(classes)
    ends[-1] = 0
    return CornHead(torch.nn.Linear(7, classes), ends)


def test_corn_head_answers_with_a_posterior() -> None:
    posterior = _head()(torch.randn(6, 7)).exp()
    assert torch.allclose(posterior.sum(dim=1), torch.ones(6), atol=1e-6)


def test_corn_head_cross_entropy_is_the_loss_of_the_conditional_questions() -> None:
    head, features = _head().requires_grad_(requires_grad=False), torch.randn(40, 7)
    targets = torch.arange(40) % 5
    answers = head.tasks(features)[:, :4]
    # Question k is asked of photos with at least k items: "are there more?".
    asked = [
        functional.binary_cross_entropy_with_logits(
            answers[targets >= k, k], (targets[targets >= k] > k).float(), reduction="sum"
        )
        for k in range(4)
    ]
    ours = functional.cross_entropy(head(features), targets, reduction="sum")
    assert float(ours) == pytest.approx(float(sum(asked)), rel=1e-5)


def test_narrow_corn_head_gives_the_posterior_given_those_classes() -> None:
    model = build_model(
        ModelConfig(name="mobilenet_v2", options={"width_mult": 0.1}, size=32, head="corn"), CLASSES
    ).eval()
    inputs = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        wanted = torch.softmax(model(inputs)[:, 1:4], dim=1)
        narrow = narrow_head(model, slice(1, 4))
        assert head_outputs(narrow) == 3
        assert torch.allclose(torch.softmax(narrow(inputs), dim=1), wanted, atol=1e-6)


def test_corn_head_weights_travel_between_a_whole_and_a_narrow_network() -> None:
    config = ModelConfig(name="mobilenet_v2", options={"width_mult": 0.1}, size=32, head="corn")
    narrow = narrow_head(build_model(config, CLASSES), slice(1, 4)).eval()
    again = build_model(config, ("1", "2", "3"))
    again.load_state_dict(narrow.state_dict())
    inputs = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again.eval()(inputs), narrow(inputs))


def test_corn_head_on_a_convolution_is_refused() -> None:
    with pytest.raises(ConfigError, match="linear"):
        build_model(ModelConfig(name="squeezenet1_1", size=32, head="corn"), CLASSES)


def test_replace_head_twice_is_refused() -> None:
    model = build_model(ModelConfig(name="mobilenet_v2", options={"width_mult": 0.1}, size=32), CLASSES)
    with pytest.raises(ConfigError, match="not its head"):
        replace_head(model, 3, corn=False)
