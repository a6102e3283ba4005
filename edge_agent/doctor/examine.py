"""All examinations, in the order in which a person would repair things."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.doctor import cameras, files, remote
from edge_agent.doctor.finding import Finding, failure
from edge_agent.records import read_records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.config import AgentConfig


def examine(config: AgentConfig) -> Iterator[Finding]:
    """Examine everything that an agent needs. Publishes one event and stores one small object.

    Args:
        config: Paths absolute, as `load_config` gives it.

    Yields:
        Findings as they are made: what is slow comes last.
    """
    yield files.examine_clock()
    yield from cameras.examine_cameras(config)
    yield files.examine_state(config)
    yield from _records(config)
    yield from files.examine_secrets(config)
    yield from files.examine_certificates(config)
    yield from files.examine_bundle(config)
    yield remote.examine_broker(config)
    yield remote.examine_store(config)
    yield remote.examine_service()


def _records(config: AgentConfig) -> Iterator[Finding]:
    from bundle.errors import BintallyError

    if config.records is None:
        return
    try:
        yield Finding("records", "ok", f"{len(read_records(config.records.file))} bins")
    except BintallyError as exc:
        yield failure("records", exc)
