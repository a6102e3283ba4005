"""Several runs as one run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bundle.errors import BintallyError, ConfigError, InputError
from tests.train.tiny import config
from train.answers import read_answers
from train.cli_ensemble import ensemble
from train.data.manifest import Dataset
from train.ensemble import make_ensemble
from train.evaluate import Question, evaluate
from train.job import train
from train.place import Place
from train.progress import Silent
from train.run import CONFIG_NAME, PREDICTIONS_NAME, load_run

if TYPE_CHECKING:
    from pathlib import Path

WIDE = ["0", "1", "2", "3", "4+"]


@pytest.fixture(scope="module")
def members(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("members")
    wanted = {"narrow": config(epochs=1), "wide": config(epochs=1, counts=WIDE, seed=5)}
    for name, chosen in wanted.items():
        train(chosen, Place(dataset=tiny_dataset, out=folder / name, device="cpu", threads=1), progress=Silent())
    return folder / "narrow", folder / "wide"


def test_ensemble_is_a_run_that_answers_with_the_mean_on_the_classes_of_all(
    tiny_dataset: Path, members: tuple[Path, Path], tmp_path: Path
) -> None:
    both = tmp_path / "both"
    figures = make_ensemble(members, both)
    run, narrow, wide = (load_run(folder) for folder in (both, *members))
    images = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        expected = (narrow.module(images) + wide.module(images)[:, 1:4]) / 2
        torch.testing.assert_close(run.module(images), expected)
    assert run.classes == narrow.classes == ("1", "2", "3")
    assert run.initial_weights.startswith("2 networks")
    assert (run.network, narrow.network) == ("2 x mobilenet_v2", "mobilenet_v2")
    kept = [read_answers(folder / PREDICTIONS_NAME, c).narrowed(run.classes) for folder, c in
            ((both, run.classes), (members[0], narrow.classes), (members[1], wide.classes))]  # fmt: skip
    np.testing.assert_allclose(kept[0].logits, (kept[1].logits + kept[2].logits) / 2, rtol=1e-6)
    again = evaluate(both, Question(Dataset.open(tiny_dataset)), progress=Silent())
    assert again is not None
    assert again["accuracy"] == figures["accuracy"]
    assert again["n"] == figures["n"] == len(kept[0].ids)


def test_ensemble_command_prints_its_figures(members: tuple[Path, Path], tmp_path: Path) -> None:
    said = CliRunner().invoke(
        ensemble, [*map(str, members), "--out", str(tmp_path / "both"), "--counts", "1-2", "--json"]
    )
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["classes"] == ["1", "2"]


def test_ensemble_teaches(tiny_dataset: Path, members: tuple[Path, Path], tmp_path: Path) -> None:
    make_ensemble(members, tmp_path / "both")
    place = Place(
        dataset=tiny_dataset, out=tmp_path / "student", device="cpu", threads=1, teachers=(tmp_path / "both",)
    )
    assert train(config(epochs=1), place, progress=Silent())["n"] > 0


def test_ensemble_of_runs_that_were_judged_on_other_photos_is_refused(
    tiny_dataset: Path, members: tuple[Path, Path], tmp_path: Path
) -> None:
    swapped = tmp_path / "swapped"
    place = Place(dataset=tiny_dataset, out=swapped, device="cpu", threads=1)
    train(config(epochs=1, train_split="val", eval_split="train"), place, progress=Silent())
    with pytest.raises(InputError, match="do not belong into one ensemble"):
        make_ensemble([members[0], swapped], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_ensemble_is_refused_before_anything_is_written(members: tuple[Path, Path], tmp_path: Path) -> None:
    out, nested = tmp_path / "both", tmp_path / "nested"
    make_ensemble(members, nested)
    cases: list[tuple[list[Path], tuple[str, ...] | None, str]] = [
        ([members[0]], None, "at least two"),
        ([*members], ("1", "2", "3", "4"), "count classes"),
        ([members[0], tmp_path], None, "not a run folder"),
        ([nested, members[0]], None, "Name its members instead"),
        ([members[0], nested], None, "Name its members instead"),
    ]
    for folders, counts, message in cases:
        with pytest.raises(BintallyError, match=message):
            make_ensemble(folders, out, counts=counts)
        assert not out.exists()
    out.mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        make_ensemble(members, out)


def test_ensemble_whose_members_were_edited_is_refused(members: tuple[Path, Path], tmp_path: Path) -> None:
    both = tmp_path / "both"
    make_ensemble(members, both)
    tree = json.loads((both / CONFIG_NAME).read_text())
    tree["members"][1]["model"]["options"]["width_mult"] = 0.2
    (both / CONFIG_NAME).write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match="was edited"):
        load_run(both)
