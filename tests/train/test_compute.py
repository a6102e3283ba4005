"""Device and threads of a training."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bundle.errors import ConfigError
from train.compute import device_of, threads_of
from train.place import Place

_HERE = Place(dataset=Path("data"), out=Path("run"))
_CORES = os.cpu_count() or 1


@pytest.mark.parametrize("device", ["foo", "cuda:99"])
def test_device_of_what_is_not_here_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=device):
        device_of(Place(dataset=Path("data"), out=Path("run"), device=device))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_device_of_cuda_without_driver_is_refused() -> None:
    with pytest.raises(ConfigError, match="cuda"):
        device_of(Place(dataset=Path("data"), out=Path("run"), device="cuda"))


def test_device_of_cpu_is_taken() -> None:
    assert device_of(Place(dataset=Path("data"), out=Path("run"), device="cpu")) == "cpu"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, _CORES),
        ({"OMP_NUM_THREADS": "4", "LOCAL_WORLD_SIZE": "2"}, 4),
        ({"OMP_NUM_THREADS": "3,1"}, 3),
        ({"OMP_NUM_THREADS": "0", "LOCAL_WORLD_SIZE": str(_CORES)}, 1),
        ({"LOCAL_WORLD_SIZE": str(2 * _CORES)}, 1),
    ],
)
def test_threads_of_environment_decides_where_none_are_asked_for(environment: dict[str, str], expected: int) -> None:
    assert threads_of(_HERE, environment) == expected


def test_threads_of_asked_for_wins() -> None:
    place = Place(dataset=Path("data"), out=Path("run"), threads=7)
    assert threads_of(place, {"OMP_NUM_THREADS": "4"}) == 7
