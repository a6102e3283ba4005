# ruff: noqa: TID253 - compares two loops of torch
"""How fast is a training step: ours against the loop of torchvision's classification reference, same model and machine.

The reference is what its script does with its defaults: pictures from files through torchvision's v2 transforms
(decode, resize, flip, to float, normalise) in a DataLoader, NCHW, cross entropy, SGD, and an accuracy over the batch
after every step. Ours is `train.step` fed by `train.batches`: AdamW, EMA, the neighbour loss and augmentation included,
so it does more. Blocks of steps alternate in one process on one thread, so that other work on the machine hits both.

    python benchmarks/train_step.py [--model mobilenet_v2] [--size 96] [--steps 4] [--blocks 5] [--device cpu]

Pictures are drawn, 320 x 240 JPEG. The last line is one JSON object; `ratio` is our images per second over the
reference's, the median over the pairs of blocks. `compute` is the same with the pictures already decoded on both sides.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from train.batches import Reading, training_batches
from train.config import load_config
from train.learner import build_learner
from train.memory import keep_freed_memory
from train.model import build_model, preprocessing_of
from train.photos import Photo, load_photos
from train.ranks import Ranks
from train.step import Stepper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLASSES = ("0", "1", "2", "3", "4", "5", "6+")
PHOTOS = 128


class Files(Dataset[tuple[torch.Tensor, int]]):
    """The reference's dataset."""

    def __init__(self, paths: list[Path], size: int, *, decoded: bool) -> None:
        self._paths = paths
        self._transform: Any = v2.Compose(
            [
                v2.Resize((size, size), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
            ]
        )
        self._decoded = [self._read(path) for path in paths] if decoded else None

    @staticmethod
    def _read(path: Path) -> torch.Tensor:
        image: torch.Tensor = torchvision.io.decode_image(str(path))
        return image

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self._read(self._paths[index]) if self._decoded is None else self._decoded[index]
        return self._transform(image), index % len(CLASSES)


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    options = _arguments()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    keep_freed_memory()  # as `bintally train` does; it serves both sides
    with tempfile.TemporaryDirectory() as folder:
        paths = _draw(Path(folder))
        ours = _ours(paths, options)
        ratios, rates = _paired(ours, _reference(paths, options, decoded=False), options)
        compute, _ = _paired(ours, _reference(paths, options, decoded=True), options)
    print(f"ours {rates[0]:.1f} images/s, reference {rates[1]:.1f} images/s")
    figures = {"ratio": round(statistics.median(ratios), 3), "compute": round(statistics.median(compute), 3)}
    spread = {"lowest": round(min(ratios), 3), "highest": round(max(ratios), 3)}
    settings = {name: getattr(options, name) for name in ("model", "size", "batch", "device", "threads", "blocks")}
    print(json.dumps(figures | spread | {"ours": round(rates[0], 2), "reference": round(rates[1], 2)} | settings))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4, help="steps in a block")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="that prepare pictures: our threads, their processes")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def _draw(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = []
    for index in range(PHOTOS):
        coarse = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        path = folder / f"{index:03d}.jpg"
        cv2.imwrite(str(path), cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC))
        paths.append(path)
    return paths


def _paired(
    ours: Callable[[int], None], reference: Callable[[int], None], options: argparse.Namespace
) -> tuple[list[float], tuple[float, float]]:
    """Ratios of alternating blocks, and both medians in images per second."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for block in range(options.blocks + 1):
        for side, run in enumerate((ours, reference)):
            began = time.perf_counter()
            run(options.steps)
            if options.device != "cpu":
                torch.cuda.synchronize()
            if block:  # the first block warms up
                seconds[side].append(time.perf_counter() - began)
    images = options.steps * options.batch
    ratios = [theirs / mine for mine, theirs in zip(*seconds, strict=True)]
    return ratios, (images / statistics.median(seconds[0]), images / statistics.median(seconds[1]))


def _ours(paths: list[Path], options: argparse.Namespace) -> Callable[[int], None]:
    config = load_config(
        None,
        [("model.name", options.model), ("model.size", options.size), ("batch_size", options.batch)],
    )
    photos = [Photo(path.stem, path, index % len(CLASSES), index) for index, path in enumerate(paths)]
    loaded = load_photos(photos, CLASSES, preprocessing_of(config.model))
    learner = build_learner(build_model(config.model, CLASSES), config, options.device, channels_last=True)
    learner.model.train()
    stepper = Stepper(learner, config, Ranks())

    def batches() -> Iterator[Any]:
        for epoch in itertools.count():
            yield from training_batches(loaded, config, Reading(epoch, 0, options.size, options.workers, Ranks()))

    endless = batches()

    def run(steps: int) -> None:
        for batch in itertools.islice(endless, steps):
            stepper.backward(batch)
            stepper.update(1e-4)

    return run


def _reference(paths: list[Path], options: argparse.Namespace, *, decoded: bool) -> Callable[[int], None]:
    loader = DataLoader(
        Files(paths, options.size, decoded=decoded),
        batch_size=options.batch,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
    )
    model: nn.Module = torchvision.models.get_model(options.model, weights=None, num_classes=len(CLASSES))
    model.to(options.device).train()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    endless = batches()

    def run(steps: int) -> None:
        for image, target in itertools.islice(endless, steps):
            output = model(image.to(options.device))
            loss = criterion(output, target.to(options.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            (output.argmax(dim=1).cpu() == target).float().mean().item()

    return run


if __name__ == "__main__":
    main()
