"""A bundle with other numbers: the same networks, or re-quantised ones, and a calibration fitted elsewhere.

The source is never modified: a derived bundle is a new folder with a new digest that names its parent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bundle.drift import DRIFT_NAME
from bundle.pack import file_entry, pack

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from bundle.drift import DriftReference
    from bundle.manifest import Calibration, Manifest, ModelEntry, ParityResult
    from bundle.verify import Bundle

CARD_NAME = "card.md"
_CARD_HEADING = "## Calibrated again"


@dataclass(frozen=True, slots=True)
class Changes:
    """What a derived bundle has of its own.

    Attributes:
        calibration: The new one.
        drift: New reference of the drift signals; None keeps the source's, unless confidence is now counted otherwise.
        models: New entries by role; the others stay.
        parity: New results by role; the others stay.
        files: New content by file name, for example a re-quantised model and golden frames.
        note: For the model card: what was done with which frames.
    """

    calibration: Calibration
    drift: DriftReference | None = None
    models: Mapping[str, ModelEntry] = field(default_factory=dict)
    parity: Mapping[str, ParityResult] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    note: str = ""


def derive(source: Bundle, out: Path, changes: Changes, *, now: datetime) -> Bundle:
    """Write a bundle that differs from its source in its numbers.

    Args:
        source: A verified bundle.
        out: Folder to create; it must not exist.
        changes: What is new.
        now: Aware UTC time of the calibration.

    Returns:
        The new bundle, read back and verified.

    Raises:
        ConfigError: `out` exists.
        BundleError: The source changed on disk, or the result does not verify.
        OSError: The disk refused; `out` does not exist then.
    """
    files = {name: source.read(name) for name in source.manifest.files if name not in changes.files}
    files |= changes.files
    if changes.drift is not None:
        files[DRIFT_NAME] = (changes.drift.model_dump_json() + "\n").encode()
    elif _counted_otherwise(source.manifest.calibration, changes.calibration):
        files.pop(DRIFT_NAME, None)
    if changes.note and CARD_NAME in files:
        files[CARD_NAME] = _card(files[CARD_NAME], changes.note, now)
    manifest = _manifest(source, changes, now)
    listed = {name: file_entry(data) for name, data in sorted(files.items())}
    drift = DRIFT_NAME if DRIFT_NAME in files else None
    return pack(out, manifest.model_copy(update={"files": listed, "drift": drift}), files)


def _counted_otherwise(old: Calibration, new: Calibration) -> bool:
    """Whether the same answers now have another entropy or another share of unsure visits."""
    return (old.temperature, old.ordinal, old.threshold) != (new.temperature, new.ordinal, new.threshold)


def _manifest(source: Bundle, changes: Changes, now: datetime) -> Manifest:
    manifest = source.manifest
    results = {result.role: result for result in manifest.parity.results} | dict(changes.parity)
    return manifest.model_copy(
        update={
            "version": f"{manifest.version.split('+')[0]}+cal.{now:%Y%m%d%H%M%S}",
            "created": now.replace(microsecond=0),
            "models": tuple(changes.models.get(entry.role, entry) for entry in manifest.models),
            "calibration": changes.calibration,
            "parity": manifest.parity.model_copy(update={"results": tuple(results.values())}),
            "provenance": manifest.provenance.model_copy(update={"calibrated_from": source.digest}),
        }
    )


def _card(card: bytes, note: str, now: datetime) -> bytes:
    text = card.decode("utf-8", errors="replace").split(_CARD_HEADING)[0].rstrip()
    return f"{text}\n\n{_CARD_HEADING}\n\n{now:%Y-%m-%d %H:%M} UTC. {note}\n".encode()
