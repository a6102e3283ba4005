"""Other light, blur, colour, another view: is the drift raised, and what does recalibration repair? Prints one object.

    python benchmarks/shift.py [BUNDLE] [--visits FOLDER] [--risk 0.1] [--jobs]

Four shifts at three strengths. For each: the exact counts it costs, after how many visits the drift is raised (the most
of ten orders), and what numbers fitted to 200 labelled visits give on the others (60 draws). With `--jobs` the
recalibration job itself runs on 200 shifted visits, with labels and without, and its bundle is judged on the others.
The main figure is `ratio`: visits until the drift is raised / 200, the worst of the shifts that cost 5 points or more.

Without `--visits` the visits are rendered, from seeds that no dataset has. The first half of the unshifted visits is
the reference; the second half, again and again in random order, must raise no alarm.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from shift_jobs import restore

from bundle import images
from bundle.drift import DriftMonitor, make_reference, tolerance
from bundle.engines.choose import open_engine
from bundle.manifest import class_index
from bundle.preprocess import normalize, resize
from bundle.signals import look
from bundle.verify import load_bundle
from calibration.assess import Wish
from calibration.confidence import tops
from calibration.labelled import Labelled
from calibration.layouts import read_visits
from calibration.observe import Observed
from calibration.visits import Visit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from bundle.drift import DriftReference
    from bundle.engines.base import Engine
    from bundle.manifest import Calibration, CountClasses, Preprocessing

    Picture = NDArray[np.uint8]
    Change = Callable[[Picture], Picture]

ROOT = Path(__file__).resolve().parent.parent
COSTLY = 0.05
LABELS = 200
ORDERS = 10
DRAWS = 60
UNSHIFTED = 50_000
NEVER = 9999


def main() -> None:
    """Measure, and print the object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=ROOT / "demo" / "bundle")
    parser.add_argument("--visits", type=Path)
    parser.add_argument("--number", type=int, default=1500)
    parser.add_argument("--risk", type=float, default=0.1)
    parser.add_argument("--jobs", action="store_true", help="Run the recalibration job too: minutes more.")
    print(json.dumps({**measure(parser.parse_args()), "machine": platform.machine(), "opencv": cv2.__version__}))


def say(words: str) -> None:
    """Tell a person what happens, on stderr."""
    print(words, file=sys.stderr, flush=True)


def moved(share: float) -> Change:
    """The camera points elsewhere: the picture moves right and down, its edge is repeated."""

    def apply(picture: Picture) -> Picture:
        height, width = picture.shape[:2]
        warp = np.array([[1, 0, share * width], [0, 1, share * height]], np.float32)
        return np.asarray(cv2.warpAffine(picture, warp, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)

    return apply


def scaled(blue: float, green: float, red: float) -> Change:
    """Other light: every channel times its factor."""
    return lambda picture: np.asarray(np.clip(picture * np.array([blue, green, red]), 0, 255), np.uint8)


def blurred(sigma: float) -> Change:
    """Out of focus, for a picture 224 pixels wide; larger pictures are blurred as much in proportion."""
    return lambda picture: np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma * picture.shape[1] / 224), np.uint8)


SHIFTS: dict[str, Change] = {
    "none": lambda picture: picture,
    **{f"darkened x{gain}": scaled(gain, gain, gain) for gain in (0.7, 0.45, 0.25)},
    **{f"blurred {sigma}": blurred(sigma) for sigma in (1.0, 2.0, 4.0)},
    **{f"tinted {gain}": scaled(gain, 1.0, 2 - gain) for gain in (0.85, 0.7, 0.5)},
    **{f"shifted {share:.0%}": moved(share) for share in (0.03, 0.06, 0.1)},
}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All shifts."""
    bundle = load_bundle(arguments.bundle)
    manifest = bundle.manifest
    photos, truth = labelled_photos(arguments.visits, arguments.number, manifest.count_classes)
    answers: dict[str, Observed] = {}
    with open_engine(bundle, threads=1) as engine:
        for name, change in SHIFTS.items():
            answers[name] = answer_all(engine, manifest.preprocessing, photos, change)
            say(f"{name}: {exact(answers[name], truth):.1%} exact")
    order = np.random.default_rng(0).permutation(len(truth))
    known, stream = order[: len(order) // 2], order[len(order) // 2 :]
    normal = answers["none"].take(known)
    view = normal.mean_view()
    reference = make_reference(normal.signals(manifest.calibration, view), view)
    rows: dict[str, dict[str, Any]] = {}
    for name, change in list(SHIFTS.items())[1:]:
        delays, words = detection(reference, answers[name].take(stream).signals(manifest.calibration, view))
        rows[name] = {
            "accuracy_cost": round(exact(answers["none"], truth) - exact(answers[name], truth), 4),
            "visits_until_raised": max(delays),
            "named": words,
            "numbers": repaired(Labelled(answers[name].logits, truth), manifest.calibration, arguments.risk),
        }
        if arguments.jobs:
            rows[name]["job"] = restore(bundle, [change(photo) for photo in photos], truth, arguments.risk, LABELS)
        say(f"{name}: {rows[name]}")
    costly = [row["visits_until_raised"] for row in rows.values() if row["accuracy_cost"] >= COSTLY]
    unshifted = answers["none"].take(stream).signals(manifest.calibration, view)
    return {
        "ratio": round(max(costly) / 200, 3) if costly else None,
        "bundle": bundle.label,
        "visits": len(truth),
        "accuracy": round(exact(answers["none"], truth), 4),
        "false_alarms": false_alarms(reference, unshifted),
        "unshifted_visits": UNSHIFTED,
        "tolerance": round(tolerance(reference.visits), 4),
        "unshifted": repaired(Labelled(answers["none"].logits, truth), manifest.calibration, arguments.risk),
        "shifts": rows,
    }


def labelled_photos(folder: Path | None, number: int, classes: CountClasses) -> tuple[list[Picture], NDArray[np.int64]]:
    """Photos and class indices: given, or rendered."""
    if folder is None:
        from demo.render import render_bin
        from demo.seeds import tour_seed

        say(f"rendering {number} bins")
        bins = [render_bin(tour_seed(77, index)) for index in range(number)]
        return [one.image_bgr for one in bins], np.array([class_index(classes, one.count) for one in bins], np.int64)
    found = [(visit, class_index(classes, visit.label)) for visit in read_visits(folder) if visit.label is not None]
    known = [(visit, index) for visit, index in found if index is not None]
    chosen = np.random.default_rng(1).permutation(len(known))[:number]
    pictures = [images.read(known[row][0].frames[0]) for row in chosen]
    return pictures, np.array([known[row][1] for row in chosen], np.int64)


def answer_all(engine: Engine, spec: Preprocessing, photos: Sequence[Picture], change: Change) -> Observed:
    """What the bundle makes of changed photos, a visit each."""
    pictures = (resize(change(photo), spec) for photo in photos)
    pairs = [(look(picture), engine.infer(normalize(picture, spec)[np.newaxis])[0]) for picture in pictures]
    visits = tuple(Visit(str(number), str(number), (), None) for number in range(len(photos)))
    logits = np.array([row for _, row in pairs])
    return Observed(visits, logits, np.arange(len(photos)), tuple(one for one, _ in pairs), ())


def exact(answers: Observed, truth: NDArray[np.int64]) -> float:
    """Share of exact counts."""
    return float((answers.logits.argmax(axis=1) == truth).mean())


def detection(reference: DriftReference, signals: NDArray[np.float64]) -> tuple[list[int], str]:
    """Visits until a drift is raised, in ten orders, and its words."""
    delays, words = [], ""
    for seed in range(ORDERS):
        monitor = DriftMonitor(reference)
        events = (monitor.update(row) for row in signals[np.random.default_rng(seed).permutation(len(signals))])
        event = next((event for event in events if event is not None), None)
        delays.append(NEVER if event is None else event.visit)
        words = words if event is None else event.words
    return delays, words


def false_alarms(reference: DriftReference, signals: NDArray[np.float64]) -> int:
    """Alarms while unshifted visits, none of them in the reference, pass by again and again."""
    rng, monitor, alarms = np.random.default_rng(5), DriftMonitor(reference), 0
    for _ in range(UNSHIFTED):
        event = monitor.update(signals[rng.integers(len(signals))])
        if event is not None:
            alarms += event.kind == "drift"
            monitor = DriftMonitor(reference)
    return alarms


def repaired(data: Labelled, old: Calibration, risk: float) -> dict[str, Any]:
    """What the old numbers give on these visits, and what numbers fitted to 200 of them give on the others."""
    top, wrong = tops(data, old.temperature, old.ordinal)
    chosen = top >= old.threshold
    accuracy, covered, realised = [], [], []
    for seed in range(DRAWS):
        order = np.random.default_rng(seed).permutation(len(data))
        fitted, rest = Wish(risk=risk).fit(data.take(order[:LABELS]), "cpu"), data.take(order[LABELS:])
        sure, errors = tops(rest, fitted.temperature, fitted.ordinal)
        accuracy.append(1 - float(errors.mean()))
        if fitted.promise is not None:
            confident = sure >= fitted.threshold
            covered.append(float(confident.mean()))
            realised.append(float(errors[confident].mean()) if confident.any() else 0.0)
    return {
        "old_confident": round(float(chosen.mean()), 3),
        "old_wrong": round(float(wrong[chosen].mean()), 3) if chosen.any() else None,
        "promises_made": f"{len(realised)}/{DRAWS}",
        "promises_broken": sum(error > risk for error in realised),
        "confident": round(float(np.mean(covered)), 3) if covered else 0.0,
        "wrong": round(float(np.mean(realised)), 3) if realised else None,
        "accuracy": round(float(np.mean(accuracy)), 4),
    }


if __name__ == "__main__":
    main()
