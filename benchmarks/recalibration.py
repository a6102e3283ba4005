"""Does recalibration help, and can it harm? Each part prints one JSON object; its main figure is `ratio`.

    python benchmarks/recalibration.py shift [BUNDLE VISITS]   four shifts at three strengths: visits until the drift is
                                                               raised / 200, the worst of those that cost 5 points or
                                                               more; and what numbers fitted to 200 labels repair
    python benchmarks/recalibration.py garbage                 100 jobs fed garbage: activated / tries, 0 is good
    python benchmarks/recalibration.py kill                    100 kills at random moments: torn stores / kills

`shift` without arguments renders its visits and uses the shipped bundle.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bundle import images
from bundle.drift import DriftMonitor, make_reference, tolerance
from bundle.engines.choose import open_engine
from bundle.manifest import class_index
from bundle.preprocess import normalize, resize
from bundle.signals import answer_signals, frame_signals, look
from bundle.store import Store
from bundle.verify import load_bundle
from calibration.assess import Wish
from calibration.confidence import tops
from calibration.job.collect import Clock
from calibration.job.context import Surroundings
from calibration.job.request import Request
from calibration.job.run import recalibrate
from calibration.labelled import Labelled
from calibration.layouts import read_visits
from calibration.refit import Paths, refit_confidence
from tests.calibration.scenes import scene, write_records, write_table
from tests.simulators.bundle_factory import make_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

ROOT = Path(__file__).resolve().parent.parent
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
LONGEST_S = 6.0
HALF = 0.5


def main() -> None:
    """Run one part and print its object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("garbage", "kill"):
        parts.add_parser(name).add_argument("--tries", type=int, default=100)
    shift_part = parts.add_parser("shift")
    shift_part.add_argument("bundle", type=Path, nargs="?", default=ROOT / "demo" / "bundle")
    shift_part.add_argument("visits", type=Path, nargs="?")
    shift_part.add_argument("--number", type=int, default=1500)
    shift_part.add_argument("--risk", type=float, default=0.1)
    arguments = parser.parse_args()
    result = PARTS[arguments.part](arguments)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "opencv": cv2.__version__}
    print(json.dumps({"part": arguments.part, **result, **machine}))


def say(words: str) -> None:
    """Tell a person what happens, on stderr."""
    print(words, file=sys.stderr, flush=True)


def moved(share: float) -> Callable[[Picture], Picture]:
    """The camera points elsewhere: the picture moves right and down, its edge is repeated."""

    def apply(picture: Picture) -> Picture:
        height, width = picture.shape[:2]
        warp = np.array([[1, 0, share * width], [0, 1, share * height]], np.float32)
        return np.asarray(cv2.warpAffine(picture, warp, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)

    return apply


def scaled(blue: float, green: float, red: float) -> Callable[[Picture], Picture]:
    """Other light: every channel times its factor."""
    return lambda picture: np.asarray(np.clip(picture * np.array([blue, green, red]), 0, 255), np.uint8)


def blurred(sigma: float) -> Callable[[Picture], Picture]:
    """Out of focus, for a picture 224 pixels wide; larger pictures are blurred as much in proportion."""
    return lambda picture: np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma * picture.shape[1] / 224), np.uint8)


SHIFTS: dict[str, Callable[[Picture], Picture]] = {
    "none": lambda picture: picture,
    **{f"darkened x{gain}": scaled(gain, gain, gain) for gain in (0.7, 0.45, 0.25)},
    **{f"blurred {sigma}": blurred(sigma) for sigma in (1.0, 2.0, 4.0)},
    **{f"tinted {gain}": scaled(gain, 1.0, 2 - gain) for gain in (0.85, 0.7, 0.5)},
    **{f"shifted {share:.0%}": moved(share) for share in (0.03, 0.06, 0.1)},
}


def shift(arguments: argparse.Namespace) -> dict[str, Any]:
    """Accuracy cost, detection delay and what 200 labelled visits repair, for four shifts at three strengths."""
    bundle = load_bundle(arguments.bundle)
    photos, truth = shift_visits(arguments, bundle.manifest.count_classes)
    rows: dict[str, Any] = {}
    answers = {}
    with open_engine(bundle, threads=2) as engine:
        for name, change in SHIFTS.items():
            answers[name] = answer_all(engine, bundle.manifest.preprocessing, photos, change)
            say(f"{name}: {(answers[name][1].argmax(axis=1) == truth).mean():.1%} exact")
    order = np.random.default_rng(0).permutation(len(truth))
    reference_rows, stream = order[: len(order) // 2], order[len(order) // 2 :]
    view = np.mean([answers["none"][0][row].view for row in reference_rows], axis=0).astype(np.float32)
    calibration = bundle.manifest.calibration

    def signals(name: str, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        looks, logits = answers[name]
        posterior = Labelled(logits, truth).posteriors(calibration.temperature, calibration.ordinal)
        sure = (posterior.max(axis=1) >= calibration.threshold) & (calibration.threshold < 1)
        return np.array([
            np.concatenate([frame_signals([looks[row]], view),
                            answer_signals(logits[row : row + 1], posterior[row], confident=bool(sure[row]))])
            for row in chosen
        ])  # fmt: skip

    reference = make_reference(signals("none", reference_rows), view)
    normal = signals("none", stream)
    before = float((answers["none"][1].argmax(axis=1) == truth).mean())
    for name in list(SHIFTS)[1:]:
        cost = before - float((answers[name][1].argmax(axis=1) == truth).mean())
        delays, words = detection(reference, signals(name, stream))
        rows[name] = {
            "accuracy_cost": round(cost, 4), "delay": delays, "named": words,
            **repaired(Labelled(answers[name][1], truth), bundle.manifest.calibration, arguments.risk),
        }  # fmt: skip
        say(f"{name}: {rows[name]}")
    costly = [max(row["delay"]) for row in rows.values() if row["accuracy_cost"] >= 0.05]  # noqa: PLR2004 - the claim
    alarms, watched = false_alarms(reference, normal)
    return {
        "ratio": round(max(costly) / 200, 3) if costly else None,
        "bundle": bundle.label,
        "visits": len(truth),
        "accuracy": round(before, 4),
        "false_alarms": alarms,
        "unshifted_visits": watched,
        "tolerance": round(tolerance(reference.visits), 4),
        "unshifted_after_200_labels": repaired(
            Labelled(answers["none"][1], truth), bundle.manifest.calibration, arguments.risk
        ),
        "shifts": rows,
    }


def shift_visits(arguments: argparse.Namespace, classes: tuple[str, ...]) -> tuple[list[Picture], NDArray[np.int64]]:
    """Labelled pictures: given, or rendered from seeds that no dataset has."""
    if arguments.visits is not None:
        found = [(visit, class_index(classes, visit.label)) for visit in read_visits(arguments.visits)
                 if visit.label is not None]  # fmt: skip
        known = [(visit, index) for visit, index in found if index is not None]
        chosen = np.random.default_rng(1).permutation(len(known))[: arguments.number]
        return (
            [images.read(known[row][0].frames[0]) for row in chosen],
            np.array([known[row][1] for row in chosen], np.int64),
        )
    from demo.render import render_bin
    from demo.seeds import tour_seed

    say(f"rendering {arguments.number} bins")
    bins = [render_bin(tour_seed(77, index)) for index in range(arguments.number)]
    return [one.image_bgr for one in bins], np.array([class_index(classes, one.count) for one in bins], np.int64)


def answer_all(engine: Any, spec: Any, photos: Sequence[Picture], change: Callable[[Picture], Picture]) -> Any:  # noqa: ANN401
    """Looks and logits of every changed picture."""
    pictures = (resize(change(photo), spec) for photo in photos)
    pairs = [(look(picture), engine.infer(normalize(picture, spec)[np.newaxis])[0]) for picture in pictures]
    return [one for one, _ in pairs], np.array([logits for _, logits in pairs])


def detection(reference: Any, signals: NDArray[np.float64]) -> tuple[list[int], str]:  # noqa: ANN401
    """Visits until a drift is raised, in ten orders, and its words; 9999 where it was not."""
    delays, words = [], ""
    for seed in range(10):
        monitor = DriftMonitor(reference)
        for position, row in enumerate(signals[np.random.default_rng(seed).permutation(len(signals))]):
            event = monitor.update(row)
            if event is not None:
                delays.append(position + 1)
                words = event.words
                break
        else:
            delays.append(9999)
    return delays, words


def false_alarms(reference: Any, signals: NDArray[np.float64], visits: int = 50_000) -> tuple[int, int]:  # noqa: ANN401
    """Alarms while unshifted visits, none of them in the reference, pass by again and again."""
    rng, monitor, alarms = np.random.default_rng(5), DriftMonitor(reference), 0
    for _ in range(visits):
        event = monitor.update(signals[rng.integers(len(signals))])
        if event is not None:
            alarms += event.kind == "drift"
            monitor = DriftMonitor(reference)
    return alarms, visits


def repaired(data: Labelled, old: Any, risk: float, draws: int = 60) -> dict[str, Any]:  # noqa: ANN401
    """What the old numbers give on these visits, and what numbers fitted to 200 of them give on the others."""
    top, wrong = tops(data, old.temperature, old.ordinal)
    chosen = top >= old.threshold
    made = broken = 0
    accuracy, covered, realised = [], [], []
    for seed in range(draws):
        order = np.random.default_rng(seed).permutation(len(data))
        fitted = Wish(risk=risk).fit(data.take(order[:200]), "cpu")
        rest = data.take(order[200:])
        sure, errs = tops(rest, fitted.temperature, fitted.ordinal)
        accuracy.append(1 - float(errs.mean()))
        if fitted.promise is not None:
            made += 1
            confident = sure >= fitted.threshold
            covered.append(float(confident.mean()))
            realised.append(float(errs[confident].mean()) if confident.any() else 0.0)
            broken += realised[-1] > risk
    return {
        "old_confident": round(float(chosen.mean()), 3),
        "old_wrong": round(float(wrong[chosen].mean()), 3) if chosen.any() else None,
        "asked_risk": risk,
        "promises_made": f"{made}/{draws}",
        "promises_broken": broken,
        "new_confident": round(float(np.mean(covered)), 3) if covered else 0.0,
        "new_wrong": round(float(np.mean(realised)), 3) if realised else None,
        "accuracy_after": round(float(np.mean(accuracy)), 4),
    }


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

    def by_lot(_: int) -> int:
        return int(rng.integers(0, 6))

    return {
        "black frames": {"change": np.zeros_like},
        "nearly black frames": {"change": lambda picture: np.asarray(picture // 40, np.uint8)},
        "one bin repeated": {"change": repeated},
        "labels by lot": {"label": by_lot},
        "labels one too high": {"label": lambda count: min(count + 1, 6)},
        "labels one too low": {"label": lambda count: max(count - 1, 0)},
        "labels turned round": {"label": lambda count: 5 - count},
        "one label for all": {"label": lambda _: number % 6},
        "half of the labels by lot": {"label": lambda count: by_lot(count) if rng.random() < HALF else count},
    }


def garbage(arguments: argparse.Namespace) -> dict[str, Any]:
    """Recalibrations fed black frames, one bin repeated, and wrong labels of five kinds, with and without a watch."""
    folder = Path(tempfile.mkdtemp(prefix="bintally-garbage-"))
    store = robot_store(folder)
    first = store.current().digest
    outcomes: dict[str, list[str]] = {}
    for number in range(arguments.tries):
        kinds = kinds_of_garbage(number)
        kind = list(kinds)[number % len(kinds)]
        visits = folder / f"visits-{number}"
        write_records(visits, 200, 1000 + number, noise=0.3, **kinds[kind])
        clock = Clock(time.monotonic, lambda _: None)
        around = Surroundings(folder / "store", visits, clock, lambda: NOW, lambda _: None)
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


def kill(arguments: argparse.Namespace) -> dict[str, Any]:
    """SIGKILL a real recalibration after a random time, until it is over, and look at the store each time."""
    folder = Path(tempfile.mkdtemp(prefix="bintally-kill-"))
    store = robot_store(folder)
    visits = write_records(folder / "visits", 180, 5, noise=0.3)
    rng, torn, kills, jobs = random.Random(1), 0, 0, 0
    results: dict[str, int] = {}
    while kills < arguments.tries:
        jobs += 1
        before = store.current().digest
        over = False
        while not over:
            command = [sys.executable, "-m", "bintally", "recalibrate", "--store", str(folder / "store"), "--json",
                       "--visits", str(visits), "--job-id", f"job-{jobs}", "--watch-visits", "40"]  # fmt: skip
            child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            try:
                out, _ = child.communicate(timeout=rng.uniform(0.5, LONGEST_S))
            except subprocess.TimeoutExpired:
                child.kill()
                out, _ = child.communicate()
                kills += 1
            over = child.returncode != -9  # noqa: PLR2004 - SIGKILL
            record = folder / "store" / "recalibrations" / f"job-{jobs}" / "job.json"
            content = json.loads(record.read_text()) if record.exists() else {}
            allowed = {before, (content.get("after") or {}).get("digest")}
            torn += store.current().digest not in allowed
        finals = [json.loads(line) for line in out.splitlines() if '"final": true' in line]
        torn += len(finals) != 1
        results[finals[0]["state"]] = results.get(finals[0]["state"], 0) + 1
    shutil.rmtree(folder)
    return {"ratio": torn / kills, "kills": kills, "torn": torn, "jobs": jobs, "results": results}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"shift": shift, "garbage": garbage, "kill": kill}

if __name__ == "__main__":
    main()
