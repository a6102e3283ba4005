from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import pytest

from bundle.errors import ConfigError, InputError
from tests.train.data.sources import AbidSource, jpeg
from train.data.columns import MANIFEST_NAME
from train.data.diff import verify_photos
from train.data.importing import Imported, ImportOptions, import_abid, import_listing
from train.data.layouts import list_abid, list_csv
from train.data.manifest import Dataset

if TYPE_CHECKING:
    from collections.abc import Callable

PHOTOS = 6
Files = Literal["link", "copy"]


def _source(folder: Path, *, count: int) -> AbidSource:
    """The same names each time, other photos and labels for another count."""
    source = AbidSource(folder, seed=100 * count)
    for number in range(1, PHOTOS + 1):
        source.add(f"{number:05d}", count)
    return source


def _import(
    source: AbidSource, out: Path, files: Files = "copy", on_progress: Callable[[int, int], None] | None = None
) -> Imported:
    options = ImportOptions(files=files, overwrite=True, workers=1, on_progress=on_progress)
    return import_listing(list_abid(source.folder), out, options)


def _folders(out: Path) -> list[str]:
    return [path.name for path in out.iterdir() if path.is_dir()]


def _assert_whole(out: Path, *, count: int) -> Dataset:
    dataset = Dataset.open(out)
    assert verify_photos(dataset, workers=1) == ()
    assert set(dataset.counts.tolist()) == {count}
    return dataset


@pytest.mark.parametrize("files", ["link", "copy"])
def test_import_brings_the_photos_along(tmp_path: Path, files: Files) -> None:
    source = _source(tmp_path / "source", count=1)
    done = _import(source, tmp_path / "set", files)
    place = done.dataset.path_of(0)
    assert place.is_relative_to(tmp_path / "set")
    assert place.read_bytes() == source.photos["00001"]
    assert (place.stat().st_nlink == 2) == (files == "link")
    (tmp_path / "set").rename(tmp_path / "moved")
    assert Dataset.open(tmp_path / "moved").path_of(0).exists()
    # The photos' place is no part of the identity.
    assert done.dataset.digest == import_abid(source.folder, tmp_path / "other", workers=1).dataset.digest


@pytest.mark.parametrize("files", ["link", "copy"])
def test_import_again_leaves_one_folder_of_photos_and_nothing_unfinished(tmp_path: Path, files: Files) -> None:
    old, new = _source(tmp_path / "old", count=1), _source(tmp_path / "new", count=2)
    for source, count in ((old, 1), (old, 1), (new, 2)):
        dataset = _import(source, tmp_path / "set", files).dataset
        _assert_whole(tmp_path / "set", count=count)
        assert _folders(tmp_path / "set") == [dataset.image_root.name]
    assert not list((tmp_path / "set").rglob("*.part"))


def test_import_of_a_dataset_s_own_photos_keeps_them(tmp_path: Path) -> None:
    first = _import(_source(tmp_path / "source", count=1), tmp_path / "set").dataset
    rows = [f"{first.image_root.name}/{path},4" for path in first.paths.to_pylist()]
    (tmp_path / "set" / "again.csv").write_text("\n".join(["path,count", *rows]))
    import_listing(list_csv(tmp_path / "set" / "again.csv"), tmp_path / "set", ImportOptions(overwrite=True, workers=1))
    _assert_whole(tmp_path / "set", count=4)


@pytest.mark.parametrize("files", ["link", "copy"])
def test_import_interrupted_among_the_photos_leaves_the_old_dataset(tmp_path: Path, files: Files) -> None:
    out = tmp_path / "set"
    before = _import(_source(tmp_path / "old", count=1), out, files).dataset.digest
    calls = []

    def interrupt(done: int, _total: int) -> None:
        calls.append(done)
        # The first call is the scan's; the fourth comes after the third photo was brought.
        if calls[1:] == [1, 2, 3]:
            raise KeyboardInterrupt

    new = _source(tmp_path / "new", count=2)
    with pytest.raises(KeyboardInterrupt):
        _import(new, out, files, interrupt)
    assert len(_folders(out)) == 2
    assert _assert_whole(out, count=1).digest == before
    _import(new, out, files)
    _assert_whole(out, count=2)
    assert len(_folders(out)) == 1


@pytest.mark.parametrize(
    ("moment", "left"),
    [("00003.jpg", "old"), ("rejected.jsonl", "none"), ("dataset.json", "none"), ("manifest.parquet", "none")],
)
def test_import_killed_leaves_the_old_dataset_or_none(tmp_path: Path, repository: Path, moment: str, left: str) -> None:
    out = tmp_path / "set"
    _import(_source(tmp_path / "old", count=1), out)
    new = _source(tmp_path / "new", count=2)
    # SIGKILL in the moment before a file gets its name.
    code = (
        "import os, signal, sys, bintally\n"
        "def kill(event, found):\n"
        f"    if event == 'os.rename' and os.path.basename(str(found[1])) == {moment!r}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(kill)\n"
        f"sys.argv = ['bintally', 'data', 'import', {str(new.folder)!r}, '--out', {str(out)!r}, '--files', 'copy',\n"
        "            '--overwrite', '--workers', '1']\n"
        "bintally.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    if left == "old":
        verify = [sys.executable, "-m", "bintally", "data", "verify", str(out), "--workers", "1"]
        subprocess.run(verify, cwd=repository, capture_output=True, check=True)
        _assert_whole(out, count=1)
    else:
        assert not (out / MANIFEST_NAME).exists()
    _import(new, out)
    _assert_whole(out, count=2)
    assert len(_folders(out)) == 1


def test_import_photo_that_changes_before_it_is_copied_is_refused(tmp_path: Path) -> None:
    source = _source(tmp_path / "source", count=1)

    def change(done: int, total: int) -> None:
        # Called after the scan, before the copies.
        if done == total:
            source.write("bin-images/00002.jpg", jpeg(999))

    with pytest.raises(InputError, match=r"00002.jpg changed while it was imported.*Import again"):
        _import(source, tmp_path / "set", on_progress=change)
    assert not (tmp_path / "set" / MANIFEST_NAME).exists()


def test_import_photo_that_vanishes_before_it_is_linked_is_named(tmp_path: Path) -> None:
    source = _source(tmp_path / "source", count=1)

    def remove(_done: int, _total: int) -> None:
        (source.folder / "bin-images" / "00002.jpg").unlink(missing_ok=True)

    with pytest.raises(InputError, match=r"00002.jpg cannot be read"):
        _import(source, tmp_path / "set", "link", remove)


def test_import_link_across_file_systems_says_to_copy(tmp_path: Path) -> None:
    memory = Path("/dev/shm")  # noqa: S108 - the one other file system that most machines have
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev or not os.access(memory, os.W_OK):
        pytest.skip("no second file system on this machine: /dev/shm is missing, read-only or the same one")
    source = _source(tmp_path / "source", count=1)
    with TemporaryDirectory(dir=memory) as other, pytest.raises(ConfigError, match="Use --files copy"):
        _import(source, Path(other) / "set", "link")


def test_import_below_a_file_is_refused_before_any_photo_is_read(tmp_path: Path) -> None:
    source = _source(tmp_path / "source", count=1)
    (tmp_path / "file").write_text("")
    calls: list[int] = []
    with pytest.raises(ConfigError, match=r"file/set cannot be written: got Not a directory.*Choose another"):
        _import(source, tmp_path / "file" / "set", on_progress=lambda done, _total: calls.append(done))
    assert calls == []


@pytest.mark.parametrize("words", [("import", "{source}", "--out", "{out}"), ("download", "{out}")])
def test_program_with_an_output_below_a_file_exits_78_without_a_traceback(
    tmp_path: Path, repository: Path, words: tuple[str, ...]
) -> None:
    source = _source(tmp_path / "source", count=1)
    (tmp_path / "file").write_text("")
    arguments = [word.format(source=source.folder, out=tmp_path / "file" / "out") for word in words]
    done = subprocess.run(
        [sys.executable, "-m", "bintally", "data", *arguments],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_import_unopened_photos_that_changed_go_into_another_folder(tmp_path: Path) -> None:
    source = _source(tmp_path / "source", count=1)
    options = ImportOptions(files="copy", open_photos=False, overwrite=True, workers=1)
    first = import_listing(list_abid(source.folder), tmp_path / "set", options).dataset.image_root
    source.write("bin-images/00002.jpg", jpeg(999))
    second = import_listing(list_abid(source.folder), tmp_path / "set", options).dataset
    assert second.image_root != first
    assert second.path_of(1).read_bytes() == jpeg(999)
