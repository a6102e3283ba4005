from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from bundle.errors import BintallyError, ConfigError, DeliveryError, InputError
from tests.train.data.bucket_simulator import BucketSimulator
from tests.train.data.sources import pairs_source
from train.data.cli import data
from train.data.manifest import Dataset

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import click


def run(*arguments: object) -> str:
    """Run a verb; errors of bintally come through as they are."""
    result = CliRunner().invoke(data, [str(argument) for argument in arguments], catch_exceptions=True)
    if isinstance(result.exception, BintallyError):
        raise result.exception
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.stdout


def run_json(*arguments: object) -> dict[str, Any]:
    # The last line: runners of older click mix stderr into the output. test_audit_exit_code looks at stdout alone.
    found: dict[str, Any] = json.loads(run(*arguments, "--json").splitlines()[-1])
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pairs_source(tmp_path / "source", bins=60)
    run("import", tmp_path / "source", "--out", tmp_path / "set", "--workers", 1)
    return tmp_path / "set"


def test_import_splits_grouped_and_reports(tmp_path: Path) -> None:
    pairs_source(tmp_path / "source", bins=60)
    found = run_json("import", tmp_path / "source", "--out", tmp_path / "set")
    assert found["photos"] == 120
    assert found["groups"] == 60
    assert found["rejected"] == {}
    assert set(found["splits"]) == {"train", "val", "test"}
    assert found["digest"] == Dataset.open(tmp_path / "set").digest


def test_import_too_small_to_split_stays_unsplit_and_says_so(tmp_path: Path) -> None:
    pairs_source(tmp_path / "source", bins=1)
    result = CliRunner().invoke(data, ["import", str(tmp_path / "source"), "--out", str(tmp_path / "set")])
    assert result.exit_code == 0
    assert "not split" in result.output


def test_split_random_is_refused_and_leaves_the_manifest(folder: Path) -> None:
    before = Dataset.open(folder).digest
    with pytest.raises(InputError, match="leaks"):
        run("split", folder, "--method", "random")
    assert Dataset.open(folder).digest == before


def test_audit_fails_on_a_random_split_and_passes_on_a_grouped_one(folder: Path) -> None:
    assert run_json("audit", folder)["leaks"] == 0
    run("split", folder, "--method", "random", "--allow-leak")
    with pytest.raises(InputError, match="leaks"):
        run("audit", folder)
    assert run_json("split", folder)["audit"]["leaks"] == 0


def test_audit_exit_code_of_the_program_is_65(folder: Path, repository: Path) -> None:
    run("split", folder, "--method", "random", "--allow-leak")
    done = subprocess.run(
        [sys.executable, "-m", "bintally", "data", "audit", str(folder), "--json"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 65
    audit, error = map(json.loads, done.stdout.splitlines())
    assert audit["leaks"] > 0
    assert error["exit_code"] == done.returncode
    assert "leaks" in done.stderr


def test_split_kfold_and_shares(folder: Path) -> None:
    assert set(run_json("split", folder, "--method", "kfold", "--folds", 3)["splits"]) == {"fold0", "fold1", "fold2"}
    found = run_json("split", folder, "--shares", "train=0.5,dev=0.5")
    assert {name: sum(sizes.values()) for name, sizes in found["splits"].items()} == {"train": 60, "dev": 60}
    with pytest.raises(ConfigError, match="--shares"):
        run("split", folder, "--shares", "half")


def test_split_official_leaks_and_needs_both_lists(folder: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(folder)
    entries = [[int(name) - 1, int(count)] for name, count in zip(dataset.ids.to_pylist(), dataset.counts, strict=True)]
    lists = []
    for name, part in (("train", entries[::2]), ("val", entries[1::2])):
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
        lists += [f"--{name}-list", str(tmp_path / f"{name}.json")]
    with pytest.raises(ConfigError, match="--train-list"):
        run("split", folder, "--method", "official")
    with pytest.raises(InputError, match="leaks"):
        run("split", folder, "--method", "official", *lists)
    found = run_json("split", folder, "--method", "official", "--allow-leak", *lists)
    assert found["absent"] == 0
    assert found["audit"]["torn_siblings"] == 60


def test_verify_names_photos_that_changed_or_vanished(folder: Path) -> None:
    assert run_json("verify", folder)["bad"] == []
    dataset = Dataset.open(folder)
    dataset.path_of(0).unlink()
    dataset.path_of(3).write_bytes(dataset.path_of(4).read_bytes())
    with pytest.raises(InputError, match="2 photos"):
        run("verify", folder)
    result = CliRunner().invoke(data, ["verify", str(folder), "--json"])
    kinds = {entry["name"]: entry["kind"] for entry in json.loads(result.stdout)["bad"]}
    assert kinds == {"bin-images/00001.jpg": "photo_unreadable", "bin-images/00005.jpg": "photo_changed"}


def test_diff_names_what_changed(folder: Path, tmp_path: Path) -> None:
    assert run_json("diff", folder, folder)["same"] is True
    source = tmp_path / "source"
    (source / "bin-images" / "00001.jpg").unlink()
    (source / "metadata" / "00002.json").write_text('{"BIN_FCSKU_DATA": {}, "EXPECTED_QUANTITY": 7}')
    (source / "bin-images" / "00004.jpg").rename(source / "bin-images" / "00900.jpg")
    (source / "metadata" / "00004.json").rename(source / "metadata" / "00900.json")
    run("import", source, "--out", tmp_path / "newer", "--no-split")
    found = run_json("diff", folder, tmp_path / "newer")
    assert found["removed"] == ["00001", "00004"]
    assert found["added"] == ["00900"]
    assert found["changed"]["count"] == found["changed"]["asins"] == ["00002"]
    assert found["changed"]["sha256"] == []
    assert len(found["changed"]["split"]) == 118


def test_balance_writes_a_sampling(folder: Path) -> None:
    found = run_json("balance", folder, "--method", "oversample", "--counts", "1-6", "--top", 4)
    assert len(set(found["after"].values())) == 1
    assert list(found["before"]) == ["1", "2", "3", "4+"]
    assert "weight" in run("balance", folder)


def test_balance_fetch_brings_more_of_the_rare_classes_and_none_twice(tmp_path: Path) -> None:
    source = pairs_source(tmp_path / "all", bins=60)
    few = pairs_source(tmp_path / "few", bins=10)
    run("import", few.folder, "--out", tmp_path / "set", "--no-split")
    with BucketSimulator(source.objects()) as server:
        where = ["--endpoint", server.url, "--bucket", server.bucket, "--connections", 4]
        options = ["--method", "fetch", "--per-class", 6, "--counts", "1-2", "--into", tmp_path / "few"]
        found = run_json("balance", tmp_path / "set", *options, *where)
        assert found["by_count"] == {"1": 4, "2": 2}
        assert not {f"bin-images/{name}.jpg" for name in few.photos} & set(server.asked)
    again = run_json("import", tmp_path / "few", "--out", tmp_path / "set", "--overwrite", "--no-split")
    assert (again["classes"]["1"], again["classes"]["2"]) == (6, 6)
    with pytest.raises(ConfigError, match="--into"):
        run("balance", tmp_path / "set", "--method", "fetch")


def test_download_reports_what_is_missing_with_exit_code_75(tmp_path: Path) -> None:
    source = pairs_source(tmp_path / "source", bins=3)
    (tmp_path / "list.json").write_text(json.dumps({"1": ["x/00001.json"], "2": ["x/00002.json", "x/00077.json"]}))
    with BucketSimulator(source.objects()) as server:
        where = ["--endpoint", server.url, "--bucket", server.bucket]
        with pytest.raises(DeliveryError, match="1 photos are missing") as caught:
            run("download", tmp_path / "out", "--file-list", tmp_path / "list.json", *where)
        assert caught.value.exit_code == 75
        found = run_json("download", tmp_path / "out2", "--counts", "1-2", "--per-class", 1, *where)
        assert found["by_count"] == {"1": 1, "2": 1}
        excluded = ["--exclude", tmp_path / "set"]
        run("import", source.folder, "--out", tmp_path / "set", "--no-split")
        assert run_json("download", tmp_path / "out3", *excluded, *where)["photos"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--per-class", "3"], "--counts"),
        (["--ids", "a", "--file-list", "b"], "exclude each other"),
        (["--counts", "many"], "range of counts"),
    ],
)
def test_download_contradicting_options_are_refused(tmp_path: Path, arguments: Sequence[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run("download", tmp_path / "out", *arguments)


def test_report_and_shards_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    found = run_json("report", folder)
    assert (folder / "report.html").stat().st_size > 10_000
    assert found["siblings"] == 60
    packed = run_json("shards", folder, "--out", tmp_path / "packed", "--size", 32, "--workers", 1)
    assert packed["tars"] == 3
    assert "120 photos in 60 groups" in run("info", folder)


def _commands(group: click.Group, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [(*prefix, name) for name in group.commands]


@pytest.mark.parametrize("path", _commands(data))
def test_every_verb_explains_itself_with_an_example_and_has_json(path: tuple[str, ...]) -> None:
    text = run(*path, "--help")
    assert "bintally data" in text.split("Example", 1)[1]
    assert "--json" in text


def test_data_verbs_never_import_torch(folder: Path, repository: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
import bintally
for verb in (["info"], ["split"], ["audit"], ["report"]):
    bintally.cli(["data", *verb, {str(folder)!r}], standalone_mode=False)
import train.data.loader
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
