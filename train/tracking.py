"""Who else hears of a run's records: TensorBoard, MLflow. They are fed from the lines of metrics.jsonl, the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from bundle.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from train.config import TrainConfig

TRACKERS = ("tensorboard", "mlflow")


class Tracker(Protocol):
    """Hears of every record of a run."""

    def resume(self, records: Iterator[dict[str, Any]]) -> None:
        """Hear what of an earlier attempt still holds, before the first record.

        Args:
            records: The lines of metrics.jsonl that were kept.
        """

    def record(self, record: dict[str, Any]) -> None:
        """Take one line of metrics.jsonl.

        Args:
            record: The line.
        """

    def close(self) -> None:
        """Finish: everything heard has been kept."""


def open_trackers(names: Sequence[str], folder: Path, config: TrainConfig) -> list[Tracker]:
    """Open trackers by name.

    Args:
        names: Of `TRACKERS`.
        folder: The run folder.
        config: The run's configuration.

    Returns:
        The trackers.

    Raises:
        ConfigError: Its package is not installed.
    """
    return [_open(name, folder, config) for name in names]


def scalars(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a record that make a curve.

    Args:
        record: A line of metrics.jsonl.

    Yields:
        ("step/loss", value) and so on; norms by block as "probe/norm/BLOCK".
    """
    kind = record["kind"]
    for name, value in record.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name not in ("step", "epoch"):
            yield f"{kind}/{name}", float(value)
    for block, norm in record.get("blocks", {}).items():
        yield f"{kind}/norm/{block}", float(norm)


def _open(name: str, folder: Path, config: TrainConfig) -> Tracker:
    try:
        if name == "tensorboard":
            from train.track_tensorboard import TensorBoard

            return TensorBoard(folder)
        from train.track_mlflow import MLflow

        return MLflow(folder, config)
    except ModuleNotFoundError as exc:
        raise ConfigError(f"--track {name} needs the package {exc.name}", fix=f"pip install '.[{name}]'") from exc
