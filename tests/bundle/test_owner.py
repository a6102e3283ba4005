"""Root installs into the store of a service, from a folder that the service may not enter."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from bundle.cli import bundle
from bundle.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

_USER, _GROUP = 65534, 65533
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def machine() -> Iterator[Path]:
    """A home, and a service's folder; tmp_path would be closed to the service."""
    with tempfile.TemporaryDirectory(prefix="bintally-machine-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "home").mkdir(mode=0o700)
        (folder / "service").mkdir(mode=0o700)
        os.chown(folder / "service", _USER, _GROUP)
        yield folder


def call(*words: object) -> Result:
    return CliRunner().invoke(bundle, [str(word) for word in words])


@needs_root
def test_install_and_rollback_by_root_leave_the_store_to_its_owner(machine: Path, tiny_bundle: Path) -> None:
    home, store = machine / "home", machine / "service" / "bundles"
    shutil.copytree(tiny_bundle, home / "first")
    shutil.copytree(tiny_bundle, home / "second")
    manifest = json.loads((home / "second/manifest.json").read_bytes())
    (home / "second/manifest.json").write_text(json.dumps(manifest | {"version": "2.0.0"}), encoding="utf-8")
    for name in ("first", "second"):
        done = call("install", home / name, "--store", store)
        assert done.exit_code == 0, done.output
    assert Store(store).current().manifest.version == "2.0.0"
    done = call("rollback", "--store", store)
    assert done.exit_code == 0, done.output
    files = [store, *store.rglob("*")]
    assert len(files) > 8
    assert {(path.stat().st_uid, path.stat().st_gid) for path in files} == {(_USER, _GROUP)}
    assert (os.geteuid(), (home / "first").stat().st_uid) == (0, 0)


@needs_root
def test_install_by_root_goes_nowhere_that_the_owner_may_not_write(machine: Path, tiny_bundle: Path) -> None:
    (machine / "service" / "bundles").symlink_to(machine / "home")
    done = call("install", tiny_bundle, "--store", machine / "service" / "bundles" / "store")
    assert "may not be read or written" in str(done.exception)
    assert not list((machine / "home").iterdir())
    assert os.geteuid() == 0


@needs_root
@pytest.mark.parametrize("folder", ["service", "service/store"])
def test_install_by_root_through_links_of_its_own_leaves_the_store_to_its_owner(
    machine: Path, tiny_bundle: Path, folder: str
) -> None:
    (machine / "disk").symlink_to("service")
    (machine / "service/store").symlink_to(machine / "home")  # the service's own: root must not follow it as root
    (machine / "state").symlink_to(machine / "disk" / Path(folder).relative_to("service"))
    done = call("install", tiny_bundle, "--store", machine / "state" / "bundles")
    assert not list((machine / "home").iterdir())
    if folder == "service":
        assert done.exit_code == 0, done.output
        files = list((machine / "service/bundles").rglob("*"))
        assert {(path.stat().st_uid, path.stat().st_gid) for path in files} == {(_USER, _GROUP)}
    else:
        assert "may not be read or written" in str(done.exception)


@needs_root
def test_install_by_root_into_links_in_a_circle_ends(machine: Path, tiny_bundle: Path) -> None:
    (machine / "here").symlink_to("there")
    (machine / "there").symlink_to("here")
    assert call("install", tiny_bundle, "--store", machine / "here").exit_code != 0


def test_install_without_the_rights_says_what_to_do(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/home/engineer/bundles/first/manifest.json")

    monkeypatch.setattr(Store, "install", closed)
    error = call("install", tiny_bundle, "--store", tmp_path / "store").exception
    assert "/home/engineer/bundles/first/manifest.json" in str(error)
    assert "sudo" in str(error)
