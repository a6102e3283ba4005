"""The recalibration job itself, on visits of a place that has changed; for `benchmarks/shift.py`."""

from __future__ import annotations

import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.counter import Counter
from bundle.images import encode_jpeg
from bundle.store import Store
from bundle.visits import VisitRecord, write_visit
from calibration.job.collect import Clock
from calibration.job.context import Surroundings
from calibration.job.request import Request
from calibration.job.run import recalibrate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bundle.verify import Bundle

    Picture = NDArray[np.uint8]

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
JUDGED = 400
QUALITY = 95


def restore(
    bundle: Bundle, photos: Sequence[Picture], truth: NDArray[np.int64], risk: float, visits: int
) -> dict[str, Any]:
    """Recalibrate a robot on the first photos, with labels and without; judge its bundle on others."""
    from bundle.manifest import class_value

    rest = slice(visits, visits + JUDGED)
    labels = [class_value(bundle.manifest.count_classes[index]) for index in truth[:visits]]
    found = {}
    for name, given in (("labels", labels), ("no_labels", [None] * visits)):
        with tempfile.TemporaryDirectory(prefix="bintally-shift-") as folder:
            store = Store(Path(folder) / "store")
            store.activate(store.install(bundle.path).digest)
            where = Path(folder) / "visits"
            where.mkdir()
            for number, (photo, label) in enumerate(zip(photos[:visits], given, strict=True)):
                visit = f"v{number:05d}"
                record = VisitRecord(visit=visit, bin_id=visit, frames=(f"{visit}-0.jpg",), label=label)
                write_visit(where, record, [encode_jpeg(photo, quality=QUALITY)])
            found[name] = _job(store, where, Path(folder) / "store", risk)
            found[name] |= _judged(store.current(), photos[rest], truth[rest])
    return found


def _job(store: Store, visits: Path, root: Path, risk: float) -> dict[str, Any]:
    around = Surroundings(root, visits, Clock(time.monotonic, lambda _: None), lambda: NOW, lambda _: None)
    request = Request(job_id="job", actor="benchmark", asked_at=NOW, risk=risk, watch_visits=0)
    journal = recalibrate(around, request)
    promise = store.current().manifest.calibration.promise
    return {
        "state": journal.state,
        "reason": journal.reason,
        "fitted": journal.did,
        "not_fitted": journal.did_not,
        "promise": None if promise is None else {"risk": promise.risk, "verified": promise.verified},
    }


def _judged(bundle: Bundle, photos: Sequence[Picture], truth: NDArray[np.int64]) -> dict[str, Any]:
    counter = Counter.open(bundle.path, threads=1)
    posterior = np.concatenate([counter.posteriors([photo]) for photo in photos])
    counter.close()
    threshold = bundle.manifest.calibration.threshold
    confident = (posterior.max(axis=1) >= threshold) & (threshold < 1)
    wrong = posterior.argmax(axis=1) != truth
    return {
        "judged": len(truth),
        "accuracy": round(1 - float(wrong.mean()), 4),
        "confident": int(confident.sum()),
        "wrong_among_them": int((wrong & confident).sum()),
    }
