"""A bundle calibrated once, for every test that starts from one."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

import pytest

from calibration.assess import Wish
from calibration.refit import Paths, refit_confidence
from tests.calibration.robot import Robot
from tests.calibration.scenes import write_table
from tests.simulators.bundle_factory import make_bundle

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def calibrated_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a promise of 10 %, fitted to 300 scenes."""
    folder = tmp_path_factory.mktemp("calibrated")
    table = write_table(folder / "table", 300, 1, noise=0.3)
    paths = Paths(make_bundle(folder / "tiny"), table, folder / "bundle")
    refit_confidence(paths, Wish(risk=0.1), now=datetime(2026, 3, 4, tzinfo=timezone.utc))
    return paths.out


@pytest.fixture
def robot(tmp_path: Path, calibrated_bundle: Path) -> Robot:
    """A robot with that bundle, and no visits yet."""
    return Robot(tmp_path, calibrated_bundle)
