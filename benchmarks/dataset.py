"""Import, split, audit and report of a synthetic manifest as large as the public dataset: time and memory.

535,234 photos (the padded half of the public bucket) with ids, counts and articles as in the real records: neighbouring
ids are pairs of one bin in 40 % of the cases. Photos are not opened (there are none); sizes, blur and brightness are
drawn at random, so that the report has its charts to make. Each size runs in a fresh process: peak memory is its own.

The reference does import and split alone, the usual way: csv.DictReader, one object per photo, union-find, shuffled
groups dealt out, JSON lines written.

    python benchmarks/dataset.py [--photos 535234]

The last line is one JSON object: `ratio` is our photos per core-second for import + split over the reference's, from
the same file. Times are seconds of processor time, so that other work on the machine changes them little; `wall_s` is
the wall's. `time_exponent` is the slope of time over photos in log-log: 1 is linear growth. `memory_ratio` compares the
bytes per photo of the second half with those of the first half: 1 is linear growth, less is slower.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

PHOTOS = 535_234
SIZES = (0.125, 0.25, 0.5, 1.0)
PAIR_SHARE = 0.408
SEED = 20


def main() -> None:
    """Measure all sizes, and print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=PHOTOS)
    parser.add_argument("--child", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, folder = options.child
        print(json.dumps((_ours if kind == "ours" else _reference)(Path(folder))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        _measure(options.photos, Path(temporary))


def _measure(photos: int, work: Path) -> None:
    steps = []
    for share in SIZES:
        count = int(photos * share)
        folder = work / str(count)
        folder.mkdir()
        write_synthetic(folder / "photos.csv", count)
        found = _run("ours", folder)
        steps.append({"photos": count, **found})
        shown = "  ".join(f"{name} {value:.2f}" for name, value in found.items())
        print(f"{count:>8} photos: {shown}")
    reference = _run("reference", work / str(photos))
    print(f"reference {photos} photos: " + "  ".join(f"{name} {value:.2f}" for name, value in reference.items()))
    ours = steps[-1]
    result = {
        "benchmark": "dataset",
        "ratio": round(reference["total_s"] / (ours["import_s"] + ours["split_s"]), 2),
        "photos": photos,
        "total_s": ours["total_s"],
        "wall_s": ours["wall_s"],
        "peak_mb": ours["peak_mb"],
        "time_exponent": _time_exponent(steps),
        "memory_ratio": round((ours["grown_mb"] - steps[-2]["grown_mb"]) / steps[-2]["grown_mb"], 2),
        "steps": steps,
        "reference": reference,
    }
    print(json.dumps(result))


def _run(kind: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", kind, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _time_exponent(steps: list[dict[str, float]]) -> float:
    import numpy as np

    sizes, times = ([step[name] for step in steps] for name in ("photos", "total_s"))
    return round(float(np.polyfit(np.log(sizes), np.log(times), 1)[0]), 3)


def write_synthetic(path: Path, count: int) -> None:
    """Write a CSV with ids, counts and articles like those of the public dataset.

    Args:
        path: The file.
        count: Number of photos.
    """
    draw = random.Random(SEED)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "id", "count", "asins"])
        articles: list[str] = []
        for number in range(1, count + 1):
            size = max(0, round(draw.gammavariate(2.6, 2.0)))
            kinds = min(size, draw.randint(1, 5))
            kept = articles[:1] if articles and draw.random() < PAIR_SHARE else []
            articles = kept + [f"B{draw.randrange(459_476):09d}" for _ in range(max(kinds - len(kept), 0))]
            writer.writerow([f"bin-images/{number:05d}.jpg", f"{number:05d}", size, " ".join(articles)])


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _ours(folder: Path) -> dict[str, float]:
    import numpy as np
    import pyarrow as pa

    from train.data.audit import require_clean
    from train.data.importing import ImportOptions, import_listing
    from train.data.layouts import list_csv
    from train.data.manifest import Dataset
    from train.data.report import write_report
    from train.data.split import split

    base_mb, wall, started = _peak_mb(), time.perf_counter(), time.process_time()
    dataset = import_listing(list_csv(folder / "photos.csv"), folder / "set", ImportOptions(open_photos=False)).dataset
    imported = time.process_time()
    # Untimed: what opening the photos would have found.
    draw = np.random.default_rng(SEED)
    table, count = dataset.table, len(dataset)
    columns = {
        "width": draw.integers(315, 786, count, dtype=np.int32),
        "height": draw.integers(240, 1070, count, dtype=np.int32),
        "blur": draw.gamma(1.5, 120, count).astype(np.float32),
        "brightness": draw.normal(117, 18, count).clip(0, 255).astype(np.float32),
        "sha256": pa.array([f"{number:064x}" for number in range(count)]),
    }
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), pa.array(values))
    dataset.save(table, dataset.note)
    del table, columns, dataset
    opened = time.process_time()
    dataset = split(Dataset.open(folder / "set"))
    splitted = time.process_time()
    require_clean(dataset)
    audited = time.process_time()
    write_report(dataset, folder / "set" / "report.html")
    done = time.process_time()
    times = {
        "import_s": imported - started,
        "split_s": splitted - opened,
        "audit_s": audited - splitted,
        "report_s": done - audited,
    }
    peak = _peak_mb()
    found = {
        **times,
        "total_s": sum(times.values()),
        "wall_s": time.perf_counter() - wall,
        "peak_mb": peak,
        "grown_mb": peak - base_mb,
    }
    return {name: round(value, 4) for name, value in found.items()}


@dataclass
class _Photo:
    """One photo as an object, as the reference does it."""

    id: str
    path: str
    count: int
    asins: set[str]
    group: int = -1
    split: str = ""


def _reference(folder: Path) -> dict[str, float]:
    base_mb, started = _peak_mb(), time.process_time()
    with (folder / "photos.csv").open(newline="") as file:
        photos = [
            _Photo(row["id"], row["path"], int(row["count"]), set(row["asins"].split())) for row in csv.DictReader(file)
        ]
    photos.sort(key=lambda photo: int(photo.id))
    parent = list(range(len(photos)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index, (left, right) in enumerate(itertools.pairwise(photos)):
        follows = int(right.id) - int(left.id) == 1
        if follows and (left.asins & right.asins or not left.count or not right.count):
            parent[root(index + 1)] = root(index)
    groups: dict[int, list[_Photo]] = {}
    for index, photo in enumerate(photos):
        photo.group = root(index)
        groups.setdefault(photo.group, []).append(photo)
    order = list(groups)
    random.Random(SEED).shuffle(order)
    for place, key in enumerate(order):
        name = "train" if place < 0.8 * len(order) else "val" if place < 0.9 * len(order) else "test"
        for photo in groups[key]:
            photo.split = name
    with (folder / "reference.jsonl").open("w") as out:
        for photo in photos:
            out.write(json.dumps({**vars(photo), "asins": sorted(photo.asins)}) + "\n")
    total = time.process_time() - started
    return {"total_s": round(total, 4), "peak_mb": round(_peak_mb(), 2), "grown_mb": round(_peak_mb() - base_mb, 2)}


if __name__ == "__main__":
    main()
