from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from bundle.errors import BundleError, IntegrityError
from bundle.probation import Note, write_note
from bundle.store import Store
from tests.simulators.bundle_factory import make_bundle

if TYPE_CHECKING:
    from pathlib import Path


def _installed(store: Store, folder: Path, version: str) -> str:
    return store.install(make_bundle(folder / version, version=version)).digest


def _activated(store: Store, folder: Path, version: str) -> str:
    return store.activate(_installed(store, folder, version)).digest


def test_activate_then_rollback_swaps_current_and_previous(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first, second = (_activated(store, tmp_path, version) for version in ("1.0.0", "2.0.0"))
    assert store.current().digest == second
    assert store.rollback().digest == first
    previous = store.previous()
    assert previous is not None
    assert previous.digest == second


def test_activate_twice_keeps_the_way_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first, second = (_activated(store, tmp_path, version) for version in ("1.0.0", "2.0.0"))
    store.activate(second)
    assert store.rollback().digest == first


def test_activate_bounds_the_disk_to_two_bundles(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for version in ("1.0.0", "2.0.0", "3.0.0", "4.0.0"):
        _activated(store, tmp_path, version)
    assert len(list((tmp_path / "store" / "bundles").iterdir())) == 2


def test_discard_removes_neither_the_current_nor_the_previous_bundle(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digests = [_activated(store, tmp_path, version) for version in ("1.0.0", "2.0.0")]
    other = store.install(make_bundle(tmp_path / "3.0.0", version="3.0.0")).digest
    for digest in (*digests, other, "never-installed"):
        store.discard(digest)
    assert {folder.name for folder in (tmp_path / "store" / "bundles").iterdir()} == set(digests)


def test_bundle_that_is_trusted_stays_and_is_gone_back_to(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    trusted = _activated(store, tmp_path, "1.0.0")
    write_note(tmp_path / "store", Note(digest=trusted, trusted=trusted))
    digests = [_activated(store, tmp_path, version) for version in ("2.0.0", "3.0.0", "4.0.0")]
    store.discard(trusted)
    kept = {folder.name for folder in (tmp_path / "store" / "bundles").iterdir()}
    assert kept == {trusted, *digests[-2:]}
    assert store.go_back(trusted).digest == trusted
    assert store.digests == (trusted, None)
    assert [folder.name for folder in (tmp_path / "store" / "bundles").iterdir()] == [trusted]


def test_install_damaged_bundle_leaves_the_store_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    _activated(store, tmp_path, "1.0.0")
    damaged = make_bundle(tmp_path / "damaged", version="2.0.0")
    (damaged / "model.cpu.onnx").write_bytes(b"no model")
    with pytest.raises(IntegrityError):
        store.install(damaged)
    assert store.current().manifest.version == "1.0.0"


def test_current_bundle_altered_on_disk_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digest = _activated(store, tmp_path, "1.0.0")
    manifest = tmp_path / "store" / "bundles" / digest / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"threshold": 0.8', '"threshold": 0.1'))
    with pytest.raises(IntegrityError, match="altered after it was installed"):
        store.current()


def test_install_again_mends_a_damaged_bundle(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digest = _activated(store, tmp_path, "1.0.0")
    model = tmp_path / "store" / "bundles" / digest / "model.cpu.onnx"
    model.write_bytes(b"rot")
    with pytest.raises(IntegrityError):
        store.current()
    assert store.install(tmp_path / "1.0.0").digest == digest
    assert store.current().digest == digest


@pytest.mark.parametrize("call", ["current", "rollback"])
def test_empty_store_says_what_to_do(tmp_path: Path, call: str) -> None:
    with pytest.raises(BundleError, match=r"no (active|previous) bundle"):
        getattr(Store(tmp_path / "store"), call)()


def test_damaged_state_file_is_one_clear_error(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    (root / "state.json").write_text('{"current": ')
    with pytest.raises(BundleError, match=r"state\.json is damaged"):
        Store(root).current()


def test_switching_killed_at_any_moment_leaves_old_or_new(tmp_path: Path, repository: Path) -> None:
    root = tmp_path / "store"
    store = Store(root)
    digests = {_activated(store, tmp_path, version) for version in ("1.0.0", "2.0.0")}
    sources = [str(tmp_path / version) for version in ("1.0.0", "2.0.0")]
    code = f"""
from pathlib import Path
from bundle.store import Store
store = Store(Path({str(root)!r}))
print("ready", flush=True)
while True:
    for source in {sources!r}:
        store.activate(store.install(Path(source)).digest)
"""
    for attempt in range(8):
        child = subprocess.Popen([sys.executable, "-c", code], cwd=repository, stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(0.004 * attempt)  # the moment of the kill, not a wait for something
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert store.current().digest in digests
