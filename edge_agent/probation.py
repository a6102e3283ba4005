"""A newly activated bundle that brings the agent down again and again is taken back; `bundle.probation` has the rule.

A model can pass its trial and crash its runtime an hour later, take all memory, or hang. The start is therefore noted
on disk before the bundle is loaded, and the note is taken away at every end that is not the bundle's doing: an end in
order, a wrong configuration, a broken disk. What a kill, a crash or the watchdog leaves behind is counted. A plain
folder that the configuration names is no store, and is never on probation.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bundle.errors import BintallyError, BundleError, EngineError
from bundle.manifest import MANIFEST_NAME
from bundle.probation import MAX_CRASHES, Note, TakenBack, read_note, started, write_note
from bundle.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LOG = logging.getLogger(__name__)

PROVEN_AFTER_S = 600.0
"""A bundle that has counted for so long, without an end of the agent between, has proved itself."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Probation:
    """Watches over what the store's bundle does to the agent. Belongs to the agent's loop.

    Args:
        path: A store; anything else is never on probation.
        boot: Names the time since the machine was started.
        clock: Monotonic seconds.
    """

    def __init__(self, path: Path, *, boot: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = path
        self._is_store = not (path / MANIFEST_NAME).is_file() and (path / "state.json").is_file()
        self._boot = _boot() if boot is None else boot
        self._clock = clock
        self._note: Note | None = None
        self._since_s: float | None = None
        self._leaving = False

    def begin(self) -> None:
        """Note a start, before anything of the bundle is loaded; go back if there were too many crashes."""
        self._follow()
        if self._note is not None and self._note.crashes >= MAX_CRASHES:
            self.take_back(f"the agent ended {self._note.crashes} times with it")

    def swapped(self) -> None:
        """Note that the agent counts with what is the store's current bundle now."""
        self._since_s = None
        self._follow()

    def _follow(self) -> None:
        if not self._is_store:
            return
        try:
            store, note = Store(self._root), read_note(self._root)
            current, _ = store.digests
        except BundleError:  # told when the bundle is loaded
            return
        if current is None or (self._note is not None and self._note.digest == current):
            return
        way_back = note is not None and store.has(note.trusted)
        self._keep(started(note, current, self._boot, way_back=way_back))
        if self._leaving:  # it was to go before it began
            self.acquit()

    def take_back(self, why: str) -> bool:
        """Go back to the last bundle that proved itself, if the current one is on probation.

        Args:
            why: What it did.

        Returns:
            Whether another bundle is current now.
        """
        note, store = self._note, Store(self._root)
        if note is None or not note.on_probation:
            return False
        try:
            trusted = store.installed(note.trusted)
            words = f"bundle {_label(store, note.digest)} was taken back: {why}; {trusted.label} counts again"
            taken = TakenBack(digest=note.digest, words=words)
            # The intent first: whenever the machine stops, the next start goes back too, or knows that it has.
            write_note(self._root, note.model_copy(update={"back_to": trusted.digest, "taken_back": taken}))
            store.go_back(trusted.digest)
        except (BundleError, OSError) as exc:
            _LOG.error("the bundle cannot be taken back: %s", exc)
            return False
        _LOG.error("%s", words)
        self._keep(Note(digest=trusted.digest, trusted=trusted.digest, taken_back=taken))
        return True

    def counted(self) -> None:
        """Note that a count was made."""
        if self._note is None or not self._note.on_probation:
            return
        now_s = self._clock()
        self._since_s = now_s if self._since_s is None else self._since_s
        if now_s - self._since_s >= PROVEN_AFTER_S:
            self._since_s = None
            self._keep(self._note.model_copy(update={"trusted": self._note.digest, "crashes": 0, "running": ""}))
            _LOG.info("bundle %.12s has proved itself", self._note.digest)

    def acquit(self) -> None:
        """Note that the agent ends, and not because of the bundle. A signal's handler may call it at any time."""
        self._leaving = True
        if self._note is not None and self._note.running:
            self._keep(self._note.model_copy(update={"running": ""}))

    @contextmanager
    def fair(self) -> Iterator[None]:
        """An error in the block that is not the bundle's doing is not held against it.

        Yields:
            Nothing.
        """
        try:
            yield
        except (BundleError, EngineError):
            raise
        except BintallyError:
            self.acquit()
            raise

    @property
    def untold(self) -> TakenBack | None:
        """A bundle that was taken back, of which no event has told yet."""
        taken = None if self._note is None else self._note.taken_back
        return None if taken is None or taken.told else taken

    def told(self) -> None:
        """Note that the event about it is on disk."""
        if self._note is not None and self.untold is not None:
            taken = self.untold.model_copy(update={"told": True})
            self._keep(self._note.model_copy(update={"taken_back": taken}))

    def _keep(self, note: Note) -> None:
        before, self._note = self._note, note
        if note not in (before, read_note(self._root)):
            self._write(note)

    def _write(self, note: Note) -> None:
        try:
            write_note(self._root, note)
        except OSError as exc:  # a full disk must not keep the agent from counting
            _LOG.warning("%s cannot be written, so that crashes are not counted: %s", self._root, exc.strerror)
        if self._note is not note and self._note is not None:  # a signal came in between: its note is the newer one
            self._write(self._note)


def _boot() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return "unknown"


def _label(store: Store, digest: str) -> str:
    try:
        return store.current().label
    except BundleError:  # damaged
        return digest[:12]
