"""What happens to damaged models: one flipped bit each, loaded, held against the golden frames, and run.

Two ways in. As found: the file no longer matches the manifest, and verification has to refuse it. Re-signed: whoever
built the bundle hashed the damaged file, so hashes say nothing: only the runtime and the golden frames stand between.

A damaged model is *harmful* when, on photos that are not golden frames, it would not pass the bundle's own parity
budget against the undamaged model: the mean distance of the posteriors exceeds `max_mean_tv`, or an answer changes that
the undamaged model gives with a probability of 0.6 or more, or the logits are no numbers. Everything else counts as
harmless: an exporter would have shipped it. Engines run in child processes, so a runtime's crash is counted too.

    python benchmarks/damage.py [--bundle demo/bundle] [--flips 400] [--engine onnxruntime ...] [--photos FOLDER]

The last line is one JSON object; `ratio` is harmful models that would count with golden frames over those that would
without them, over all engines.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bundle.counter import posterior_from_logits
from bundle.engines.child import in_child
from bundle.engines.ort import OrtEngine
from bundle.engines.ov import OvEngine
from bundle.engines.single_file import require_single_file
from bundle.errors import BintallyError, BundleError, EngineError
from bundle.golden import check_golden
from bundle.images import read
from bundle.parity import SURE, total_variation
from bundle.preprocess import preprocess
from bundle.store import Store
from bundle.verify import Bundle, load_bundle

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bundle.engines.base import Engine
    from bundle.engines.child import Say

REPOSITORY = Path(__file__).resolve().parent.parent
ENGINES: dict[str, tuple[type[OrtEngine | OvEngine], str]] = {
    "onnxruntime": (OrtEngine, "cpu"),
    "openvino": (OvEngine, "cpu"),
    "onnxruntime-fp32": (OrtEngine, "reference"),
}
CHUNK = 50
Flip = tuple[int, int]
"""Byte and bit of a file."""


def main() -> None:
    """Damage, count, print a table, and one JSON object as the last line."""
    options = _arguments()
    bundle = load_bundle(options.bundle)
    with tempfile.TemporaryDirectory() as temporary:
        photos = options.photos or _rendered(Path(temporary) / "photos", options.frames)
        frames = _frames(bundle, photos, options.frames)
        np.save(Path(temporary) / "frames.npy", frames)
        as_found = {
            role: refused_as_found(bundle, role, options.flips, Path(temporary)) for role in ("cpu", "reference")
        }
        for role, refused in as_found.items():
            print(f"as found, {role:<18} {refused} of {options.flips} refused by verification")
        rows = []
        for engine in options.engine or ENGINES:
            rows.append(survey(bundle, engine, _flips(bundle, ENGINES[engine][1], options.flips), Path(temporary)))
            print(_line(rows[-1]), flush=True)
    without = sum(row["harmful"] for row in rows)
    result = {
        "benchmark": "damage",
        "ratio": round(sum(row["harmful_activated"] for row in rows) / max(1, without), 4),
        "bundle": bundle.label,
        "flips": options.flips,
        "refused_as_found": as_found,
        "frames": len(frames),
        "rows": rows,
    }
    print(json.dumps(result))


def refused_as_found(bundle: Bundle, role: str, count: int, scratch: Path) -> int:
    """How many flips keep a robot's store from taking the bundle."""
    folder, file = scratch / f"found-{role}", _file(bundle, role)
    shutil.copytree(bundle.path, folder)
    refused = 0
    for number, flip in enumerate(_flips(bundle, role, count)):
        (folder / file).write_bytes(_flipped(bundle.read(file), flip))
        store = Store(scratch / f"store-{role}-{number}")
        try:
            store.activate(store.install(folder).digest)
        except BundleError:
            refused += 1
    return refused


def survey(bundle: Bundle, engine: str, flips: list[Flip], scratch: Path) -> dict[str, Any]:
    """Run one engine on every damaged model, in child processes."""
    found: list[dict[str, Any]] = []
    while len(found) < len(flips):
        chunk = flips[len(found) : len(found) + CHUNK]
        try:
            work = (bundle.path, engine, chunk, scratch / "frames.npy")
            in_child(examine, *work, timeout_s=900, say=lambda words: found.append(json.loads(words)))
        except EngineError as exc:
            found.append({"fate": "crashed", "words": str(exc)})
    ran = [one for one in found if one["fate"] in ("ran", "refused by golden frames")]
    harmful = [one for one in ran if one["harmful"]]
    activated = [one for one in ran if one["fate"] == "ran"]
    return {
        "engine": engine,
        "not_loaded": sum(one["fate"] == "not loaded" for one in found),
        "crashed": sum(one["fate"] == "crashed" for one in found),
        "refused_by_golden": len(ran) - len(activated),
        "activated": len(activated),
        "same_to_the_bit": sum(one["max_abs_logit"] == 0 for one in activated),
        "harmful": len(harmful),
        "harmful_activated": sum(one["harmful"] for one in activated),
        "activated_worst_mean_tv": max((one["mean_tv"] for one in activated), default=0.0),
        "activated_worst_agreement": min((one["agreement"] for one in activated), default=1.0),
        "refused_and_harmless": sum(not one["harmful"] for one in ran if one["fate"] != "ran"),
    }


def examine(say: Say, folder: Path, name: str, flips: list[Flip], frames: Path) -> dict[str, Any]:
    """What becomes of each damaged model; tells one JSON object per flip."""
    bundle, tensors = load_bundle(folder), np.load(frames)
    model = bundle.read(_file(bundle, ENGINES[name][1]))
    with _open(bundle, name, model) as whole:
        expected = _infer(whole, tensors)
    for flip in flips:
        say(json.dumps(fate(bundle, name, _flipped(model, flip), tensors, expected)))
    return {}


def fate(
    bundle: Bundle, name: str, model: bytes, tensors: NDArray[np.float32], expected: NDArray[np.float32]
) -> dict[str, Any]:
    """One damaged model through the gates in their order."""
    try:
        engine = _open(bundle, name, model)
    except BintallyError as exc:
        return {"fate": "not loaded", "words": str(exc)[:100]}
    with engine:
        try:
            check_golden(bundle, engine)
            words = "ran"
        except EngineError:
            words = "refused by golden frames"
        try:
            return {"fate": words, **difference(bundle, expected, _infer(engine, tensors))}
        except EngineError:
            return {"fate": words, "harmful": True, "max_abs_logit": 1e9, "mean_tv": 1.0, "agreement": 0.0}


def difference(bundle: Bundle, expected: NDArray[np.float32], logits: NDArray[np.float32]) -> dict[str, Any]:
    """How far a damaged model's answers are from the undamaged one's, and whether that is harmful."""
    calibration, budget = bundle.manifest.calibration, bundle.manifest.parity.budget
    whole, damaged = (
        posterior_from_logits(values, calibration.temperature, calibration.ordinal) for values in (expected, logits)
    )
    same = whole.argmax(axis=1) == damaged.argmax(axis=1)
    mean_tv = float(total_variation(whole, damaged).mean())
    sure_changed = bool((~same & (whole.max(axis=1) >= SURE)).any())
    return {
        "harmful": mean_tv > budget.max_mean_tv or sure_changed,
        "max_abs_logit": float(np.abs(expected - logits).max()),
        "mean_tv": round(mean_tv, 5),
        "agreement": round(float(same.mean()), 4),
    }


def _open(bundle: Bundle, name: str, model: bytes) -> Engine:
    kind, role = ENGINES[name]
    entry = bundle.manifest.model(role)
    assert entry is not None  # noqa: S101 - every bundle has both
    require_single_file(model, entry.file)
    return kind(model, entry, bundle.manifest.preprocessing, classes=len(bundle.manifest.count_classes), threads=1)


def _infer(engine: Engine, tensors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([engine.infer(tensors[start : start + 16]) for start in range(0, len(tensors), 16)])


def _flips(bundle: Bundle, role: str, count: int) -> list[Flip]:
    size = bundle.manifest.files[_file(bundle, role)].bytes
    rng = random.Random(f"{role} {count}")
    return [(rng.randrange(size), rng.randrange(8)) for _ in range(count)]


def _flipped(data: bytes, flip: Flip) -> bytes:
    changed = bytearray(data)
    changed[flip[0]] ^= 1 << flip[1]
    return bytes(changed)


def _file(bundle: Bundle, role: str) -> str:
    entry = bundle.manifest.model(role)
    assert entry is not None  # noqa: S101 - every bundle has both
    return entry.file


def _rendered(folder: Path, count: int) -> Path:
    from demo.dataset import write_dataset

    write_dataset(folder, count=count, seed=77, workers=1)
    return folder


def _frames(bundle: Bundle, folder: Path, count: int) -> NDArray[np.float32]:
    files = sorted(folder.rglob("*.jpg"))
    step = max(1, len(files) // count)
    return np.stack([preprocess(read(file), bundle.manifest.preprocessing) for file in files[::step][:count]])


def _line(row: dict[str, Any]) -> str:
    return (
        f"re-signed, {row['engine']:<17} {row['not_loaded']} not loaded, {row['crashed']} crashed, "
        f"{row['refused_by_golden']} refused by golden frames, {row['activated']} would count "
        f"({row['same_to_the_bit']} the same to the bit); harmful {row['harmful']}, "
        f"of them activated {row['harmful_activated']}; worst activated: mean TV {row['activated_worst_mean_tv']:.4f}, "
        f"agreement {row['activated_worst_agreement']:.1%}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=REPOSITORY / "demo" / "bundle")
    parser.add_argument("--flips", type=int, default=400)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--engine", action="append", choices=tuple(ENGINES))
    return parser.parse_args()


if __name__ == "__main__":
    main()
