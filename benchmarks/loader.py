"""How fast are photos read: our loader over shards against ImageFolder + PIL + RandomResizedCrop + float normalise.

Same photos, same process, one core each, rounds taken in turn. A figure is photos per second of processor time, so that
other work on the machine changes it little; wall time is given beside it.

    python benchmarks/loader.py [--photos FOLDER] [--rounds 5]

Without --photos, the native-size sample that BINTALLY_SHARED (or ../shared beside the repository) points to is taken.
The last line is one JSON object; `ratio` is ours over the reference, both handing out the same thing: float32,
normalised, (N, 3, 224, 224), from JPEG. The other lines show shards of 256 px, pixels stored raw, and uint8 batches for
a device that normalises by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bundle.manifest import Preprocessing
from train.data.importing import ImportOptions, import_listing
from train.data.layouts import list_folders
from train.data.loader import LoaderOptions, ShardLoader, Shards
from train.data.shards import ShardOptions, write_shards
from train.memory import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from train.data.manifest import Dataset

BATCH = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Way:
    """One way of reading all photos once."""

    name: str
    read: Callable[[int], int]


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    options = _arguments()
    cv2.setNumThreads(1)
    keep_freed_memory()  # as `bintally train` does; it serves both sides
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = _class_folder(options.photos, work / "folder")
        dataset = import_listing(list_folders(folder), work / "dataset", ImportOptions(workers=2)).dataset
        ways = [_reference(folder), *_ours(dataset, work)]
        cpu: dict[str, list[float]] = {way.name: [] for way in ways}
        wall: dict[str, list[float]] = {way.name: [] for way in ways}
        for epoch in range(options.rounds + 1):
            for way in ways:
                cpu_started, wall_started = time.process_time(), time.perf_counter()
                photos = way.read(epoch)
                if epoch:  # the first round warms caches
                    cpu[way.name].append(photos / (time.process_time() - cpu_started))
                    wall[way.name].append(photos / (time.perf_counter() - wall_started))
    _print(len(dataset), options.rounds, cpu, wall)


def _arguments() -> argparse.Namespace:
    shared = Path(os.environ.get("BINTALLY_SHARED", Path(__file__).resolve().parent.parent.parent / "shared"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=shared / "abid" / "originals", help="folder of JPEG files")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not any(options.photos.glob("*.jpg")):
        parser.error(f"no .jpg files in {options.photos}; pass --photos FOLDER")
    return options


def _class_folder(photos: Path, folder: Path) -> Path:
    """Arrange photos as ImageFolder wants them. Which class they are in does not matter for speed."""
    for index, photo in enumerate(sorted(photos.glob("*.jpg"))):
        place = folder / str(index % 6) / photo.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(photo.resolve())
    return folder


def _reference(folder: Path) -> Way:
    import torch
    from torchvision import datasets, transforms

    torch.set_num_threads(1)
    steps = [
        transforms.RandomResizedCrop(224),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    photos = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(photos, batch_size=BATCH, shuffle=True, num_workers=0)
    return Way("imagefolder_pil_crop_float", lambda _epoch: sum(len(labels) for _, labels in loader))


def _ours(dataset: Dataset, work: Path) -> list[Way]:
    ways = []
    for packed in (ShardOptions(size=224), ShardOptions(size=256), ShardOptions(size=224, encoding="raw")):
        name = f"{packed.encoding}{packed.size}"
        shards = Shards(write_shards(dataset, work / name, replace(packed, photos_per_shard=256, workers=2)))
        specs = {"float224": Preprocessing(size_wh=(224, 224), mean=MEAN, std=STD), "uint8": None}
        if packed.size != 224:  # noqa: PLR2004 - the network's size
            specs[f"float{packed.size}"] = Preprocessing(size_wh=(packed.size, packed.size), mean=MEAN, std=STD)
        for kind, spec in specs.items():
            loader = ShardLoader(shards, shards.select(), LoaderOptions(batch=BATCH, spec=spec, workers=1))
            ways.append(Way(f"shards_{name}_{kind}", _reader(loader)))
    return ways


def _reader(loader: ShardLoader) -> Callable[[int], int]:
    return lambda epoch: sum(len(batch.counts) for batch in loader.epoch(epoch))


def _print(photos: int, rounds: int, cpu: dict[str, list[float]], wall: dict[str, list[float]]) -> None:
    reference, *ours = cpu
    ratios = {}
    for name, rates in cpu.items():
        # Round by round, because the machine may be busier in one round than in the next.
        ratios[name] = statistics.median(a / b for a, b in zip(rates, cpu[reference], strict=True))
        print(
            f"{name:<28}{statistics.median(rates):8.0f} photos per core-second"
            f"{statistics.median(wall[name]):8.0f} per second   x{ratios[name]:.1f}"
        )
    result = {
        "benchmark": "loader",
        "ratio": round(ratios[ours[0]], 2),
        "photos": photos,
        "rounds": rounds,
        "photos_per_core_second": {name: round(statistics.median(values), 1) for name, values in cpu.items()},
        "photos_per_second": {name: round(statistics.median(values), 1) for name, values in wall.items()},
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
