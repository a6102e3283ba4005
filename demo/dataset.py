"""Write rendered bins as a dataset, in the layout of the Amazon Bin Image Dataset's bucket.

`bin-images/NAME.jpg` and `metadata/NAME.json`, the label being `EXPECTED_QUANTITY`. Every file is whole or absent, and
a picture's metadata is written after its picture, so what a killed run leaves behind is a smaller dataset; running the
same command again writes what is missing and nothing else. A folder remembers what it was made from and refuses to be
mixed.
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import cv2

from bundle import durable
from bundle.errors import InputError
from bundle.images import encode_jpeg
from demo.render import RenderedBin, render_bin
from demo.seeds import MAX_SEED, PICTURES_PER_SEED, dataset_seed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_RECIPE = "rendered.json"
_RENDERER = 1  # counts up when the same seed starts to give other pictures
_JPEG_QUALITY = 92


def write_dataset(out: Path, *, count: int, seed: int, workers: int) -> None:
    """Write a whole dataset.

    Args:
        out: Folder; made if absent, continued if it holds a part of this very dataset.
        count: Number of pictures.
        seed: Not negative; datasets of different seeds share no picture.
        workers: Processes; the files do not depend on it.

    Raises:
        InputError: The folder holds another dataset, or a number is out of range.
    """
    for _ in written(out, count=count, seed=seed, workers=workers):
        pass


def written(out: Path, *, count: int, seed: int, workers: int) -> Iterator[str]:
    """Write a dataset and tell each picture's name once it is on disk, in no particular order.

    Args:
        out: As for `write_dataset`.
        count: As for `write_dataset`.
        seed: As for `write_dataset`.
        workers: As for `write_dataset`.

    Yields:
        Names of pictures, those first that were there already.

    Raises:
        InputError: As for `write_dataset`.
    """
    _check(count, seed, workers)
    _claim(out, seed)
    names = [name_of(index) for index in range(count)]
    present = {path.stem for path in (out / "metadata").glob("*.json")}
    yield from (name for name in names if name in present)
    missing = [index for index, name in enumerate(names) if name not in present]
    write = partial(write_bin, out, seed)
    if workers == 1:
        yield from map(write, missing)
        return
    # spawn: a forked child would inherit locks of OpenCV's thread pool in whatever state they are.
    with multiprocessing.get_context("spawn").Pool(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.imap_unordered(write, missing, chunksize=16)


def name_of(index: int) -> str:
    """Name a picture.

    Args:
        index: Its place in the dataset.

    Returns:
        The stem of its two files.
    """
    return f"{index:06d}"


def write_bin(out: Path, seed: int, index: int) -> str:
    """Render one picture of a dataset and write its two files.

    Args:
        out: The dataset's folder, whose two subfolders exist.
        seed: The dataset's.
        index: The picture's place.

    Returns:
        Its name.
    """
    name = name_of(index)
    rendered = render_bin(dataset_seed(seed, index))
    durable.write_bytes(out / "bin-images" / f"{name}.jpg", encode_jpeg(rendered.image_bgr, quality=_JPEG_QUALITY))
    durable.write_json(out / "metadata" / f"{name}.json", metadata(rendered, name))
    return name


def metadata(rendered: RenderedBin, name: str) -> dict[str, object]:
    """Describe a rendered bin as the dataset describes a photographed one.

    Args:
        rendered: The bin.
        name: Its name, which makes its products' numbers its own: no two rendered bins share one.

    Returns:
        The JSON document.
    """
    kinds = Counter(item.kind for item in rendered.items)
    products = {}
    for kind, quantity in sorted(kinds.items()):
        asin = f"{name}-{kind}"
        products[asin] = {
            "asin": asin,
            "name": f"rendered {kind}",
            "normalizedName": f"rendered {kind}",
            "quantity": quantity,
        }
    return {
        "BIN_FCSKU_DATA": products,
        "EXPECTED_QUANTITY": rendered.count,
        "RENDERED": {
            "seed": rendered.seed,
            "items": [{"kind": item.kind, "visible": round(item.visible, 4)} for item in rendered.items],
        },
    }


def _check(count: int, seed: int, workers: int) -> None:
    if not 0 < count < PICTURES_PER_SEED:
        raise InputError("the number of pictures", got=count, expected="1 or more")
    if not 0 <= seed <= MAX_SEED:
        raise InputError("the seed of a dataset", got=seed, expected=f"0 to {MAX_SEED}")
    if workers < 1:
        raise InputError("the number of processes", got=workers, expected="1 or more")


def _claim(out: Path, seed: int) -> None:
    try:
        _claim_folder(out, seed)
    except (OSError, ValueError) as exc:
        raise InputError(f"{out} cannot hold a dataset", got=exc, fix="Name another folder.") from exc


def _claim_folder(out: Path, seed: int) -> None:
    recipe = {"renderer": _RENDERER, "seed": seed}
    file = out / _RECIPE
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found != recipe:
            raise InputError(
                f"{out} holds another rendered dataset", got=found, expected=recipe, fix="choose an empty folder"
            )
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty", expected="an empty folder or a part of this dataset")
    for folder in ("bin-images", "metadata"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    durable.write_json(file, recipe)
