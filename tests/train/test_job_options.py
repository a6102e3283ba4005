"""Trainings with everything switched on that can be, and the ways they end early."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from bundle.errors import ConfigError, InputError
from tests.train.tiny import config, make_dataset
from train.data.manifest import Dataset
from train.data.shards import ShardOptions, write_shards
from train.ensemble import make_ensemble
from train.job import train
from train.load import cpu_ticks, shares
from train.loop import StopRequestedError
from train.memory import OutOfMemoryError
from train.model import preprocessing_of
from train.place import Place
from train.progress import Silent
from train.run import load_run
from train.stream import read_stream
from train.teachers import Teachers

if TYPE_CHECKING:
    from pathlib import Path


def _place(dataset: Path, out: Path, **changes: Any) -> Place:  # noqa: ANN401 - fields of Place
    return Place(**{"dataset": dataset, "out": out, "device": "cpu", "threads": 1, **changes})


def _weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(run / "model.pt", weights_only=True)
    return found


@pytest.fixture(scope="module")
def teacher(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    train(config(epochs=1), _place(tiny_dataset, out), progress=Silent())
    return out


def test_train_with_pairs_corn_teacher_and_fp16_resumes_bit_for_bit(
    tiny_dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    wanted = config(
        supervise=["0", "1", "2", "3", "4+"],
        model__head="corn",
        pairs__weight=0.3,
        precision="fp16",
        optimizer__schedule="onecycle",
    )
    train(wanted, _place(tiny_dataset, tmp_path / "whole", teachers=(teacher,)), progress=Silent())
    place = _place(tiny_dataset, tmp_path / "cut", teachers=(teacher,), resume=True, checkpoint_s=math.inf)
    for updates in (3, 6):
        stop = iter([False] * updates + [True]).__next__
        with pytest.raises(StopRequestedError):
            train(wanted, place, progress=Silent(), stop=stop)
    train(wanted, place, progress=Silent())
    whole, cut = _weights(tmp_path / "whole"), _weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert load_run(tmp_path / "cut").config.distill.teachers_sha256 != ()


def test_train_with_mixup_and_teachers_of_both_widths_resumes_bit_for_bit(
    tiny_dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    wide = ["0", "1", "2", "3", "4+"]
    train(config(epochs=1, counts=wide), _place(tiny_dataset, tmp_path / "wide"), progress=Silent())
    wanted = config(epochs=1, supervise=wide, mixup__alpha=0.4)
    place = _place(tiny_dataset, tmp_path / "whole", teachers=(tmp_path / "wide", teacher))
    train(wanted, place, progress=Silent())
    place = replace(place, out=tmp_path / "cut", resume=True, checkpoint_s=math.inf)
    stop = iter([False] * 3 + [True]).__next__
    with pytest.raises(StopRequestedError):
        train(wanted, place, progress=Silent(), stop=stop)
    train(wanted, place, progress=Silent())
    whole, cut = _weights(tmp_path / "whole"), _weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_teachers_know_nothing_of_a_blend_with_a_class_that_is_not_theirs(teacher: Path) -> None:
    wanted = config(supervise=["0", "1", "2", "3", "4+"])
    teachers = Teachers([teacher], wanted, preprocessing_of(wanted.model), "cpu")
    own, partners = torch.tensor([1, 1, 0, 4]), torch.tensor([3, 4, 2, 0])
    losses = teachers.loss(torch.randn(4, 5), torch.rand(4, 3, 32, 32), own, partners)
    assert (losses > 0).tolist() == [True, False, False, False]


def test_train_teacher_that_saw_what_the_student_is_judged_on_is_refused(
    tiny_dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    make_ensemble([teacher, teacher], tmp_path / "both")
    swapped = config(train_split="val", eval_split="train")
    for folder in (teacher, tmp_path / "both"):
        place = _place(tiny_dataset, tmp_path / "run", teachers=(folder,))
        with pytest.raises(ConfigError, match=r"learned from photos that the student is judged on.*train.*--fold"):
            train(swapped, place, progress=Silent())
    assert not (tmp_path / "run").exists()
    Teachers([teacher], swapped, preprocessing_of(swapped.model), "cpu", "0" * 64)  # another dataset's splits


def test_train_teacher_of_other_classes_is_refused(tiny_dataset: Path, teacher: Path, tmp_path: Path) -> None:
    place = _place(tiny_dataset, tmp_path / "run", teachers=(teacher,))
    with pytest.raises(ConfigError, match="other classes"):
        train(config(counts=["0", "1", "2"]), place, progress=Silent())


def test_train_patience_ends_a_run_that_gets_no_better_and_resume_respects_it(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.loop.learning_rate", lambda *_: 1e-12)
    wanted = config(epochs=20, patience=1, ema=0.0, optimizer__name="sgd", select="best")
    figures = train(wanted, _place(tiny_dataset, tmp_path / "run"), progress=Silent())
    epochs = list(read_stream(tmp_path / "run" / "metrics.jsonl", "epoch"))
    assert len(epochs) < 20
    assert figures["epoch"] == 1 + int(np.argmin([record["rmse_posterior_mean"] for record in epochs]))
    train(wanted, _place(tiny_dataset, tmp_path / "run", resume=True), progress=Silent())
    assert len(list(read_stream(tmp_path / "run" / "metrics.jsonl", "epoch"))) == len(epochs)


def test_train_stop_on_rules_ends_where_a_rule_says_stop(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train.finding import Finding

    monkeypatch.setattr("train.loop.check_stream", lambda _: [Finding("overtraining", 1, "stop", "as told")])
    train(config(epochs=5, stop_on_rules=True), _place(tiny_dataset, tmp_path / "run"), progress=Silent())
    assert len(list(read_stream(tmp_path / "run" / "metrics.jsonl", "epoch"))) == 1


def test_train_from_shards_in_memory_or_not_gives_the_same_weights(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 60, counts=(1, 2, 3))
    shards = write_shards(Dataset.open(dataset), tmp_path / "shards", ShardOptions(size=32, encoding="raw", workers=1))
    wanted = config(epochs=1)
    ways: dict[str, dict[str, Any]] = {
        "files": {},
        "ram": {"shards": shards},
        "disk": {"shards": shards, "memory_bytes": 0},
    }
    for name, changes in ways.items():
        train(wanted, _place(dataset, tmp_path / name, **changes), progress=Silent())
    files, ram, disk = (_weights(tmp_path / name) for name in ("files", "ram", "disk"))
    # Raw shards hold the very pixels.
    assert all(torch.equal(files[name], ram[name]) and torch.equal(files[name], disk[name]) for name in files)
    assert load_run(tmp_path / "ram").config.shards_sha256 is not None


def test_train_from_shards_of_another_dataset_is_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    other = Dataset.open(make_dataset(tmp_path, 40))
    shards = write_shards(other, tmp_path / "shards", ShardOptions(size=32, workers=1))
    with pytest.raises(InputError, match="another dataset"):
        train(config(), _place(tiny_dataset, tmp_path / "run", shards=shards), progress=Silent())


def test_train_out_of_memory_is_one_message_and_keeps_the_checkpoint(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))

    def full(*_: object) -> float:
        if next(calls) == 4:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"
            )
        return 0.01

    monkeypatch.setattr("train.loop.learning_rate", full)
    with pytest.raises(OutOfMemoryError, match=r"not enough memory.*batch_size"):
        train(config(), _place(tiny_dataset, tmp_path / "run", checkpoint_s=0.0), progress=Silent())
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["position"]["step"] == 4


def test_train_that_is_refused_leaves_the_run_it_would_overwrite_alone(teacher: Path, tiny_dataset: Path) -> None:
    place = _place(tiny_dataset, teacher, overwrite=True)
    for wanted, message in (
        (config(model__name="mobilenet_v9"), "mobilenet_v2"),
        (config(counts=["8", "9"]), "no photos of 8, 9 items"),
    ):
        before = {path.name: path.read_bytes() for path in teacher.iterdir()}
        with pytest.raises((ConfigError, InputError), match=message):
            train(wanted, place, progress=Silent())
        assert {path.name: path.read_bytes() for path in teacher.iterdir()} == before


def test_load_shares_tell_where_the_time_went() -> None:
    before = cpu_ticks("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3")
    now = cpu_ticks("cpu  160 0 70 810 60 0 0 0 0 0\n")
    assert shares(before, now) == {"cpu": 80.0, "io_wait": 10.0}


def test_train_size_that_the_network_does_not_take_leaves_the_earlier_run(tiny_dataset: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "run" / "config.json"
    earlier.parent.mkdir()
    earlier.write_text("{}")
    place = _place(tiny_dataset, tmp_path / "run", overwrite=True)
    with pytest.raises(ConfigError, match="alexnet does not take photos of 32 x 32"):
        train(config(model__name="alexnet", model__options={}), place, progress=Silent())
    assert earlier.read_text() == "{}"
