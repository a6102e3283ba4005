from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from bundle.errors import ConfigError, InputError
from train.heads import head_name, narrow_head
from train.model import build_model, model_names, preprocessing_of, read_weights, require_sizes
from train.sections import ModelConfig

if TYPE_CHECKING:
    from pathlib import Path

COUNTS = ("1", "2", "3")
TINY = ModelConfig(name="mobilenet_v2", options={"width_mult": 0.1}, size=32)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "densenet121", "efficientnet_b0"],
)
def test_build_model_any_family_answers_with_the_count_classes(name: str) -> None:
    model = build_model(ModelConfig(name=name, size=64), COUNTS).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_build_model_transformer_has_its_head_replaced() -> None:
    model = build_model(ModelConfig(name="vit_b_32"), COUNTS)
    assert model.get_submodule(head_name(model)).weight.shape == (3, 768)


def test_build_model_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(ConfigError, match="resnet18"):
        build_model(ModelConfig(name="resnet_18"), COUNTS)


def test_build_model_unknown_option_names_it() -> None:
    with pytest.raises(ConfigError, match="depth"):
        build_model(ModelConfig(name="mobilenet_v2", options={"depth": 3}), COUNTS)


def test_model_names_are_classifiers_alone() -> None:
    names = model_names()
    assert {"resnet152", "resnext101_32x8d", "vit_b_16", "convnext_tiny", "regnet_y_400mf"} <= set(names)
    assert not any("rcnn" in name or "raft" in name for name in names)


def test_build_model_weights_file_is_loaded_but_for_the_head(tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = build_model(TINY, tuple(str(count) for count in range(1000)))
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    config = TINY.model_copy(update={"weights": "file"})
    model = build_model(config, COUNTS, weights=tmp_path / "weights.pth")
    assert torch.equal(model.state_dict()["features.0.0.weight"], source.state_dict()["features.0.0.weight"])
    assert model.state_dict()["classifier.1.weight"].shape == (3, 1280)


def test_build_model_weights_of_an_earlier_counter_keep_its_head(tmp_path: Path) -> None:
    earlier = build_model(TINY, COUNTS)
    torch.save(earlier.state_dict(), tmp_path / "model.pt")
    config = TINY.model_copy(update={"weights": "file"})
    model = build_model(config, COUNTS, weights=tmp_path / "model.pt")
    head = f"{head_name(model)}.weight"
    assert torch.equal(model.get_parameter(head), earlier.get_parameter(head))


def test_build_model_weights_of_another_network_name_the_difference(tmp_path: Path) -> None:
    torch.save(build_model(TINY, COUNTS).state_dict(), tmp_path / "weights.pth")
    config = ModelConfig(name="shufflenet_v2_x0_5", weights="file")
    with pytest.raises(InputError, match=r"does not fit ShuffleNetV2.*tensors differ \(classifier"):
        build_model(config, COUNTS, weights=tmp_path / "weights.pth")


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04broken"])
def test_read_weights_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.pth"):
        read_weights(path)


def test_read_weights_executes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(InputError, match=r"weights\.pth"):
        read_weights(path)


def test_build_model_frozen_trains_the_head_alone() -> None:
    model = build_model(TINY.model_copy(update={"frozen": True}), COUNTS)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == ["classifier.1.weight", "classifier.1.bias"]


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_1"])
def test_narrow_head_gives_the_posterior_given_those_classes(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(name=name, size=64), tuple("012345")).eval()
    inputs = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        wide = model(inputs)
        narrow = narrow_head(model, slice(1, 4))(inputs)
    assert torch.allclose(narrow, wide[:, 1:4], atol=1e-6)


def test_preprocessing_of_hub_weights_takes_their_normalisation() -> None:
    found = preprocessing_of(ModelConfig(name="vit_b_16", weights="hub"))
    assert found.mean == (0.485, 0.456, 0.406)


def test_preprocessing_of_given_normalisation_wins() -> None:
    half = (0.5, 0.5, 0.5)
    found = preprocessing_of(ModelConfig(mean=half, std=half, size=160))
    assert (found.mean, found.std, found.size_wh) == (half, half, (160, 160))


def test_build_model_vision_transformer_is_built_for_its_size() -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(name="vit_b_16", size=64), COUNTS)
        assert model.image_size == 64
        with pytest.raises(ConfigError, match="vit_b_16"):
            build_model(ModelConfig(name="vit_b_16", size=65), COUNTS)


def test_require_sizes_too_small_for_the_network_is_named() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 40), torch.nn.BatchNorm2d(1))
    require_sizes(model, "wide", [64])
    assert model.training
    with pytest.raises(ConfigError, match=r"wide does not take photos of 32 x 32"):
        require_sizes(model, "wide", [64, 32])
