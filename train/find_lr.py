"""Which learning rate: a short training whose rate climbs from tiny to huge, and the loss it meets on the way.

After Smith (2017): the suggestion is where the smoothed loss falls steepest over the logarithm of the rate. Nothing of
it is kept but the picture; `bintally train` starts from fresh weights.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle import durable
from bundle.errors import ConfigError, InputError
from train.batches import Reading, training_batches
from train.data.charts import Frame
from train.data.manifest import Dataset
from train.data.page import document
from train.job import load_split, open_teachers, start_learner
from train.loop import set_training
from train.photos import select_photos
from train.place import with_hashes
from train.ranks import Ranks
from train.report_charts import curves
from train.saver import DivergedError
from train.step import Stepper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from train.batches import Batch
    from train.config import TrainConfig
    from train.photos import PhotoSet
    from train.place import Place
    from train.progress import Progress

PICTURE_NAME = "find-lr.html"
_LOWEST, _HIGHEST = 1e-6, 1.0
_KEEP = 0.9
_TOO_HIGH = 3.0
_FEWEST = 10


def find_lr(config: TrainConfig, place: Place, *, progress: Progress, steps: int = 100) -> dict[str, Any]:
    """Try rates, and suggest one.

    Args:
        config: As for a training; its own rate and schedule are not used.
        place: As for a training; the picture goes into `place.out`.
        progress: Where to report.
        steps: Updates between the lowest and the highest rate.

    Returns:
        "suggested", "falls_from", "rises_from" (rates), "rates" and "losses" as tried, and "picture", its path.

    Raises:
        ConfigError: The loss never fell.
        InputError: Dataset, weights or a photo cannot be used, or the picture cannot be written.
    """
    config = with_hashes(config, place)
    dataset = Dataset.open(place.dataset)
    photos = load_split(select_photos(dataset, config.train_split, config.learned), config, place, dataset, progress)
    learner = start_learner(config, place)
    single = config.model_copy(update={"accumulate": 1})
    stepper = Stepper(learner, single, Ranks(), teachers=open_teachers(config, place, dataset.digest))
    set_training(learner.model, frozen=config.model.frozen)
    progress.stage("trying rates", steps)
    rates, losses = [], []
    for index, batch in enumerate(itertools.islice(_endless(photos, config, place), steps)):
        learner.position.batch = index  # or mixup and dropout would draw the same every time
        rate = _LOWEST * (_HIGHEST / _LOWEST) ** (index / max(1, steps - 1))
        try:
            stepper.backward(batch)
            loss = stepper.update(rate)[0]["loss"]
        except DivergedError:
            break
        rates.append(rate)
        losses.append(loss)
        progress.done(index + 1, f"rate {rate:.2g}, loss {loss:.3f}")
        if loss > _TOO_HIGH * min(losses):
            break
    found = suggest(np.array(rates), np.array(losses))
    return found | {"rates": rates, "losses": losses, "picture": str(_draw(place, found, rates, losses))}


def suggest(rates: NDArray[np.float64], losses: NDArray[np.float64]) -> dict[str, float]:
    """Read a suggestion from tried rates.

    Args:
        rates: float64 (N,), ascending.
        losses: float64 (N,), the loss met at each.

    Returns:
        "suggested": where the smoothed loss falls steepest; "falls_from" and "rises_from": where it has left its start
        by a tenth of its whole fall, and its lowest point.

    Raises:
        ConfigError: Too few rates, or the loss never fell.
    """
    if len(rates) < _FEWEST:
        raise ConfigError("the loss left the numbers at once", got=f"{len(rates)} steps", fix="Lower --batch-size?")
    smooth = smoothed(losses)
    lowest = int(np.argmin(smooth))
    fall = float(smooth[0] - smooth[lowest])
    if lowest < 2 or fall <= 0:  # noqa: PLR2004 - a slope needs three points
        raise ConfigError("the loss never fell", got=f"{smooth[0]:.3f} to {smooth.min():.3f}", fix="Check the labels.")
    slope = np.gradient(smooth[: lowest + 1], np.log(rates[: lowest + 1]))
    started = int(np.argmax(smooth[: lowest + 1] < smooth[0] - fall / 10))
    names = ("suggested", "falls_from", "rises_from")
    at = (int(np.argmin(slope)), started, lowest)
    return {name: float(rates[index]) for name, index in zip(names, at, strict=True)}


def smoothed(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Moving average without a late start.

    Args:
        losses: float64 (N,).

    Returns:
        float64 (N,).
    """
    mean, found = 0.0, []
    for index, loss in enumerate(losses.tolist(), start=1):
        mean = _KEEP * mean + (1 - _KEEP) * loss
        found.append(mean / (1 - _KEEP**index))
    return np.array(found)


def _endless(photos: PhotoSet, config: TrainConfig, place: Place) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from training_batches(photos, config, Reading(epoch, 0, config.size_at(0), place.workers, Ranks()))


def _draw(place: Place, found: dict[str, float], rates: list[float], losses: list[float]) -> object:
    smooth = smoothed(np.array(losses))
    points = [
        (name, [(math.log10(rate / _LOWEST), float(loss)) for rate, loss in zip(rates, values, strict=True)])
        for name, values in (("loss", losses), ("smoothed", smooth.tolist()))
    ]
    chart = curves(points, Frame(x_title="decades of the rate above 1e-6", y_title="loss"))
    words = f"Suggested rate {found['suggested']:.2g}: there the loss falls steepest."
    path = place.out / PICTURE_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_bytes(
            path, document("Learning rates", [f"<h1>Learning rates</h1><p>{words}</p>{chart}"]).encode()
        )
    except OSError as exc:
        raise InputError(f"cannot write {path}", got=exc.strerror) from exc
    return path
