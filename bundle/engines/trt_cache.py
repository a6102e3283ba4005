"""Built TensorRT engines, kept so that a robot builds once and not at every start.

An engine is executable code that fits one model on one device under one TensorRT, so its name is the hash of all of
that: a changed model, driver, device or flag finds nothing and builds anew. Beside each engine lies its own sha256,
checked before it is loaded. A hash in the same folder does not stop someone who can write there, so a folder that
others can write to is refused. Disk is bounded: the six newest engines stay.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from bundle.durable import write_bytes, write_json
from bundle.errors import EngineError

_KEPT = 6


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything that a built engine depends on.

    Attributes:
        model_sha256: Of the ONNX file.
        tensorrt: Full version.
        device: Name of the graphics processor.
        compute_capability: For example "8.7".
        cuda: Newest CUDA that the driver supports.
        driver: The driver itself, of which many support the same CUDA.
        flags: Everything that the builder was told.
    """

    model_sha256: str
    tensorrt: str
    device: str
    compute_capability: str
    cuda: int
    driver: str
    flags: tuple[str, ...]

    def digest(self) -> str:
        """Name of the engine.

        Returns:
            64 hexadecimal digits.
        """
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def default_folder() -> Path:
    """Where engines are kept: $BINTALLY_CACHE, systemd's CACHE_DIRECTORY, or the user's cache.

    Returns:
        A folder; it need not exist.
    """
    for variable in ("BINTALLY_CACHE", "CACHE_DIRECTORY"):
        if os.environ.get(variable):
            return Path(os.environ[variable].split(":")[0]) / "engines"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "bintally" / "engines"


class EngineCache:
    """Engines in one folder.

    Args:
        folder: Created for its owner alone.

    Raises:
        EngineError: The folder cannot be used, or others may write to it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = folder.stat()
        except OSError as exc:
            raise EngineError(
                f"the engine cache {folder} cannot be used", got=exc.strerror, fix="Set BINTALLY_CACHE to a folder."
            ) from exc
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or status.st_uid not in (0, os.geteuid()):
            raise EngineError(
                f"others may write to the engine cache {folder}",
                got=f"mode {stat.S_IMODE(status.st_mode):o}, owner {status.st_uid}",
                expected=f"mode 700, owner {os.geteuid()}",
                fix="Engines are executable code: correct the folder's owner and mode.",
            )

    def load(self, key: EngineKey) -> tuple[bytes, float] | None:
        """Find a built engine.

        Args:
            key: What it must have been built from.

        Returns:
            The engine and the seconds that building it took, or None when there is none or it is not what was written.
        """
        plan, record = self._files(key)
        try:
            data, facts = plan.read_bytes(), json.loads(record.read_bytes())
        except (OSError, ValueError):
            return None
        bound = isinstance(facts, dict) and facts.get("sha256") == hashlib.sha256(data).hexdigest()
        if not bound or facts.get("key") != json.loads(json.dumps(asdict(key))):
            return None
        return data, float(facts.get("built_in_s", 0.0))

    def save(self, key: EngineKey, engine: bytes, *, built_in_s: float) -> None:
        """Keep a built engine, durably; the oldest beyond six go.

        Args:
            key: What it was built from.
            engine: As TensorRT serialised it.
            built_in_s: Seconds that building took.

        Raises:
            EngineError: The disk refused.
        """
        plan, record = self._files(key)
        facts = {"sha256": hashlib.sha256(engine).hexdigest(), "built_in_s": round(built_in_s, 1), "key": asdict(key)}
        try:
            record.unlink(missing_ok=True)
            write_bytes(plan, engine)
            write_json(record, facts)
            self._sweep()
        except OSError as exc:
            raise EngineError(f"cannot keep an engine in {self._folder}", got=exc.strerror) from exc

    def drop(self, key: EngineKey) -> None:
        """Forget an engine that turned out not to load.

        Args:
            key: Of the engine.
        """
        for file in self._files(key):
            file.unlink(missing_ok=True)

    def timings(self, key: EngineKey) -> bytes:
        """What the builder learned on this device before.

        Args:
            key: Of an engine for this device.

        Returns:
            A serialised timing cache, empty when there is none.
        """
        try:
            return self._timing_file(key).read_bytes()
        except OSError:
            return b""

    def save_timings(self, key: EngineKey, timings: bytes) -> None:
        """Keep what the builder learned; losing it costs time alone.

        Args:
            key: Of the engine that was built.
            timings: Serialised timing cache.

        Raises:
            EngineError: The disk refused.
        """
        try:
            write_bytes(self._timing_file(key), timings)
        except OSError as exc:
            raise EngineError(f"cannot keep timings in {self._folder}", got=exc.strerror) from exc

    def _files(self, key: EngineKey) -> tuple[Path, Path]:
        return self._folder / f"{key.digest()}.plan", self._folder / f"{key.digest()}.json"

    def _timing_file(self, key: EngineKey) -> Path:
        device = f"{key.tensorrt} {key.device} {key.compute_capability} {key.cuda} {key.driver}"
        return self._folder / f"{hashlib.sha256(device.encode()).hexdigest()[:16]}.timing"

    def _sweep(self) -> None:
        for pattern in ("*.plan", "*.timing"):
            files = sorted(self._folder.glob(pattern), key=lambda file: file.stat().st_mtime_ns, reverse=True)
            for file in files[_KEPT:]:
                file.unlink(missing_ok=True)
                file.with_suffix(".json").unlink(missing_ok=True)
