"""Where a robot keeps its bundles: install, activate, roll back, each of them whole or not at all.

```
ROOT/bundles/<digest>/   one verified bundle per folder, never modified
ROOT/state.json          {"current": digest, "previous": digest}, replaced atomically
```
A killed install leaves a folder under ROOT/incoming/, which the next install sweeps. The switch is one rename of
state.json, so a reader sees the old bundle or the new one. Disk is bounded: after an activation only current, previous
and, where `bundle.probation` names another one, the last bundle that proved itself stay.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bundle.durable import fsync_dir, fsync_tree, write_json
from bundle.errors import BundleError, IntegrityError
from bundle.manifest import MANIFEST_NAME
from bundle.probation import read_note
from bundle.verify import Bundle, load_bundle

if TYPE_CHECKING:
    from pathlib import Path

_STATE_NAME = "state.json"


@dataclass(frozen=True, slots=True)
class _State:
    current: str | None = None
    previous: str | None = None


class Store:
    """Bundles on one robot.

    One process writes at a time (the agent or the command that replaces it); readers need no lock.

    Args:
        root: Folder of the store; created on first use.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._bundles = root / "bundles"
        self._incoming = root / "incoming"

    def install(self, source: Path) -> Bundle:
        """Copy a bundle in, verified before and after; it is not activated.

        Args:
            source: Folder of a bundle.

        Returns:
            The installed bundle.

        Raises:
            BundleError: The source or the copy does not verify.
            OSError: The disk refused; the store is as it was.
        """
        bundle = load_bundle(source)
        self._bundles.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._incoming, ignore_errors=True)
        target = self._bundles / bundle.digest
        if _is_whole(target):
            return load_bundle(target)
        incoming = self._incoming / bundle.digest
        incoming.mkdir(parents=True)
        for name in (*bundle.manifest.files, MANIFEST_NAME):
            shutil.copyfile(source / name, incoming / name)
        fsync_tree(incoming)
        if load_bundle(incoming).digest != bundle.digest:
            raise IntegrityError(f"{source} changed while it was copied", fix="Install it again.")
        if target.exists():  # damaged on this disk: set aside, swept by the next install
            target.rename(self._incoming / "damaged")
        incoming.rename(target)
        fsync_dir(self._bundles)
        return load_bundle(target)

    def activate(self, digest: str) -> Bundle:
        """Make an installed bundle the current one; the current one becomes previous.

        Args:
            digest: Of an installed bundle.

        Returns:
            The bundle that is current now.

        Raises:
            BundleError: Nothing installed has this digest, or it does not verify.
        """
        bundle = self.installed(digest)
        state = self._state()
        if state.current != digest:
            self._write(_State(current=digest, previous=state.current))
        self._sweep()
        return bundle

    def rollback(self, *, forget: bool = False) -> Bundle:
        """Swap current and previous.

        Args:
            forget: The bundle that is left behind proved bad: no later rollback may bring it back, so it is removed.

        Returns:
            The bundle that is current now.

        Raises:
            BundleError: There is no previous bundle, or it does not verify.
        """
        state = self._state()
        if state.previous is None:
            raise BundleError(f"store {self._root} has no previous bundle", fix="Install and activate another one.")
        bundle = self.installed(state.previous)
        self._write(_State(current=state.previous, previous=None if forget else state.current))
        if forget:
            self._sweep()
        return bundle

    def go_back(self, digest: str) -> Bundle:
        """Make a bundle the current one, and remove every other one: what came after it proved bad.

        Args:
            digest: Of an installed bundle.

        Returns:
            The bundle that is current now.

        Raises:
            BundleError: Nothing installed has this digest, or it does not verify.
        """
        bundle = self.installed(digest)
        self._write(_State(current=digest))
        self._sweep()
        return bundle

    def discard(self, digest: str) -> None:
        """Remove an installed bundle that is not wanted; the current, the previous and the trusted one stay.

        Args:
            digest: Of it.

        Raises:
            BundleError: The state file is damaged.
        """
        if digest not in self._kept():
            shutil.rmtree(self._bundles / digest, ignore_errors=True)

    def current(self) -> Bundle:
        """The bundle to run.

        Returns:
            The current bundle, verified.

        Raises:
            BundleError: None is active, or it does not verify.
        """
        digest = self._state().current
        if digest is None:
            raise BundleError(
                f"store {self._root} has no active bundle",
                fix="Run `bintally bundle install FOLDER --store STORE`.",
            )
        return self.installed(digest)

    def previous(self) -> Bundle | None:
        """The bundle that a rollback would bring back.

        Returns:
            The previous bundle, verified, or None.

        Raises:
            BundleError: It does not verify.
        """
        digest = self._state().previous
        return self.installed(digest) if digest else None

    @property
    def digests(self) -> tuple[str | None, str | None]:
        """Of the current and of the previous bundle, neither of them verified.

        Raises:
            BundleError: The state file is damaged.
        """
        state = self._state()
        return state.current, state.previous

    def has(self, digest: str) -> bool:
        """Ask whether a bundle is installed, without a look into it.

        Args:
            digest: Of it.
        """
        return (self._bundles / digest).is_dir()

    def installed(self, digest: str) -> Bundle:
        """An installed bundle.

        Args:
            digest: Of it.

        Returns:
            It, verified.

        Raises:
            BundleError: Nothing installed has this digest, or it does not verify.
        """
        path = self._bundles / digest
        if not path.is_dir():
            raise BundleError(f"store {self._root} has no bundle {digest[:12]}", fix="Install it first.")
        bundle = load_bundle(path)
        if bundle.digest != digest:
            raise IntegrityError(f"{path / MANIFEST_NAME} was altered after it was installed", fix="Install it again.")
        return bundle

    def _state(self) -> _State:
        file = self._root / _STATE_NAME
        if not file.exists():
            return _State()
        try:
            return _State(**json.loads(file.read_bytes()))
        except (OSError, ValueError, TypeError) as exc:
            raise BundleError(
                f"{file} is damaged", got=repr(exc), fix="Delete it and activate a bundle again."
            ) from exc

    def _write(self, state: _State) -> None:
        write_json(self._root / _STATE_NAME, {"current": state.current, "previous": state.previous})

    def _kept(self) -> tuple[str | None, ...]:
        note = read_note(self._root)
        return (*self.digests, None if note is None else note.trusted)

    def _sweep(self) -> None:
        kept = self._kept()
        for folder in self._bundles.iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    if not folder.exists():
        return False
    try:
        load_bundle(folder)
    except BundleError:
        return False
    return True
