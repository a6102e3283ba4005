"""Commands that change what counts: deploy and rollback. Whatever fails, the old bundle counts on.

The store's switch is durable and atomic; the agent's loop takes the new counter between two visits. If it does not, the
store goes back.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, cast

from bundle.counter import Counter
from bundle.engines.choose import open_engine
from bundle.manifest import MANIFEST_NAME
from bundle.probation import taken_back
from bundle.store import Store
from bundle.verify import read_manifest
from edge_agent.commands.fetch import fetch, open_source
from edge_agent.commands.order import Done, Handler
from edge_agent.commands.reasons import CommandError, Reason
from edge_agent.commands.trial import try_bundle
from edge_agent.loading import engine_threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydantic import JsonValue

    from bundle.verify import Bundle
    from edge_agent.commands.exchange import Exchange
    from edge_agent.commands.order import Order, Progress
    from edge_agent.commands.schema import Deploy
    from edge_agent.config import AgentConfig, BundleSection

_SWAP_TIMEOUT_S = 60.0
_SAY_EVERY = 0.1


class Switch:
    """The robot's store and the agent's loop, changed together.

    Args:
        section: Where bundles are, and what runs them.
        exchange: To the agent's loop.
        counting: Digest of what counts now.
    """

    def __init__(self, section: BundleSection, exchange: Exchange, counting: Callable[[], str]) -> None:
        self._section = section
        self._exchange = exchange
        self._counting = counting

    def store(self) -> Store:
        """The robot's store.

        Returns:
            It.

        Raises:
            CommandError: The robot has none.
        """
        if (self._section.path / MANIFEST_NAME).is_file():
            raise CommandError(Reason.NO_STORE)
        return Store(self._section.path)

    @property
    def root(self) -> Path:
        """Folder of the store."""
        return self._section.path

    @property
    def counting(self) -> str:
        """Digest of what counts now: not the store's, when a bundle was installed there and the agent goes on."""
        return self._counting()

    def load(self, bundle: Bundle) -> Counter:
        """Load a bundle, after it was tried in a process of its own.

        Args:
            bundle: Verified.

        Returns:
            A counter that nobody uses yet.

        Raises:
            EngineError: It does not run here.
        """
        threads = engine_threads(self._section)
        try_bundle(bundle.path, self._section, threads)
        return Counter(bundle, open_engine(bundle, engine=self._section.engine, threads=threads))

    def count_with(self, counter: Counter) -> None:
        """Hand a counter to the agent's loop.

        Args:
            counter: The new one.

        Raises:
            CommandError: The loop did not take it.
        """
        if not self._exchange.swap(counter, _SWAP_TIMEOUT_S):
            counter.close()
            raise CommandError(Reason.INTERNAL, "the agent's loop did not take the bundle", state="failed")

    def follow_store(self) -> bool:
        """Count with what the store says, after somebody else has switched it.

        Returns:
            Whether it was another bundle.

        Raises:
            BundleError: The store's bundle does not verify.
            EngineError: It does not run here.
            CommandError: The loop did not take it.
        """
        bundle = Store(self._section.path).current()
        if bundle.digest == self.counting:
            return False
        self.count_with(self.load(bundle))
        return True


class DeployHandler(Handler):
    """Fetches, verifies, tries and activates a bundle.

    Args:
        config: The agent's.
        switch: Store and loop.
    """

    def __init__(self, config: AgentConfig, switch: Switch) -> None:
        self._config = config
        self._switch = switch
        self._part = config.state.path / "bundle.part"

    def run(self, order: Order, progress: Progress) -> Done | None:
        """Deploy; see `Handler.run`."""
        command = cast("Deploy", order.command)
        store = self._switch.store()
        source = open_source(command.source, self._config.commands, self._config.s3, self._config.robot.id)
        before, counted = store.current(), self._switch.counting
        if before.digest == command.digest:
            followed = self._switch.follow_store()
            return Done(f"{before.label} {'counts' if followed else 'is active already'}", _switched(counted, before))
        try:
            if not fetch(source, command.digest, self._part, self._config.commands.max_bundle_bytes, _Pulse(progress)):
                return None
            _refuse_older(self._part, before, allowed=command.allow_older)
            bundle = store.install(self._part)
        finally:
            shutil.rmtree(self._part, ignore_errors=True)
        progress.say(0.7, "trying it")
        try:
            counter = self._switch.load(bundle)
        except BaseException:
            store.discard(bundle.digest)  # bundles that fail their trial must not fill the disk
            raise
        progress.say(0.9, "switching", {"target": bundle.digest})
        store.activate(bundle.digest)
        try:
            self._switch.count_with(counter)
        except CommandError:
            store.rollback(forget=True)
            raise
        return Done(f"{bundle.label} counts", _switched(counted, bundle))

    def resume(self, order: Order, progress: Progress) -> Done | None:
        """Say whether the switch was made; see `Handler.resume`."""
        del progress
        shutil.rmtree(self._part, ignore_errors=True)
        return _after_restart(self._switch, cast("Deploy", order.command).digest)


class RollbackHandler(Handler):
    """Goes back to the previous bundle.

    Args:
        switch: Store and loop.
    """

    def __init__(self, switch: Switch) -> None:
        self._switch = switch

    def run(self, order: Order, progress: Progress) -> Done:
        """Go back; see `Handler.run`."""
        del order
        store = self._switch.store()
        counted, bundle = self._switch.counting, store.previous()
        if bundle is None:
            raise CommandError(Reason.NO_PREVIOUS)
        if bundle.digest == counted:
            store.rollback()
            return Done(f"{bundle.label} counts on; the store's bundle had not counted yet", _switched(counted, bundle))
        counter = self._switch.load(bundle)
        progress.say(0.9, "switching", {"target": bundle.digest})
        store.rollback()
        try:
            self._switch.count_with(counter)
        except CommandError:
            store.rollback()
            raise
        return Done(f"{bundle.label} counts again", _switched(counted, bundle))

    def resume(self, order: Order, progress: Progress) -> Done:
        """Say whether the switch was made; see `Handler.resume`."""
        del progress
        target = json.loads(order.last).get("detail", {}).get("target") if order.last else None
        return _after_restart(self._switch, target)


class _Pulse:
    """Tells how a download goes on, not too often."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._said = -1.0

    def __call__(self, share: float) -> bool:
        if share >= self._said + _SAY_EVERY:
            self._said = share
            self._progress.say(0.6 * share, "fetching")
        return self._progress.wait(0)


def _refuse_older(folder: Path, active: Bundle, *, allowed: bool) -> None:
    """Keep a bundle from coming back that a newer one has replaced, unless that is wanted."""
    made, _ = read_manifest(folder)
    if made.created < active.manifest.created and not allowed:
        words = (
            f"it was made at {made.created:%Y-%m-%d %H:%M}, the active one at {active.manifest.created:%Y-%m-%d %H:%M}"
        )
        raise CommandError(Reason.OLDER_BUNDLE, words)


def _switched(before: str, after: Bundle) -> dict[str, JsonValue]:
    return {"digest": after.digest, "bundle": after.label, "before": before}


def _after_restart(switch: Switch, target: str | None) -> Done:
    current = switch.store().current()
    if target is not None and current.digest == target:
        return Done(f"{current.label} counts; the agent ended after the switch", {"digest": current.digest})
    if target is not None and (taken := taken_back(switch.root, target)) is not None:
        raise CommandError(Reason.BUNDLE_REFUSED, taken.words, state="failed")
    # A rollback's target is written down before the switch, but a full disk does not hold the switch up.
    when = "before the switch" if target is not None else "before it wrote a switch down"
    raise CommandError(Reason.INTERRUPTED, f"the agent ended {when}; {current.label} counts", state="failed")
