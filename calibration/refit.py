"""Labelled visits in, a bundle with an honest confidence out: what `bintally calibrate confidence` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle.drift import DriftMonitor, parse_reference
from bundle.durable import write_bytes
from bundle.engines.choose import open_engine
from bundle.errors import ConfigError, InputError
from bundle.verify import load_bundle
from calibration.assess import FOLDS, Unseen, Wish, calibration_error, cross_fit
from calibration.confidence import visits_needed
from calibration.derive import Changes, derive
from calibration.layouts import read_visits
from calibration.observe import Observed, observe
from calibration.reference import reference_of
from calibration.report import Subject, render

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from bundle.drift import DriftEvent
    from bundle.manifest import Calibration
    from bundle.verify import Bundle
    from calibration.labelled import Labelled

MIN_LABELLED = 20
"""Fewer labelled visits than this say nothing about five folds."""


@dataclass(frozen=True, slots=True)
class Refitted:
    """What a calibration gave.

    Attributes:
        calibration: The new numbers.
        needed: Visits that a promise would take; None when there is one, or when more visits would not help.
        unseen: The visits, judged by numbers fitted without them.
        raw_error: Calibration error before.
        labelled: Number of visits it rests on.
        refused: Visits that could not be read.
        bundle: The new bundle, or None when it was not written.
    """

    calibration: Calibration
    needed: int | None
    unseen: Unseen
    raw_error: float
    labelled: int
    refused: int
    bundle: Bundle | None


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things are and go.

    Attributes:
        bundle: Folder of the bundle to calibrate.
        visits: Folder of labelled visits.
        out: Folder of the new bundle.
        report: HTML file to write, or None.
    """

    bundle: Path
    visits: Path
    out: Path
    report: Path | None = None


def refit_confidence(
    paths: Paths,
    wish: Wish,
    *,
    now: datetime,
    engine: str = "auto",
    allow_no_promise: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Refitted:
    """Fit a bundle's confidence to labelled visits.

    Args:
        paths: Where things are and go.
        wish: What the calibration is for.
        now: Aware UTC time.
        engine: What runs the bundle: the numbers are fitted to its outputs.
        allow_no_promise: Write the bundle even when the visits support no promise; nothing is then confident.
        progress: Told how many visits are done.

    Returns:
        The numbers and how good they are.

    Raises:
        ConfigError: `out` exists.
        InputError: There are too few labelled visits, or they cannot support the promise.
        BundleError: The bundle does not verify.
    """
    if paths.out.exists():
        raise ConfigError(f"{paths.out} exists already", fix="Name a new folder, or remove this one.")
    bundle = load_bundle(paths.bundle)
    with open_engine(bundle, engine=engine) as runtime:
        entry = bundle.manifest.model(runtime.role)
        observed = observe(read_visits(paths.visits), bundle.manifest, runtime, progress=progress)
    data = require_labels(observed, bundle)
    calibration = wish.fit(data, "reference" if entry is None else entry.role)
    unseen, raw = cross_fit(data, wish), calibration_error(data.posteriors(1.0), data.truth)
    needed = needed_for(data, calibration, wish)
    if paths.report is not None:
        subject = Subject(bundle.label, f"{len(data)} labelled visits of {paths.visits}", raw, needed)
        write_bytes(paths.report, render(subject, calibration, wish, unseen).encode())
    if calibration.promise is None and not allow_no_promise:
        raise no_promise(len(data), needed, wish)
    changes = Changes(calibration, drift=reference_of(observed, calibration), note=_note(calibration, len(data)))
    written = derive(bundle, paths.out, changes, now=now)
    return Refitted(calibration, needed, unseen, raw, len(data), len(observed.refused), written)


def require_labels(observed: Observed, bundle: Bundle) -> Labelled:
    """Take the labelled visits, or say that there are too few.

    Args:
        observed: Of the bundle.
        bundle: Its classes decide which labels count.

    Returns:
        Labelled outputs.

    Raises:
        InputError: Fewer than `MIN_LABELLED`, or all of fewer than five bins.
    """
    data = observed.labelled(bundle.manifest.count_classes)
    bins = 0 if data is None or data.groups is None else len(np.unique(data.groups))
    if data is None or len(data) < MIN_LABELLED or bins < FOLDS:
        raise InputError(
            "too few labelled visits to calibrate with",
            got=f"{0 if data is None else len(data)} of {bins} bins, with counts {_covered(bundle)}",
            expected=f"needs >= {MIN_LABELLED} labelled visits of {FOLDS} or more bins",
            fix="Label more visits: docs/calibration.md shows how.",
        )
    return data


def _covered(bundle: Bundle) -> str:
    classes = bundle.manifest.count_classes
    return f"{classes[0]} to {classes[-1]}"


def no_promise(labelled: int, needed: int | None, wish: Wish) -> InputError:
    """Word the refusal.

    Args:
        labelled: Number of labelled visits.
        needed: From `visits_needed`.
        wish: What was asked for.

    Returns:
        The error to raise.
    """
    what = f"these visits cannot show that at most {wish.risk:.0%} of the confident counts are wrong"
    if needed is None:
        return InputError(
            what,
            got=f"{labelled} labelled visits, and at no confidence so few wrong counts",
            fix="Ask for a higher --risk, or train a better model: more visits alone will hardly help.",
        )
    return InputError(
        what,
        got=f"{labelled} labelled visits",
        expected=f"needs >= {needed} labelled visits",
        fix="Label more visits, or ask for a higher --risk.",
    )


def needed_for(data: Labelled, calibration: Calibration, wish: Wish) -> int | None:
    """Say how many labelled visits a promise would take at least.

    Args:
        data: Labelled outputs.
        calibration: Fitted to them.
        wish: What was asked for.

    Returns:
        The number, more than there are; None when there is a promise, or when more visits would hardly help.
    """
    if calibration.promise is not None:
        return None
    needed = visits_needed(
        data, calibration.temperature, risk=wish.risk, confidence=wish.confidence, ordinal=calibration.ordinal
    )
    return None if needed is None else max(needed, len(data) + 1)


def find_drift(
    bundle_path: Path, visits: Path, *, engine: str = "auto", progress: Callable[[int], None] | None = None
) -> tuple[list[DriftEvent], bool]:
    """Watch visits as the agent does.

    Args:
        bundle_path: Folder of a bundle with a drift reference.
        visits: Folder of visits; their order counts.
        engine: What runs the bundle.
        progress: Told how many visits are done.

    Returns:
        The events, and whether the last visits drift.

    Raises:
        InputError: The bundle has no drift reference, or no visit can be read.
        BundleError: The bundle does not verify.
    """
    bundle = load_bundle(bundle_path)
    if bundle.manifest.drift is None:
        raise InputError(
            f"bundle {bundle.label} has no drift reference",
            fix="Calibrate it with 100 visits or more, or export it again.",
        )
    reference = parse_reference(bundle.read(bundle.manifest.drift), name=bundle.manifest.drift)
    with open_engine(bundle, engine=engine) as runtime:
        observed = observe(read_visits(visits), bundle.manifest, runtime, progress=progress)
    monitor = DriftMonitor(reference)
    signals = observed.signals(bundle.manifest.calibration, reference.view_array())
    events = [event for row in signals if (event := monitor.update(row)) is not None]
    return events, monitor.drifting


def _note(calibration: Calibration, labelled: int) -> str:
    if calibration.promise is None:
        return f"Fitted to {labelled} labelled visits, which support no promise: nothing is called confident."
    promise = calibration.promise
    return (
        f"Fitted to {labelled} labelled visits, outputs of model `{calibration.fitted_on}`: with"
        f" {promise.confidence:.0%} confidence at most {promise.risk:.0%} of the confident counts are wrong;"
        f" {promise.coverage:.0%} of the visits are confident."
    )
