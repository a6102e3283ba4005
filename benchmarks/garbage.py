"""Recalibrations fed garbage: never activated for good. Prints one JSON object.

    python benchmarks/garbage.py [--tries 100]

Black frames, nearly black ones, noise, one bin repeated, and wrong labels of six kinds; every second job also watches
its next visits. The main figure is `ratio`: jobs that ended with a new bundle active / tries, 0 is good.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bundle.store import Store
from calibration.assess import Wish
from calibration.job.collect import Clock
from calibration.job.context import Surroundings
from calibration.job.request import Request
from calibration.job.run import recalibrate
from calibration.refit import Paths, refit_confidence
from tests.calibration.scenes import scene, write_records, write_table
from tests.simulators.bundle_factory import make_bundle

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
HALF = 0.5


def main() -> None:
    """Run it and print the object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=100)
    print(json.dumps({**garbage(parser.parse_args().tries), "machine": platform.machine()}))


def say(words: str) -> None:
    """Tell a person what happens, on stderr."""
    print(words, file=sys.stderr, flush=True)


def robot_store(folder: Path) -> Store:
    """A robot with a calibrated bundle."""
    table = write_table(folder / "table", 300, 1, noise=0.3)
    paths = Paths(make_bundle(folder / "tiny"), table, folder / "bundle")
    refit_confidence(paths, Wish(risk=0.1), now=NOW)
    store = Store(folder / "store")
    store.activate(store.install(paths.out).digest)
    return store


def kinds_of_garbage(number: int) -> dict[str, dict[str, Any]]:
    """What a robot may be fed, as arguments of `write_records`; another set of pictures for every number."""
    rng = np.random.default_rng(number)
    one = scene(rng, float(rng.integers(1, 5)))

    def repeated(_: Picture) -> Picture:
        return np.asarray(np.clip(one + rng.normal(0, 3, one.shape), 0, 255), np.uint8)

    def static(picture: Picture) -> Picture:
        return np.asarray(np.clip(rng.normal(110, 40, picture.shape), 0, 255), np.uint8)

    def by_lot(_: int) -> int:
        return int(rng.integers(0, 6))

    return {
        "black frames": {"change": np.zeros_like},
        "noise": {"change": static, "labelled": False},
        "nearly black frames": {"change": lambda picture: np.asarray(picture // 40, np.uint8)},
        "one bin repeated": {"change": repeated},
        "labels by lot": {"label": by_lot},
        "labels one too high": {"label": lambda count: min(count + 1, 6)},
        "labels one too low": {"label": lambda count: max(count - 1, 0)},
        "labels turned round": {"label": lambda count: 5 - count},
        "one label for all": {"label": lambda _: number % 6},
        "half of the labels by lot": {"label": lambda count: by_lot(count) if rng.random() < HALF else count},
    }


def garbage(tries: int) -> dict[str, Any]:
    """All tries, the kinds in turn."""
    folder = Path(tempfile.mkdtemp(prefix="bintally-garbage-"))
    store = robot_store(folder)
    first = store.current().digest
    outcomes: dict[str, list[str]] = {}
    for number in range(tries):
        kinds = kinds_of_garbage(number)
        kind = list(kinds)[number % len(kinds)]
        visits = folder / f"visits-{number}"
        write_records(visits, 200, 1000 + number, noise=0.3, **kinds[kind])
        clock = Clock(time.monotonic, lambda _: None)
        around = Surroundings(folder / "store", visits, clock, lambda: NOW, lambda _: None, engine="onnxruntime")
        request = Request(job_id=f"job-{number}", actor="benchmark", asked_at=NOW, watch_visits=40 * (number % 2))
        journal = recalibrate(around, request)
        outcomes.setdefault(kind, []).append(journal.state)
        if store.current().digest != first:
            say(f"{number} {kind}: {journal.state}, {journal.reason}")
            store.rollback(forget=True)
        shutil.rmtree(visits)
    shutil.rmtree(folder)
    states = [state for kind in outcomes.values() for state in kind]
    return {
        "ratio": states.count("activated") / len(states),
        "tries": len(states),
        "outcomes": {kind: {state: found.count(state) for state in sorted(set(found))}
                     for kind, found in outcomes.items()},
    }  # fmt: skip


if __name__ == "__main__":
    main()
