"""A training from dataset to result, in this process."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from bundle.errors import ConfigError, InputError
from tests.train.tiny import config, make_dataset
from train import checkpoint
from train.config import digest_of
from train.data.manifest import Dataset
from train.evaluate import Question, evaluate
from train.job import train
from train.photos import select_photos
from train.place import Place
from train.progress import Silent
from train.run import load_run
from train.stream import read_stream

if TYPE_CHECKING:
    from pathlib import Path


class _PulledPlug(BaseException):
    """Stands for a power cut: nothing in the loop may catch it."""


class _PlugAt(Silent):
    """Pulls the plug when the run has done that many updates in this process."""

    def __init__(self, updates: int) -> None:
        self._left = updates

    def stage(self, name: str, total: int) -> None:
        self._training = name == "training"
        del total

    def done(self, units: int, note: str = "") -> None:
        del units, note
        if self._training:
            self._left -= 1
            if self._left < 0:
                raise _PulledPlug


def _place(dataset: Path, out: Path, **changes: Any) -> Place:  # noqa: ANN401 - fields of Place
    return Place(**{"dataset": dataset, "out": out, "device": "cpu", "threads": 1, **changes})


def _weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(run / "model.pt", weights_only=True)
    return found


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_train_learns_to_count_squares(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 400, counts=(1, 2, 3))
    figures = train(config(epochs=8, batch_size=16), _place(dataset, tmp_path / "run"), progress=Silent())
    assert figures["accuracy"] > 0.8
    assert figures["accuracy_ci"][0] > 0.5


def test_train_reads_the_training_split_and_nothing_else(tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(tiny_dataset)
    judged = dataset.select(split="val")
    assert not set(dataset.groups[judged]) & set(dataset.groups[dataset.select(split="train")])
    # A dataset whose held-out photos have all been swapped for noise trains to the very same weights.
    train(config(epochs=1), _place(tiny_dataset, tmp_path / "a"), progress=Silent())
    twin = make_dataset(tmp_path / "twin")
    for row in Dataset.open(twin).select(split="val"):
        Dataset.open(twin).path_of(row).write_bytes(dataset.path_of(judged[0]).read_bytes())
    train(config(epochs=1), _place(twin, tmp_path / "b"), progress=Silent())
    assert _same(_weights(tmp_path / "a"), _weights(tmp_path / "b"))


def test_train_wider_supervision_ends_with_the_count_classes(tiny_dataset: Path, tmp_path: Path) -> None:
    wide = config(supervise=["0", "1", "2", "3", "4+"])
    figures = train(wide, _place(tiny_dataset, tmp_path / "run"), progress=Silent())
    run = load_run(tmp_path / "run")
    assert run.classes == ("1", "2", "3")
    with torch.inference_mode():
        assert run.module(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    again = evaluate(tmp_path / "run", Question(Dataset.open(tiny_dataset), "val"), progress=Silent())
    assert again is not None
    assert {name: again[name] for name in figures if name != "epoch"} == {
        name: (tuple(value) if name.endswith("_ci") else value) for name, value in figures.items() if name != "epoch"
    }


def test_train_same_seed_same_weights_for_any_number_of_workers(tiny_dataset: Path, tmp_path: Path) -> None:
    for workers in (0, 1, 3):
        place = _place(tiny_dataset, tmp_path / str(workers), workers=workers)
        train(config(), place, progress=Silent())
    assert _same(_weights(tmp_path / "0"), _weights(tmp_path / "1"))
    assert _same(_weights(tmp_path / "0"), _weights(tmp_path / "3"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulate": 3, "select": "best"},
        {"optimizer__name": "sgd", "stages": [{"epoch": 0, "size": 32}, {"epoch": 1, "size": 32}]},
    ],
)
def test_train_plug_pulled_again_and_again_ends_bit_for_bit_the_same(
    tiny_dataset: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    wanted = config(**changes)
    train(wanted, _place(tiny_dataset, tmp_path / "whole"), progress=Silent())
    rng, cuts = np.random.default_rng(11), 0
    while True:
        place = _place(
            tiny_dataset,
            tmp_path / "cut",
            resume=True,
            workers=int(rng.integers(0, 3)),
            # A checkpoint after every update, or at the ends of epochs alone.
            checkpoint_s=0.0 if rng.random() < 0.8 else math.inf,
        )
        try:
            train(wanted, place, progress=_PlugAt(int(rng.integers(1, 5))))
            break
        except _PulledPlug:
            cuts += 1
            assert cuts < 100
    assert cuts >= 2
    assert _same(_weights(tmp_path / "whole"), _weights(tmp_path / "cut"))
    lines = [
        [
            (record["kind"], record["step"], record.get("loss"), record.get("blocks"))
            for record in read_stream(tmp_path / name / "metrics.jsonl")
            if record["kind"] != "system"  # how busy the machine was: sampled by the clock
        ]
        for name in ("whole", "cut")
    ]
    assert lines[0] == lines[1]


def test_train_resume_of_a_finished_run_changes_nothing(tiny_dataset: Path, tmp_path: Path) -> None:
    first = train(config(), _place(tiny_dataset, tmp_path / "run"), progress=Silent())
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    second = train(config(), _place(tiny_dataset, tmp_path / "run", resume=True), progress=Silent())
    assert first == second
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_train_stop_request_leaves_a_checkpoint_to_resume_from(tiny_dataset: Path, tmp_path: Path) -> None:
    from train.loop import StopRequestedError

    asked = iter([False, False, True])
    place = _place(tiny_dataset, tmp_path / "run", checkpoint_s=math.inf)
    with pytest.raises(StopRequestedError):
        train(config(), place, progress=Silent(), stop=lambda: next(asked))
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["position"]["step"] == 3


def test_train_frozen_backbone_keeps_every_weight_and_statistic(tiny_dataset: Path, tmp_path: Path) -> None:
    from train.model import build_model

    frozen = config(model__frozen=True, ema=0.0)
    train(frozen, _place(tiny_dataset, tmp_path / "run"), progress=Silent())
    torch.manual_seed(frozen.seed)
    before = build_model(frozen.model, frozen.counts).state_dict()
    after = _weights(tmp_path / "run")
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    assert changed == ["classifier.1.weight", "classifier.1.bias"]


def test_train_folder_that_holds_a_run_is_not_overwritten(tiny_dataset: Path, tmp_path: Path) -> None:
    train(config(), _place(tiny_dataset, tmp_path / "run"), progress=Silent())
    with pytest.raises(ConfigError, match=r"already holds a run.*--resume"):
        train(config(), _place(tiny_dataset, tmp_path / "run"), progress=Silent())
    train(config(seed=1), _place(tiny_dataset, tmp_path / "run", overwrite=True), progress=Silent())
    assert load_run(tmp_path / "run").config.seed == 1


def test_train_checkpoint_of_another_config_names_the_difference(tiny_dataset: Path, tmp_path: Path) -> None:
    train(config(), _place(tiny_dataset, tmp_path / "run"), progress=Silent())
    with pytest.raises(ConfigError, match=r"optimizer\.lr was 0\.01 and is 0\.02"):
        train(config(optimizer__lr=0.02), _place(tiny_dataset, tmp_path / "run", resume=True), progress=Silent())


def test_train_checkpoint_of_another_dataset_is_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    other = make_dataset(tmp_path, 90)
    train(config(), _place(tiny_dataset, tmp_path / "run"), progress=Silent())
    with pytest.raises(ConfigError, match="another dataset"):
        train(config(), _place(other, tmp_path / "run", resume=True), progress=Silent())


def test_checkpoint_load_of_another_config_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"step": 1}, config_sha256="a" * 64, dataset_sha256="b" * 64)
    with pytest.raises(ConfigError, match="another configuration"):
        checkpoint.load(path, config_sha256="c" * 64, dataset_sha256="b" * 64)


def test_checkpoint_load_torn_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"weights": torch.zeros(1000)}, config_sha256="a" * 64, dataset_sha256="b" * 64)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"checkpoint\.pt is not a checkpoint"):
        checkpoint.load(path, config_sha256="a" * 64, dataset_sha256="b" * 64)


def test_checkpoint_save_full_disk_keeps_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    hashes = {"config_sha256": "a" * 64, "dataset_sha256": "b" * 64}
    checkpoint.save(path, {"step": 1}, **hashes)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"No space left on device.*intact"):
        checkpoint.save(path, {"step": 2}, **hashes)
    assert checkpoint.load(path, **hashes)["step"] == 1
    assert [child.name for child in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("checkpoint_s", [0.0, math.inf])
def test_train_that_diverges_stops_and_keeps_the_checkpoint(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_s: float
) -> None:
    updates = 6  # the first epoch has more: 84 photos less those of uncovered counts, by 8
    monkeypatch.setattr(
        "train.loop.learning_rate", lambda step, _total, _config: math.nan if step >= updates + 3 else 0.01
    )
    place = _place(tiny_dataset, tmp_path / "run", checkpoint_s=checkpoint_s)
    with pytest.raises(ConfigError, match=r"not a number any more in epoch 2.*optimizer\.lr"):
        train(config(epochs=3), place, progress=Silent())
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_train_class_without_photos_is_named(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no photos of 5, 6 items"):
        train(config(counts=["3", "4", "5", "6"]), _place(tiny_dataset, tmp_path / "run"), progress=Silent())


def test_train_missing_split_is_named(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no split holdout"):
        train(config(eval_split="holdout"), _place(tiny_dataset, tmp_path / "run"), progress=Silent())


def test_train_weights_file_that_is_missing_is_named(tiny_dataset: Path, tmp_path: Path) -> None:
    place = _place(tiny_dataset, tmp_path / "run", weights=tmp_path / "absent.pth")
    with pytest.raises(InputError, match=r"absent\.pth"):
        train(config(model__weights="file"), place, progress=Silent())
    assert not (tmp_path / "run").exists()


def test_load_run_edited_config_is_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    train(config(), _place(tiny_dataset, tmp_path / "run"), progress=Silent())
    path = tmp_path / "run" / "config.json"
    tree = json.loads(path.read_text())
    tree["config"]["seed"] = 99
    path.write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match="edited"):
        load_run(tmp_path / "run")


def test_load_run_unfinished_run_says_how_to_go_on(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(_PulledPlug):
        train(config(), _place(tiny_dataset, tmp_path / "run"), progress=_PlugAt(2))
    with pytest.raises(InputError, match=r"not finished.*--resume"):
        load_run(tmp_path / "run")


def test_predictions_reproduce_the_figures(tiny_dataset: Path, tmp_path: Path) -> None:
    figures = train(config(), _place(tiny_dataset, tmp_path / "run"), progress=Silent())
    with np.load(tmp_path / "run" / "predictions.npz") as kept:
        answers = kept["logits"].argmax(axis=1) + 1
        assert float((answers == kept["truth"]).mean()) == pytest.approx(figures["accuracy"])
        assert len(set(kept["id"].tolist())) == figures["n"]


def test_run_of_an_older_version_that_knew_fewer_keys_opens_and_resumes(tiny_dataset: Path, tmp_path: Path) -> None:
    place = _place(tiny_dataset, tmp_path / "run")
    train(config(), place, progress=Silent())
    path = tmp_path / "run" / "config.json"
    tree = json.loads(path.read_text())
    del tree["config"]["augment"]["crop"]
    old = digest_of(tree["config"])
    path.write_text(json.dumps(tree | {"config_sha256": old}))
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    torch.save(state | {"config_sha256": old}, tmp_path / "run" / "checkpoint.pt")
    assert load_run(tmp_path / "run").config_sha256 == old
    train(config(), _place(tiny_dataset, tmp_path / "run", resume=True), progress=Silent())


def test_train_undersampled_classes_are_equal(tiny_dataset: Path) -> None:
    chosen = select_photos(Dataset.open(tiny_dataset), "train", ("1", "2", "3"), balance_with=0)
    counts = [photo.count for photo in chosen]
    assert counts.count(1) == counts.count(2) == counts.count(3) > 5
