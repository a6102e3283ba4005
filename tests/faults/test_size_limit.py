"""RLIMIT_FSIZE: where the kernel lets no file grow, the agent waits as on a full disk, and goes on when it may."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

from tests.edge_agent.running import AgentProcess, config_text, write_photos
from tests.edge_agent.waiting import wait_until
from tests.faults.kills import read_outbox
from tests.simulators.bundle_factory import make_bundle

if TYPE_CHECKING:
    from pathlib import Path

_ROOM_BYTES = 100_000


def limit_files(agent: AgentProcess, size: int) -> None:
    resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def wait_for_silence(agent: AgentProcess) -> None:
    """Wait until no count was accepted for two seconds."""
    seen, since_s = -1, time.monotonic()

    def is_silent() -> bool:
        nonlocal seen, since_s
        if len(agent.counts) != seen:
            seen, since_s = len(agent.counts), time.monotonic()
        return agent.ended or time.monotonic() > since_s + 2.0

    wait_until(is_silent, what="the limit")


def test_agent_whose_files_may_not_grow_waits_and_goes_on_when_they_may(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", [n % 6 + 0.5 * (n % 5 == 0) for n in range(20)])
    state, upload = tmp_path / "state", f'[uploads]\nfolder = "{tmp_path / "up"}"\n'
    text = config_text(
        bundle=make_bundle(tmp_path / "tiny"), source=photos, state=state, camera="repeat = true", rest=upload
    )
    agent = AgentProcess.start(tmp_path, text)  # no broker: everything stays in the outbox
    try:
        wait_until(lambda: len(agent.counts) > 20 or agent.ended, what="counts")
        largest = max((state / name).stat().st_size for name in ("outbox.db", "outbox.db-wal"))
        limit_files(agent, largest + _ROOM_BYTES)
        wait_for_silence(agent)
        before = len(agent.counts)
        assert not agent.ended, agent.stderr
        limit_files(agent, resource.RLIM_INFINITY)
        wait_until(lambda: len(agent.counts) > before + 20 or agent.ended, what="counts again")
        assert agent.terminate() == 0, agent.stderr
    finally:
        if not agent.ended:
            agent.kill()
    assert {count["event_id"] for count in agent.counts} <= read_outbox(state).counts
    assert "counts_evicted" not in read_outbox(state).drops
