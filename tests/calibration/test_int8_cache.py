from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from calibration.int8 import cache
from calibration.int8.cache import KEPT, key_of, prepare_cached
from calibration.int8.quantize import Recipe, prepare, quantize
from calibration.int8.ranges import RANGE_METHODS
from tests.simulators.networks import residual_network

if TYPE_CHECKING:
    from pathlib import Path

_FRAMES = np.random.default_rng(0).normal(0, 1, (16, 3, 16, 16)).astype(np.float32)


def _never(*_: object) -> None:
    pytest.fail("it looked at the frames again")


def test_prepare_cached_second_time_looks_at_no_frame_and_gives_the_same_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = residual_network()
    first = prepare_cached(model, _FRAMES, tmp_path / "cache")
    monkeypatch.setattr(cache, "prepare", _never)
    second = prepare_cached(model, _FRAMES, tmp_path / "cache")
    for method in RANGE_METHODS:
        recipe = Recipe("cpu", method, frozenset(first.convolutions[:1]))
        assert quantize(second, recipe) == quantize(first, recipe)


def test_key_differs_for_other_frames_and_another_model() -> None:
    model = residual_network()
    keys = {key_of(model, _FRAMES), key_of(model, _FRAMES[::-1]), key_of(model + b" ", _FRAMES)}
    assert len(keys) == 3
    assert key_of(model, _FRAMES.copy()) in keys


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"no zip file"])
def test_prepare_cached_damaged_file_is_made_anew(tmp_path: Path, damage: object) -> None:
    model = residual_network()
    expected = quantize(prepare(model, _FRAMES), Recipe("cpu"))
    prepare_cached(model, _FRAMES, tmp_path)
    (file,) = tmp_path.iterdir()
    assert callable(damage)
    file.write_bytes(damage(file.read_bytes()))
    assert quantize(prepare_cached(model, _FRAMES, tmp_path), Recipe("cpu")) == expected


def test_prepare_cached_keeps_few(tmp_path: Path) -> None:
    for number in range(KEPT + 2):
        prepare_cached(residual_network(), _FRAMES + np.float32(number), tmp_path)
    assert len(list(tmp_path.iterdir())) == KEPT
