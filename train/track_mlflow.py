"""MLflow: one run per run folder, on the server that MLFLOW_TRACKING_URI names.

The run's id is kept in RUN/mlflow.json, so a resumed training goes on with it.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from bundle import durable
from train.tracking import scalars

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from train.config import TrainConfig

_ID_NAME = "mlflow.json"
_EXPERIMENT = "bintally"
_BATCH = 500


class MLflow:
    """Logs to a tracking server.

    Args:
        folder: The run folder.
        config: Logged as parameters.
    """

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self._client = MlflowClient()
        self._waiting: list[Metric] = []
        path = folder / _ID_NAME
        if path.is_file():
            self._run_id = str(json.loads(path.read_text(encoding="utf-8"))["run_id"])
            return
        known = self._client.get_experiment_by_name(_EXPERIMENT)
        experiment = known.experiment_id if known else self._client.create_experiment(_EXPERIMENT)
        self._run_id = self._client.create_run(experiment, run_name=folder.resolve().name).info.run_id
        params = [Param(name, str(value)) for name, value in _flat(config.model_dump(mode="json"))]
        self._client.log_batch(self._run_id, params=params)
        durable.write_json(path, {"run_id": self._run_id})

    def resume(self, records: Iterator[dict[str, Any]]) -> None:
        """Nothing to tell again: the server keeps what it heard.

        Args:
            records: The lines of metrics.jsonl that were kept.
        """

    def record(self, record: dict[str, Any]) -> None:
        """Take one line of metrics.jsonl.

        Args:
            record: The line.
        """
        now = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, record["step"]) for name, value in scalars(record)]
        if len(self._waiting) >= _BATCH or record["kind"] == "epoch":
            self._send()

    def close(self) -> None:
        """Send what is left."""
        self._send()

    def _send(self) -> None:
        while self._waiting:
            part, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            self._client.log_batch(self._run_id, metrics=part)


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in tree.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return found
