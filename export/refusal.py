"""What a person sees when packing is refused: the worst frames as pictures, and the figures beside them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bundle.counter import posterior_from_logits
from bundle.durable import write_bytes, write_json
from bundle.images import encode_jpeg
from bundle.parity import distances

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from bundle.manifest import CountClasses
    from export.frames import Frames
    from export.quantize import Attempt

_WORST = 12
_LONGEST_ID = 60
"""Characters of a photo's id in the name of its picture; ids have no bound, names of files do."""


def save_worst(
    folder: Path,
    attempt: Attempt,
    frames: Frames,
    reference: NDArray[np.float32],
    names: Sequence[str],
    classes: CountClasses,
) -> Path:
    """Write the frames on which a refused model is furthest from the reference.

    Args:
        folder: Created if need be; files of the same name are replaced.
        attempt: The refused model.
        frames: The validation frames that it was judged on.
        reference: float32, (N, K) logits of the reference on them.
        names: Id of each photo; any text.
        classes: K count classes.

    Returns:
        The folder: worst-01-ID.jpg and so on, where other characters of an id than letters, digits, dots and hyphens
        are underscores, and worst.json with the id and both posteriors of each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    distance = distances(reference, attempt.logits)
    before, after = posterior_from_logits(reference, 1.0), posterior_from_logits(attempt.logits, 1.0)
    rows = []
    for rank, index in enumerate(distance.argsort()[::-1][:_WORST], 1):
        file = f"worst-{rank:02d}-{_harmless(names[index])}.jpg"
        write_bytes(folder / file, encode_jpeg(frames.pixels[index]))
        rows.append(
            {
                "picture": file,
                "photo": names[index],
                "distance": round(float(distance[index]), 4),
                "truth": classes[int(frames.truth[index])],
                "reference": {name: round(float(p), 4) for name, p in zip(classes, before[index], strict=True)},
                "int8": {name: round(float(p), 4) for name, p in zip(classes, after[index], strict=True)},
            }
        )
    figures = attempt.result.model_dump(mode="json")
    write_json(folder / "worst.json", {"model": attempt.dialect, "parity": figures, "frames": rows})
    return folder


def _harmless(name: str) -> str:
    """A photo's id as part of a file name: `aisle/5/a` would be a folder."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:_LONGEST_ID]
