"""TensorBoard and MLflow hear what metrics.jsonl holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from bundle.errors import ConfigError
from tests.train.tiny import config
from train.stream import MetricStream
from train.tracking import open_trackers, scalars

if TYPE_CHECKING:
    from pathlib import Path

STEP: dict[str, Any] = {"kind": "step", "epoch": 0, "step": 10, "loss": 1.5, "lr": 0.1}
EPOCH: dict[str, Any] = {"kind": "epoch", "epoch": 0, "step": 12, "accuracy": 0.4, "probe_loss": None}


def _run(folder: Path, name: str) -> None:
    """A run that was interrupted after its first step, and resumed."""
    with_tracker = open_trackers([name], folder, config())
    stream = MetricStream(folder / "metrics.jsonl", trackers=with_tracker)
    stream.append(STEP)
    kept = stream.flush()
    stream.append(STEP | {"step": 11, "loss": 9.0})
    stream.close()
    for tracker in with_tracker:
        tracker.close()
    with_tracker = open_trackers([name], folder, config())
    stream = MetricStream(folder / "metrics.jsonl", keep_bytes=kept, trackers=with_tracker)
    stream.append(EPOCH)
    stream.close()
    for tracker in with_tracker:
        tracker.close()


def test_scalars_are_the_numbers_of_a_record() -> None:
    assert dict(scalars(EPOCH)) == {"epoch/accuracy": 0.4}
    assert dict(scalars({"kind": "probe", "step": 1, "blocks": {"fc": 2.0}})) == {"probe/norm/fc": 2.0}


def test_tensorboard_shows_every_record(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _run(tmp_path, "tensorboard")
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {(event.step, event.value) for event in events.Scalars("step/loss")} == {(10, 1.5)}
    assert events.Scalars("epoch/accuracy")[0].value == pytest.approx(0.4)


def test_mlflow_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'server'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    _run(tmp_path, "mlflow")
    run_id = json.loads((tmp_path / "mlflow.json").read_text())["run_id"]
    (metrics,) = (tmp_path / "server").glob(f"*/{run_id}/metrics")
    assert (metrics / "epoch" / "accuracy").read_text().split()[1:] == ["0.4", "12"]
    assert len((metrics / "step" / "loss").read_text().splitlines()) == 2
    (params,) = (tmp_path / "server").glob(f"*/{run_id}/params")
    assert (params / "model.name").read_text() == "mobilenet_v2"


def test_tracker_without_its_package_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    monkeypatch.delitem(__import__("sys").modules, "train.track_mlflow", raising=False)
    with pytest.raises(ConfigError, match=r"\.\[mlflow\]"):
        open_trackers(["mlflow"], tmp_path, config())
