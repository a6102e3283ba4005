"""Which bundle counts, and on what it runs: from the configuration to a counter that is ready."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bundle.counter import Counter
from bundle.engines.choose import open_engine
from bundle.errors import BundleError, ConfigError
from bundle.manifest import MANIFEST_NAME
from bundle.store import Store
from bundle.verify import load_bundle

if TYPE_CHECKING:
    from bundle.verify import Bundle
    from edge_agent.config import BundleSection
    from edge_agent.probation import Probation


def engine_threads(section: BundleSection) -> int:
    """How many threads an engine gets.

    Args:
        section: Of the configuration.

    Returns:
        What it says, or all cores but one: capture and delivery need it.
    """
    return section.threads or max(1, (os.cpu_count() or 2) - 1)


def find_bundle(section: BundleSection) -> Bundle:
    """Verify the bundle that a configuration names.

    Args:
        section: `path` is a bundle's folder, or a store.

    Returns:
        The bundle, every file hashed.

    Raises:
        ConfigError: There is neither a bundle nor a store.
        BundleError: The store has no active bundle, or the bundle does not verify.
    """
    path = section.path
    if (path / MANIFEST_NAME).is_file():
        return load_bundle(path)
    if (path / "state.json").is_file() or (path / "bundles").is_dir():
        return Store(path).current()
    raise ConfigError(
        f"bundle.path {path} {'is neither a bundle nor a store' if path.exists() else 'does not exist'}",
        expected="a folder with a manifest.json, or a store of bundles",
        fix="Correct it, or run `bintally bundle install FOLDER --store STORE` and name that store.",
    )


def open_counter(section: BundleSection) -> Counter:
    """Load the bundle that a configuration names.

    Args:
        section: Which, and how.

    Returns:
        A counter that is ready.

    Raises:
        BundleError: The store has no active bundle, or the bundle does not verify.
        ConfigError: No such bundle or engine.
        EngineError: The runtime refuses it.
    """
    bundle = find_bundle(section)
    return Counter(bundle, open_engine(bundle, engine=section.engine, threads=engine_threads(section)))


def first_counter(section: BundleSection, probation: Probation) -> Counter:
    """Load the bundle that counts when the agent starts; one on probation that cannot be loaded is taken back at once.

    Args:
        section: Which, and how.
        probation: Of the bundle.

    Returns:
        A counter that is ready.

    Raises:
        BintallyError: See `open_counter`; no systemd starts an agent again whose bundle is refused.
    """
    probation.begin()
    try:
        return open_counter(section)
    except BundleError as exc:
        if not probation.take_back(str(exc)):
            raise
    return open_counter(section)
