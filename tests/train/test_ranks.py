from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.errors import ConfigError
from tests.train.tiny import config
from train.data.manifest import Dataset
from train.evaluate import Question, evaluate
from train.job import train
from train.place import Place
from train.progress import Silent
from train.ranks import Ranks, joined_ranks

if TYPE_CHECKING:
    from pathlib import Path

_DEADLINE_S = 300.0
_LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]


@pytest.mark.parametrize(("photos", "batch", "world"), [(10, 3, 2), (7, 32, 4), (64, 32, 2), (1, 1, 3), (0, 4, 2)])
def test_rows_of_all_ranks_cover_every_photo_once(photos: int, batch: int, world: int) -> None:
    rows = np.concatenate([Ranks(rank, world).rows(photos, batch) for rank in range(world)])
    assert sorted(rows.tolist()) == list(range(photos))


def test_rows_deal_out_whole_batches() -> None:
    assert Ranks(1, 2).rows(10, 3).tolist() == [3, 4, 5, 9]


def test_joined_ranks_alone_sets_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_ranks() as ranks:
        assert (ranks.rank, ranks.world, ranks.first) == (0, 1, True)


def test_joined_ranks_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun"), joined_ranks():
        pass


def test_evaluate_two_processes_answer_like_one_sample_for_sample(
    repository: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    place = Place(dataset=tiny_dataset, out=run, device="cpu", threads=1)
    train(config(epochs=1, counts=["0", "1", "2", "3", "4"]), place, progress=Silent())
    question = Question(Dataset.open(tiny_dataset), "train")
    alone = evaluate(run, question, progress=Silent(), predictions=tmp_path / "one.npz")
    command = ["evaluate", str(run), "--data", str(tiny_dataset), "--split", "train", "--json"]
    done = subprocess.run(
        [sys.executable, *_LAUNCHER, "bintally.py", *command, "--predictions", str(tmp_path / "two.npz")],
        cwd=repository,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=_DEADLINE_S,
    )
    (line,) = done.stdout.splitlines()  # the first rank alone prints
    assert json.loads(line) == json.loads(json.dumps(alone))
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert len(one["id"]) == 84
        for key in ("id", "truth", "logits"):
            assert np.array_equal(one[key], two[key]), key


def test_train_two_processes_judge_like_one_and_go_on_from_their_checkpoint(
    repository: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    def train_with_two(epochs: int, *flags: str) -> dict[str, object]:
        words = ["train", str(tiny_dataset), "--out", str(tmp_path / "run"), "--counts", "1-3", "--size", "32"]
        words += ["--batch-size", "9", "--threads", "1", "--device", "cpu", "--set", "ema=0.9", "--json"]
        words += ["--set", 'model.options={"width_mult": 0.1}', "--epochs", str(epochs), *flags]
        done = subprocess.run(
            [sys.executable, *_LAUNCHER, "bintally.py", *words],
            cwd=repository,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=_DEADLINE_S,
        )
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()  # the first rank alone prints
        found: dict[str, object] = json.loads(line)
        return found

    figures = train_with_two(1)
    question = Question(Dataset.open(tiny_dataset))
    alone = evaluate(tmp_path / "run", question, progress=Silent(), predictions=tmp_path / "one.npz")
    assert alone is not None
    assert figures["accuracy"] == alone["accuracy"]
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "run" / "predictions.npz") as two:
        assert np.array_equal(one["id"], two["id"])
        assert np.array_equal(one["logits"], two["logits"])
    assert train_with_two(1, "--resume") == figures
