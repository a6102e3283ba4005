"""Has what the camera sees, or what the network makes of it, changed since calibration? Pure: numbers in, events out.

Every signal of a visit becomes its rank among the reference visits, 0..1, which averages 0.5 while nothing has changed.
For each signal and direction a bet is kept on the mean rank lying beyond 0.5 +- tolerance:

    e = 1 + stake * (deviation - tolerance),    R = (R + 1) * e    (several stakes, all started anew at every visit)

The mean of all R is an e-detector (Shin, Ramdas and Rinaldo 2023): while every signal's mean rank, given the past, lies
within the tolerance, the expected number of visits before it first exceeds `VISITS_PER_FALSE_ALARM` is at least that
number, for any distribution and without a correction for the number of signals. The tolerance pays for a finite
reference and for visits that resemble their predecessors.

State is of fixed size. One drift gives one event, which names what drifted; the next event comes after the signals have
stayed near the reference again for `_QUIET_VISITS` visits, or after `DriftMonitor` was made anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bundle.errors import ManifestError
from bundle.signals import SIGNALS, VIEW_WH

if TYPE_CHECKING:
    from numpy.typing import NDArray

VISITS_PER_FALSE_ALARM = 20_000
_STAKES = np.array([0.12, 0.3, 0.6, 0.95])
"""Shares of the largest stake with which a bet cannot lose more than everything."""
_QUANTILES = 101
_BASE_TOLERANCE = 0.06
_REFERENCE_SIGMAS = 3.5
_QUIET_VISITS = 200
_QUIET_SHARE = 0.75
"""Of the tolerance. Were it wider than what raises a drift, a small lasting one would end and begin again for ever."""
_NAMED_LOG_SHARE = 0.7
_LATEST_VISITS = 50
MIN_REFERENCE_VISITS = 100


class SignalReference(BaseModel):
    """How one signal is spread over the reference visits.

    Attributes:
        name: One of `bundle.signals.SIGNALS`.
        quantiles: Its 0th, 1st, ... 100th percentile, never falling.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    quantiles: Annotated[tuple[float, ...], Field(min_length=_QUANTILES, max_length=_QUANTILES)]


class DriftReference(BaseModel):
    """What the visits of the calibration looked like: the content of `drift.json`.

    Attributes:
        format_version: Always 1.
        visits: Number of reference visits.
        signals: In the order of `bundle.signals.SIGNALS`.
        view: The mean view, 24 rows of 32, in thousandths.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format_version: Literal[1] = 1
    visits: Annotated[int, Field(ge=MIN_REFERENCE_VISITS)]
    signals: tuple[SignalReference, ...]
    view: Annotated[tuple[int, ...], Field(min_length=VIEW_WH[0] * VIEW_WH[1], max_length=VIEW_WH[0] * VIEW_WH[1])]

    @model_validator(mode="after")
    def _signals_are_known(self) -> DriftReference:
        names = tuple(signal.name for signal in self.signals)
        if names != SIGNALS:
            msg = f"signals must be {list(SIGNALS)}, got {list(names)}"
            raise ValueError(msg)
        if any(np.diff(signal.quantiles).min() < 0 for signal in self.signals):
            msg = "quantiles must not fall"
            raise ValueError(msg)
        return self

    def view_array(self) -> NDArray[np.float32]:
        """The mean view.

        Returns:
            float32, (24, 32).
        """
        return (np.array(self.view) / 1000).astype(np.float32).reshape(VIEW_WH[1], VIEW_WH[0])


DRIFT_NAME = "drift.json"


def parse_reference(data: bytes, *, name: str) -> DriftReference:
    """Read a bundle's drift.json.

    Args:
        data: Its bytes, hashed by the caller.
        name: What to call it in an error.

    Returns:
        The reference.

    Raises:
        ManifestError: It is no such file.
    """
    try:
        return DriftReference.model_validate_json(data)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or DRIFT_NAME
        raise ManifestError(f"{name} is not valid at {where}", got=first["msg"], fix="Calibrate again.") from exc


def make_reference(signals: NDArray[np.float64], view: NDArray[np.float32]) -> DriftReference:
    """Describe reference visits.

    Args:
        signals: float64, (V, 11), in the order of SIGNALS, V at least MIN_REFERENCE_VISITS.
        view: float32, (24, 32), the mean view that the shift signals were measured against.

    Returns:
        The reference.
    """
    points = np.quantile(signals, np.linspace(0, 1, _QUANTILES), axis=0)
    rounded = np.maximum.accumulate(np.round(points, 6), axis=0)
    return DriftReference(
        visits=len(signals),
        signals=tuple(
            SignalReference(name=name, quantiles=tuple(rounded[:, column].tolist()))
            for column, name in enumerate(SIGNALS)
        ),
        view=tuple(int(value) for value in np.round(view * 1000).ravel()),
    )


def ranks(signals: NDArray[np.float64], reference: DriftReference) -> NDArray[np.float64]:
    """Place a visit among the reference visits.

    Args:
        signals: float64, (11,), in the order of SIGNALS.
        reference: The bundle's.

    Returns:
        float64, (11,): 0 is below all of them, 1 above; values that occur often get the middle of their range.
    """
    shares = np.linspace(0, 1, _QUANTILES)
    found = np.empty(len(SIGNALS))
    for column, signal in enumerate(reference.signals):
        points = np.array(signal.quantiles)
        value = signals[column]
        low = np.searchsorted(points, value, side="left")
        high = np.searchsorted(points, value, side="right")
        if high > low:  # on a step: the middle of it
            found[column] = (shares[low] + shares[high - 1]) / 2
        else:
            found[column] = np.interp(value, points, shares)
    return found


def tolerance(visits: int) -> float:
    """How far a mean rank may lie from 0.5 without being drift.

    Args:
        visits: Of the reference. Its own sampling error (0.29 / sqrt(visits), times 3.5) is added to a fixed 0.06.

    Returns:
        0..0.5.
    """
    return _BASE_TOLERANCE + _REFERENCE_SIGMAS * math.sqrt(1 / 12 / visits)


@dataclass(frozen=True, slots=True)
class Drifted:
    """One signal's part in a drift.

    Attributes:
        signal: One of SIGNALS.
        direction: "up" or "down" against the reference.
        mean_rank: Of the latest visits; 0.5 is normal.
    """

    signal: str
    direction: Literal["up", "down"]
    mean_rank: float


@dataclass(frozen=True, slots=True)
class DriftEvent:
    """Something worth telling.

    Attributes:
        kind: "drift" when it was found, "drift_over" when the signals are back.
        visit: Visits seen by the monitor up to here.
        drifted: What drifted, the strongest first; empty for "drift_over".
    """

    kind: Literal["drift", "drift_over"]
    visit: int
    drifted: tuple[Drifted, ...]

    @property
    def words(self) -> str:
        """One phrase for a message: "brightness down, sharpness down"."""
        return ", ".join(f"{one.signal} {one.direction}" for one in self.drifted) or "back to the reference"


class DriftMonitor:
    """Watches the visits of one camera. Not thread-safe.

    Args:
        reference: The bundle's.
    """

    def __init__(self, reference: DriftReference) -> None:
        self._reference = reference
        self._tolerance = tolerance(reference.visits)
        self._stakes = _STAKES / (0.5 + self._tolerance)
        self._limit = math.log(VISITS_PER_FALSE_ALARM)
        self._recent = np.full((_QUIET_VISITS, len(SIGNALS)), 0.5)
        self._visit = 0
        self._since_event = 0
        self.drifting = False
        self._log_r = self._fresh()

    def _fresh(self) -> NDArray[np.float64]:
        return np.full((2, len(SIGNALS), len(_STAKES)), -np.inf)

    def update(self, signals: NDArray[np.float64]) -> DriftEvent | None:
        """Take one visit into account.

        Args:
            signals: float64, (11,), in the order of SIGNALS, finite.

        Returns:
            An event, or None.
        """
        rank = ranks(signals, self._reference)
        self._recent[self._visit % _QUIET_VISITS] = rank
        self._visit += 1
        self._since_event += 1
        if self.drifting:
            return self._recover()
        deviation = np.stack([rank - 0.5, 0.5 - rank]) - self._tolerance
        e_values = 1 + deviation[..., np.newaxis] * self._stakes
        self._log_r = np.logaddexp(0, self._log_r) + np.log(e_values)
        evidence = float(np.logaddexp.reduce(self._log_r, axis=None)) - math.log(self._log_r.size)
        return self._raise() if evidence >= self._limit else None

    def _raise(self) -> DriftEvent:
        by_signal = np.logaddexp.reduce(self._log_r, axis=2)
        strongest = by_signal.max()
        self._log_r = self._fresh()
        self.drifting, self._since_event = True, 0
        # Shares of the evidence's logarithm: a signal that alone would come near an alarm has drifted too.
        shares = by_signal / strongest
        order = sorted(np.argwhere(shares >= _NAMED_LOG_SHARE).tolist(), key=lambda at: -shares[at[0], at[1]])
        return DriftEvent("drift", self._visit, tuple(self._drifted(direction, column) for direction, column in order))

    def _drifted(self, direction: int, column: int) -> Drifted:
        latest = self._recent[(self._visit - 1 - np.arange(min(self._visit, _LATEST_VISITS))) % _QUIET_VISITS, column]
        return Drifted(SIGNALS[column], "up" if direction == 0 else "down", round(float(latest.mean()), 3))

    def _recover(self) -> DriftEvent | None:
        if self._since_event < _QUIET_VISITS:
            return None
        if np.abs(self._recent.mean(axis=0) - 0.5).max() > _QUIET_SHARE * self._tolerance:
            return None
        self.drifting, self._since_event = False, 0
        return DriftEvent("drift_over", self._visit, ())
