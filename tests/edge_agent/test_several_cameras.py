from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bundle.counter import Counter
from bundle.engines.base import Engine
from bundle.errors import EngineError
from edge_agent.agent import Agent
from edge_agent.assemble import assemble
from edge_agent.messages import CountMessage
from tests.edge_agent.running import config_text, load_text, write_photos

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edge_agent.capture.camera import Camera
    from edge_agent.outbox.rows import Entry

_COUNTS = [0, 1, 2, 3, 4, 5] * 5


def _run(folder: Path, bundle: Path) -> list[tuple[str, str, str]]:
    """Count the photos of two cameras; returns camera, bin and label of each count."""
    first, second = (write_photos(folder / name, counts) for name, counts in (("a", _COUNTS), ("b", _COUNTS[::-1])))
    camera = f'name = "a"\n[[cameras]]\nname = "b"\nsource = "{second}"\n'
    text = config_text(bundle=bundle, source=first, state=folder / "state", camera=camera)
    seen: list[tuple[str, str, str]] = []

    def note(entry: Entry) -> None:
        message = CountMessage.model_validate_json(entry.payload)
        seen.append((message.camera, message.bin_id, message.label))

    assemble(load_text(folder, text), on_accepted=note).run()
    return seen


@pytest.fixture(autouse=True)
def _cameras_in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both cameras have a frame, or neither is looked at: chance must not decide whether a call is shared."""
    ready = Agent._ready_cameras

    def in_step(self: Agent) -> list[Camera]:
        found = ready(self)
        running = [camera for camera in self.parts.cameras if not camera.ended]
        return found if len(found) == len(running) else []

    monkeypatch.setattr(Agent, "_ready_cameras", in_step)


def _expected() -> list[tuple[str, str, str]]:
    return sorted(
        (name, f"{number:04d}", str(count))
        for name, counts in (("a", _COUNTS), ("b", _COUNTS[::-1]))
        for number, count in enumerate(counts)
    )


def test_agent_frames_of_two_cameras_share_engine_calls_and_keep_apart(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    infer = Engine.infer

    def watched(self: Engine, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        sizes.append(len(tensor))
        return infer(self, tensor)

    monkeypatch.setattr(Engine, "infer", watched)
    assert sorted(_run(tmp_path, tiny_bundle)) == _expected()
    assert sizes.count(2) >= len(_COUNTS)


def test_agent_a_shared_call_that_fails_costs_no_camera_its_count(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, failed = Counter.logits, list[int]()

    def fussy(self: Counter, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        if len(images) > 1:
            failed.append(len(images))
            raise EngineError("one at a time, please")
        return logits(self, images)

    monkeypatch.setattr(Counter, "logits", fussy)
    assert sorted(_run(tmp_path, tiny_bundle)) == _expected()
    assert failed
