"""A tiny bundle that every test of the agent shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulators.bundle_factory import make_bundle

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny")
