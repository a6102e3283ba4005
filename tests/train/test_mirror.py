"""A run's twin in a bucket: a fresh machine goes on as if it were the old one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from bundle.errors import ConfigError, DeliveryError
from tests.simulators.object_store import MotoStore
from tests.train.tiny import config
from train.job import train
from train.loop import StopRequestedError
from train.mirror import RESULT, RESUMED_FROM, Mirror
from train.place import Place
from train.progress import Silent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[MotoStore]:
    with MotoStore() as simulator:
        monkeypatch.setenv("AWS_ENDPOINT_URL", simulator.url)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        yield simulator


def _place(dataset: Path, out: Path, mirror: str | None, **changes: Any) -> Place:  # noqa: ANN401 - fields of Place
    return Place(dataset=dataset, out=out, device="cpu", threads=1, mirror=mirror, **{"resume": True, **changes})


def test_train_on_a_fresh_machine_goes_on_from_the_mirror(store: MotoStore, tiny_dataset: Path, tmp_path: Path) -> None:
    url = f"s3://{store.bucket}/runs/first"
    train(config(), _place(tiny_dataset, tmp_path / "whole", None), progress=Silent())
    asked = iter([False] * 4 + [True])
    with pytest.raises(StopRequestedError):
        train(
            config(),
            _place(tiny_dataset, tmp_path / "old", url, checkpoint_s=math.inf),
            progress=Silent(),
            stop=lambda: next(asked),
        )
    lines: list[str] = []

    class Listening(Silent):
        def line(self, text: str) -> None:
            lines.append(text)

    train(config(), _place(tiny_dataset, tmp_path / "new", url), progress=Listening())
    assert any("step 5" in line for line in lines)
    whole, new = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "new"))
    assert all(torch.equal(whole[name], new[name]) for name in whole)
    keys = set(store.keys())
    assert {f"runs/first/{name}" for name in ("checkpoint.pt", "config.json", "model.pt", "report.html")} <= keys


def test_train_without_resume_leaves_another_run_in_the_mirror_alone(
    store: MotoStore, tiny_dataset: Path, tmp_path: Path
) -> None:
    url = f"s3://{store.bucket}/runs/first"
    _push_run(tmp_path / "old", url)
    with pytest.raises(ConfigError, match=r"s3://.* already holds a run"):
        train(config(), _place(tiny_dataset, tmp_path / "new", url, resume=False), progress=Silent())
    assert not (tmp_path / "new").exists()
    assert Mirror(url, tmp_path / "again").fetch()
    assert (tmp_path / "again" / "checkpoint.pt").read_bytes() == b"checkpoint.pt"


def test_train_with_overwrite_leaves_nothing_of_the_old_run_in_the_mirror(
    store: MotoStore, tiny_dataset: Path, tmp_path: Path
) -> None:
    url = f"s3://{store.bucket}/runs/first"
    _push_run(tmp_path / "old", url)
    place = _place(tiny_dataset, tmp_path / "new", url, resume=False, overwrite=True)
    with pytest.raises(StopRequestedError):
        train(config(), replace(place, checkpoint_s=math.inf), progress=Silent(), stop=lambda: True)
    assert set(store.keys()) == {f"runs/first/{name}" for name in ("config.json", "metrics.jsonl", "checkpoint.pt")}
    Mirror(url, tmp_path / "again").fetch()
    assert (tmp_path / "again" / "checkpoint.pt").read_bytes() != b"checkpoint.pt"


def test_mirror_clear_deletes_the_checkpoint_first(
    store: MotoStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://{store.bucket}/runs/first"
    _push_run(tmp_path / "old", url)
    mirror = Mirror(url, tmp_path / "old")
    deleted: list[str] = []
    monkeypatch.setattr(mirror._client, "delete_object", lambda *, Key, **_: deleted.append(Key))  # noqa: N803
    mirror.clear()
    assert deleted[0] == "runs/first/checkpoint.pt"


def _push_run(folder: Path, url: str) -> None:
    folder.mkdir()
    for name in (*RESUMED_FROM, *RESULT):
        (folder / name).write_bytes(name.encode())
    Mirror(url, folder).push((*RESUMED_FROM, *RESULT))


def test_mirror_that_is_gone_does_not_end_the_training(
    store: MotoStore, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[str] = []

    def refuse(_mirror: Mirror, names: Any) -> None:  # noqa: ANN401 - as the mirror takes them
        pushed.extend(names)
        if "checkpoint.pt" in names:
            raise DeliveryError("cannot write s3://gone/checkpoint.pt")

    monkeypatch.setattr(Mirror, "push", refuse)
    url = f"s3://{store.bucket}/x"
    train(config(epochs=1), _place(tiny_dataset, tmp_path / "run", url), progress=Silent())
    assert "model.pt" in pushed


def test_mirror_of_a_bucket_that_refuses_says_which(store: MotoStore, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DeliveryError, match=r"s3://nowhere/config\.json"):
        Mirror("s3://nowhere", tmp_path).push(["config.json"])
    assert not Mirror(f"s3://{store.bucket}/empty", tmp_path).fetch()


def test_mirror_that_is_no_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="s3://BUCKET/PREFIX"):
        Mirror("folder/bucket", tmp_path)
