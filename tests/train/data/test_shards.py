from __future__ import annotations

import hashlib
import json
import tarfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import webdataset

from bundle import images, preprocess
from bundle.errors import ConfigError, InputError
from tests.train.data.sources import pairs_source
from train.data.importing import import_abid
from train.data.loader import Batch, LoaderOptions, ShardLoader, Shards
from train.data.shards import INDEX_NAME, ShardOptions, write_shards
from train.data.split import split

if TYPE_CHECKING:
    from pathlib import Path

    from train.data.manifest import Dataset

SMALL = ShardOptions(size=32, photos_per_shard=16, workers=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    work = tmp_path_factory.mktemp("shards")
    return split(import_abid(pairs_source(work / "source", bins=40).folder, work / "set", workers=1).dataset)


@pytest.fixture(scope="module")
def packed(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(dataset, tmp_path_factory.mktemp("packed"), SMALL)


@pytest.fixture(scope="module")
def raw(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ShardOptions(size=32, photos_per_shard=16, workers=1, encoding="raw")
    return write_shards(dataset, tmp_path_factory.mktemp("raw"), options)


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_shards_hold_every_photo_of_each_split_once(dataset: Dataset, packed: Path) -> None:
    shards = Shards(packed)
    assert sorted(shards.rows) == list(range(len(dataset)))
    assert (shards.counts == dataset.counts[shards.rows]).all()
    for name in dataset.split_names():
        assert set(shards.rows[shards.select(split=name)]) == set(dataset.select(split=name))
    assert {path.name for path in packed.glob("train*.tar")} == {f"train-{n:06d}.tar" for n in range(4)}
    shards.close()


def test_shards_raw_are_the_preprocessing_exactly(dataset: Dataset, raw: Path) -> None:
    shards = Shards(raw)
    for position, row in enumerate(shards.rows):
        image = images.read(dataset.path_of(int(row)))
        assert (shards.read(position) == preprocess.resize(image, SMALL.spec())).all()
    shards.close()


def test_shards_jpeg_are_close_to_it(raw: Path, packed: Path) -> None:
    exact, near = Shards(raw), Shards(packed)
    assert (exact.rows == near.rows).all()
    differences = [np.abs(exact.read(n).astype(int) - near.read(n)).mean() for n in range(len(exact))]
    assert max(differences) < 12
    exact.close()
    near.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_shards_are_read_by_webdataset(dataset: Dataset, packed: Path) -> None:
    urls = [str(path) for path in sorted(packed.glob("val-*.tar"))]
    stream = webdataset.WebDataset(urls, shardshuffle=False).to_tuple("__key__", "jpg", "cls")
    found = {key: (images.decode(data, name=key).shape, int(label)) for key, data, label in stream}
    rows = dataset.select(split="val")
    assert found == {dataset.id_of(row): ((32, 32, 3), int(dataset.counts[row])) for row in rows}


def test_shards_equal_bytes_for_any_workers(dataset: Dataset, packed: Path, tmp_path: Path) -> None:
    other = write_shards(dataset, tmp_path / "two", ShardOptions(size=32, photos_per_shard=16, workers=2))
    assert _digests(other) == _digests(packed)


def test_shards_interrupted_are_unfinished_and_go_on(dataset: Dataset, tmp_path: Path) -> None:
    def interrupt(done: int, _total: int) -> None:
        if done >= 32:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write_shards(dataset, out, ShardOptions(size=32, photos_per_shard=16, workers=1, on_progress=interrupt))
    with pytest.raises(InputError, match="no finished shards"):
        Shards(out)
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert 2 <= len(finished) < 6
    (out / ".train-000003.tar.part").write_bytes(b"half of a tar")
    write_shards(dataset, out, SMALL)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(Shards(out)) == len(dataset)


def test_shards_of_something_else_are_refused_without_overwrite(dataset: Dataset, tmp_path: Path) -> None:
    out = write_shards(dataset, tmp_path / "out", SMALL)
    larger = ShardOptions(size=48, photos_per_shard=40, workers=1)
    with pytest.raises(InputError, match="other options"):
        write_shards(dataset, out, larger)
    write_shards(dataset, out, ShardOptions(size=48, photos_per_shard=40, workers=1, overwrite=True))
    shards = Shards(out)
    assert shards.size == 48
    assert len(list(out.glob("*.tar"))) == 4
    shards.close()


def test_shards_photo_changed_since_import_is_refused(tmp_path: Path) -> None:
    source = pairs_source(tmp_path / "source", bins=2)
    dataset = import_abid(source.folder, tmp_path / "set", workers=1).dataset
    path = dataset.path_of(1)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"00002\.jpg has changed since the import"):
        write_shards(dataset, tmp_path / "out", SMALL)


def test_shards_keys_survive_dots_and_slashes(tmp_path: Path) -> None:
    source = pairs_source(tmp_path / "source", bins=1)
    source.add("cam.left", 1)
    dataset = import_abid(source.folder, tmp_path / "set", workers=1).dataset
    out = write_shards(dataset, tmp_path / "out", SMALL)
    with tarfile.open(out / "all-000000.tar") as tar:
        names = [member.name for member in tar]
    assert "cam%2Eleft.jpg" in names
    assert all(name.count(".") == 1 for name in names)


def test_shards_options_out_of_range_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        write_shards(dataset, tmp_path / "out", ShardOptions(size=4))


def test_shards_damaged_are_refused(packed: Path, raw: Path, tmp_path: Path) -> None:
    for name, source, words in (("jpeg", packed, "damaged|truncated|not a photo"), ("raw", raw, "damaged|not a photo")):
        copy = tmp_path / name
        copy.mkdir()
        for path in source.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        tar = copy / "train-000000.tar"
        tar.write_bytes(tar.read_bytes()[:1500])
        shards = Shards(copy)
        position = int(np.flatnonzero(shards._places[:, 0] == 1)[-1])
        with pytest.raises(InputError, match=words):
            shards.read(position)
        shards.close()
        tar.unlink()
        with pytest.raises(InputError, match="incomplete"):
            Shards(copy)


def test_shards_plan_names_the_dataset(dataset: Dataset, packed: Path) -> None:
    assert Shards(packed).dataset == dataset.digest
    assert json.loads((packed / "shards.json").read_text())["dataset"] == dataset.digest


def _epoch(loader: ShardLoader, epoch: int, start: int = 0) -> list[Batch]:
    return list(loader.epoch(epoch, start=start))


def test_loader_epoch_is_a_permutation_and_differs_by_epoch(packed: Path) -> None:
    shards = Shards(packed)
    loader = ShardLoader(shards, shards.select(split="train"), LoaderOptions(batch=7))
    orders = [np.concatenate([batch.positions for batch in _epoch(loader, epoch)]) for epoch in (0, 1)]
    assert (np.sort(orders[0]) == shards.select(split="train")).all()
    assert not np.array_equal(orders[0], orders[1])
    assert len(loader) == len(_epoch(loader, 0)) == 10  # 64 photos
    shards.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_loader_resumed_in_the_middle_sees_the_same(packed: Path, workers: int) -> None:
    shards = Shards(packed)
    rows = shards.select(split="train")
    whole = _epoch(ShardLoader(shards, rows, LoaderOptions(batch=7, workers=2)), 4)
    rest = _epoch(ShardLoader(shards, rows, LoaderOptions(batch=7, workers=workers)), 4, start=6)
    assert len(rest) == 4
    for one, two in zip(whole[6:], rest, strict=True):
        assert (one.images == two.images).all()
        assert (one.positions == two.positions).all()
        assert (one.counts == two.counts).all()
    shards.close()


def test_loader_mirrors_half_of_the_pictures_and_nothing_else(raw: Path) -> None:
    shards = Shards(raw)
    loader = ShardLoader(shards, shards.select(), LoaderOptions(batch=16))
    mirrored = 0
    for batch in _epoch(loader, 0):
        for image, position in zip(batch.images, batch.positions, strict=True):
            original = shards.read(int(position))
            turned = bool((image == original[:, ::-1]).all())
            assert turned or (image == original).all()
            mirrored += turned
    assert 0.3 * len(shards) < mirrored < 0.7 * len(shards)
    shards.close()


def test_loader_with_spec_hands_out_the_preprocessing(raw: Path) -> None:
    from bundle.manifest import Preprocessing

    shards = Shards(raw)
    spec = Preprocessing(size_wh=(32, 32), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    options = LoaderOptions(batch=16, spec=spec, shuffle=False, mirror=False)
    first = _epoch(ShardLoader(shards, shards.select(), options), 0)[0]
    assert first.images.dtype == np.float32
    expected = preprocess.preprocess(shards.read(5), spec)
    assert (first.images[5] == expected).all()
    shards.close()


def test_loader_repeats_photos_that_stand_several_times(packed: Path) -> None:
    shards = Shards(packed)
    loader = ShardLoader(shards, np.array([3, 3, 3, 5]), LoaderOptions(batch=4))
    (batch,) = _epoch(loader, 0)
    assert sorted(batch.positions) == [3, 3, 3, 5]
    shards.close()


def test_loader_without_photos_is_refused(packed: Path) -> None:
    shards = Shards(packed)
    with pytest.raises(ConfigError, match="needs photos"):
        ShardLoader(shards, shards.select(counts=[99]))


def test_shards_without_index_are_no_shards(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "shards.json").write_bytes((packed / "shards.json").read_bytes())
    with pytest.raises(InputError, match="no finished shards"):
        Shards(tmp_path)
    (tmp_path / INDEX_NAME).write_bytes(b"nothing")
    with pytest.raises(InputError, match="no finished shards"):
        Shards(tmp_path)
