"""Visits in, a bundle with other INT8 ranges out: what `bintally calibrate ranges` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle import images
from bundle.engines.choose import open_engine
from bundle.errors import ConfigError, InputError, ParityError
from bundle.parity import check_budget
from bundle.preprocess import resize
from bundle.verify import load_bundle
from calibration.derive import Changes, derive
from calibration.layouts import read_visits
from calibration.observe import observe
from calibration.picking import pick_different
from calibration.requantize import MAX_FRAMES, obstacle, requantize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.manifest import ParityResult
    from bundle.verify import Bundle
    from calibration.observe import Observed
    from calibration.refit import Paths

MAX_VISITS = 2000
_HELD_OUT_EVERY = 3


@dataclass(frozen=True, slots=True)
class Ranged:
    """What came of it.

    Attributes:
        bundle: The new one.
        parity: How far its new models are from the reference, by role.
        words: Before and after, by role.
    """

    bundle: Bundle
    parity: Mapping[str, ParityResult]
    words: str


def refit_ranges(
    paths: Paths,
    *,
    now: datetime,
    engine: str = "auto",
    cache: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Ranged:
    """Fit INT8 ranges to visits, through the parity gate.

    Args:
        paths: Where things are and go. Labels are not needed; of the visits at most 2,000 are looked at, evenly spread.
        now: Aware UTC time.
        engine: What runs the bundle to see which visits differ.
        cache: Folder where what the frames did inside the network is kept, or None.
        progress: Told how many visits are done.

    Returns:
        The new bundle.

    Raises:
        ConfigError: The new bundle's folder exists.
        InputError: There are too few visits, or the bundle has nothing to fit.
        ParityError: No new model is closer to the reference than the old one, or one is beyond the budget.
        BundleError: The bundle does not verify.
    """
    if paths.out.exists():
        raise ConfigError(f"{paths.out} exists already", fix="Name a new folder, or remove this one.")
    bundle = load_bundle(paths.bundle)
    found = read_visits(paths.visits)
    with open_engine(bundle, engine=engine) as runtime:
        observed = observe(found[:: -(-len(found) // MAX_VISITS)], bundle.manifest, runtime, progress=progress)
    rows = np.arange(len(observed))
    held_out, used = rows[::_HELD_OUT_EVERY], np.delete(rows, rows[::_HELD_OUT_EVERY])
    problem = obstacle(bundle, len(used))
    if problem:
        raise InputError("INT8 ranges cannot be fitted", got=problem)
    chosen = pick_different(observed, used, MAX_FRAMES)
    judged = _pictures(bundle, observed, held_out[:MAX_FRAMES])
    new = requantize(bundle, _pictures(bundle, observed, chosen), judged, cache=cache)
    if not new.models:
        raise ParityError("the old INT8 models are as good on these visits", got=new.words, fix="Keep the bundle.")
    for result in new.parity.values():
        check_budget(result, bundle.manifest.parity.budget)
    calibration = bundle.manifest.calibration
    if calibration.promise is not None:
        promise = calibration.promise.model_copy(update={"verified": False})
        calibration = calibration.model_copy(update={"promise": promise})
    note = f"INT8 ranges fitted to {len(chosen)} visits: {new.words}. The promise was not proven again."
    changes = Changes(calibration, models=new.models, parity=new.parity, files=new.files, note=note)
    return Ranged(derive(bundle, paths.out, changes, now=now), new.parity, new.words)


def _pictures(bundle: Bundle, observed: Observed, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    frames = (images.read(observed.visits[row].frames[0]) for row in rows)
    return np.stack([resize(frame, bundle.manifest.preprocessing) for frame in frames])
