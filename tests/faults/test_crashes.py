"""Twenty starts that fail, one after the other: the right code each time, and the disk does not fill up with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.edge_agent.running import AgentProcess, config_text, write_photos
from tests.faults.kills import read_outbox
from tests.faults.soak import folder_bytes
from tests.faults.writer import entry, open_ledger
from tests.simulators.bundle_factory import spoil_golden

if TYPE_CHECKING:
    from pathlib import Path

_STARTS = 20


@pytest.mark.soak
@pytest.mark.parametrize(("cause", "code"), [("configuration", 78), ("model", 66), ("engine", 70), ("outbox", 0)])
def test_twenty_starts_that_fail_write_next_to_nothing_and_keep_the_outbox(
    tmp_path: Path, tiny_bundle: Path, cause: str, code: int
) -> None:
    state = tmp_path / "state"
    ledger, _ = open_ledger(state)
    ledger.commit([entry(2 * number) for number in range(100)], [])
    ledger.file.close()
    text = config_text(bundle=tiny_bundle, source=write_photos(tmp_path / "photos", [1]), state=state)
    if cause == "configuration":
        text = text.replace('engine = "onnxruntime"', 'engine = "magic"')
    elif cause == "model":
        with (tiny_bundle / "model.cpu.onnx").open("r+b") as model:
            model.seek(100)
            model.write(b"\xff\xff")
    elif cause == "engine":
        spoil_golden(tiny_bundle, "cpu")
    sizes = []
    for _ in range(_STARTS):
        if cause == "outbox":  # damaged again before every start
            with (state / "outbox.db").open("r+b") as file:
                file.write(b"no header")
        agent = AgentProcess.start(tmp_path, text)
        assert agent.wait(300) == code, agent.stderr
        sizes.append(folder_bytes(state))
    stored = {f"event-{2 * number:08d}" for number in range(100)}
    assert stored <= read_outbox(state).counts
    # A start with a damaged outbox counts its photo and reports the rescue; three damaged copies are kept beside it.
    assert sizes[-1] - sizes[3] < (_STARTS - 4) * (8 << 10), sizes
