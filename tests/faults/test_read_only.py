"""A file system that turns read-only under the agent, as ext4 does after an error. Needs root and loop devices."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.edge_agent.running import AgentProcess, config_text, write_photos
from tests.edge_agent.waiting import wait_until
from tests.faults.kills import read_outbox
from tests.faults.power import can_mount, make_disk, mounted


def turn_read_only(point: Path) -> None:
    """Let ext4 find an error, after which it takes no more writes until it is checked and mounted anew."""
    subprocess.run(["mount", "-o", "remount,errors=remount-ro", str(point)], check=True)
    command = ["findmnt", "-no", "SOURCE", str(point)]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    trigger = Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
    if not trigger.exists():
        pytest.skip("this kernel lets nobody trigger an error of ext4")
    trigger.write_text("tests/faults", encoding="ascii")


@pytest.mark.soak
def test_state_that_turns_read_only_ends_the_agent_with_its_code_and_loses_nothing(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    if not can_mount():
        pytest.skip("needs root and loop devices")
    photos, disk = write_photos(tmp_path / "photos", [1, 2, 3]), make_disk(tmp_path / "disk")
    point = tmp_path / "mount"
    camera = "repeat = true\npause_s = 0.02"
    text = config_text(bundle=tiny_bundle, source=photos, state=point / "state", camera=camera)
    with mounted(disk, point):
        agent = AgentProcess.start(tmp_path, text)
        wait_until(lambda: len(agent.counts) >= 20, what="counts")
        turn_read_only(point)
        assert agent.wait() == 75, agent.stderr
        again = AgentProcess.start(tmp_path, text)
        assert again.wait() == 75, again.stderr
        assert any("ead-only" in line for line in again.stderr), again.stderr
    subprocess.run(["e2fsck", "-p", str(disk)], check=False, capture_output=True)  # as a boot does
    with mounted(disk, point):
        assert {count["event_id"] for count in agent.counts} <= read_outbox(point / "state").counts
        last = AgentProcess.start(tmp_path, text)
        wait_until(lambda: len(last.counts) >= 5, what="counts afterwards")
        assert last.terminate() == 0, last.stderr
