"""Rendered datasets: the layout on disk, their independence of the number of processes, and what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from bundle.durable import sha256_file
from bundle.errors import InputError
from bundle.images import read
from demo.dataset import name_of, write_dataset, written
from demo.render import render_bin
from demo.seeds import MAX_SEED, dataset_seed, tour_seed

if TYPE_CHECKING:
    from pathlib import Path


def test_write_dataset_gives_the_layout_of_the_bucket(tmp_path: Path) -> None:
    write_dataset(tmp_path, count=6, seed=4, workers=1)
    assert sorted(path.name for path in (tmp_path / "bin-images").iterdir()) == [f"{i:06d}.jpg" for i in range(6)]
    for index in range(6):
        truth = render_bin(dataset_seed(4, index))
        document = json.loads((tmp_path / "metadata" / f"{name_of(index)}.json").read_text())
        assert document["EXPECTED_QUANTITY"] == truth.count
        products = document["BIN_FCSKU_DATA"]
        assert sum(product["quantity"] for product in products.values()) == truth.count
        assert all(product["asin"] == asin and product["name"] for asin, product in products.items())
        assert read(tmp_path / "bin-images" / f"{name_of(index)}.jpg").shape == truth.image_bgr.shape


def test_write_dataset_with_more_processes_writes_the_same_bytes(tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", count=20, seed=7, workers=1)
    write_dataset(tmp_path / "two", count=20, seed=7, workers=2)
    assert _digests(tmp_path / "one") == _digests(tmp_path / "two")


def test_write_dataset_products_are_never_shared_between_bins(tmp_path: Path) -> None:
    write_dataset(tmp_path, count=12, seed=0, workers=1)
    asins = [
        asin for path in (tmp_path / "metadata").iterdir() for asin in json.loads(path.read_text())["BIN_FCSKU_DATA"]
    ]
    assert len(asins) == len(set(asins)) > 0


def test_write_dataset_killed_and_repeated_is_as_if_never_killed(tmp_path: Path) -> None:
    out = tmp_path / "cut"
    code = "import sys; from pathlib import Path; from demo.dataset import write_dataset as write;"
    code += "write(Path(sys.argv[1]), count=200, seed=9, workers=1)"
    child = subprocess.Popen([sys.executable, "-c", code, str(out)])
    deadline = time.monotonic() + 30
    while len(_names(out)) < 10 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    left = _names(out)
    assert 10 <= len(left) < 200
    assert all((out / "bin-images" / f"{name}.jpg").exists() for name in left)
    kept = {name: (out / "bin-images" / f"{name}.jpg").stat().st_mtime_ns for name in left}
    count = len(left) + 5
    write_dataset(out, count=count, seed=9, workers=1)
    write_dataset(tmp_path / "whole", count=count, seed=9, workers=1)
    cut, whole = _digests(out), _digests(tmp_path / "whole")
    assert {name: cut[name] for name in whole} == whole
    assert kept == {name: (out / "bin-images" / f"{name}.jpg").stat().st_mtime_ns for name in left}


def test_written_tells_every_name_once_present_ones_first(tmp_path: Path) -> None:
    write_dataset(tmp_path, count=3, seed=1, workers=1)
    assert list(written(tmp_path, count=5, seed=1, workers=1)) == [name_of(index) for index in range(5)]


def test_write_dataset_into_another_dataset_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, count=1, seed=1, workers=1)
    with pytest.raises(InputError, match="another rendered dataset"):
        write_dataset(tmp_path, count=1, seed=2, workers=1)


def test_write_dataset_into_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write_dataset(tmp_path, count=1, seed=1, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("count", "seed", "workers"), [(0, 1, 1), (1, -1, 1), (1, MAX_SEED + 1, 1), (1, 1, 0)])
def test_write_dataset_number_out_of_range_is_refused(tmp_path: Path, count: int, seed: int, workers: int) -> None:
    with pytest.raises(InputError):
        write_dataset(tmp_path, count=count, seed=seed, workers=workers)


def test_tour_seeds_lie_above_every_dataset_seed() -> None:
    assert tour_seed(0, 0) > dataset_seed(MAX_SEED, 999_999_999)


def _names(out: Path) -> list[str]:
    return sorted(path.stem for path in (out / "metadata").glob("*.json"))


def _digests(out: Path) -> dict[str, str]:
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.endswith(".part")]
    return {str(path.relative_to(out)): sha256_file(path) for path in files}
