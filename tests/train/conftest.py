from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.train.tiny import make_dataset

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
