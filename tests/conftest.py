"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.simulators.bundle_factory import make_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulators.object_store import MotoStore

_REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return _REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real bin photos and ImageNet weights; skips where it is not there."""
    folder = Path(os.environ.get("BINTALLY_SHARED", _REPOSITORY.parent / "shared"))
    if not (folder / "abid" / "bin-images").is_dir():
        pytest.skip("the sample of the Amazon Bin Image Dataset is not on this machine (BINTALLY_SHARED)")
    return folder


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Path:
    """A valid bundle that counts by brightness; see tests.simulators.bundle_factory."""
    return make_bundle(tmp_path / "tiny-bundle")


@pytest.fixture(scope="module")
def store() -> Iterator[MotoStore]:
    """A real S3 endpoint with an empty bucket."""
    from tests.simulators.object_store import MotoStore

    with MotoStore() as made:
        yield made


@pytest.fixture
def store_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys for `store` where boto3 looks for them."""
    from tests.simulators.object_store import CREDENTIALS

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
