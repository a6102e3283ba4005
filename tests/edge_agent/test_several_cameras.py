from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bundle.counter import Counter
from bundle.engines.base import Engine
from bundle.errors import EngineError
from edge_agent.agent import Agent
from edge_agent.assemble import assemble
from edge_agent.capture.camera import Camera
from edge_agent.capture.frames import Frame
from edge_agent.commands.exchange import Exchange
from edge_agent.messages import CountMessage
from edge_agent.outbox.outbox import Outbox
from tests.edge_agent.running import config_text, load_text, write_photos

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edge_agent.capture.frames import Notice
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


def test_agent_no_camera_is_started_anew_while_a_frame_of_the_turn_waits_for_room(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: set[str] = set()
    wrong: list[str] = []
    refused: list[bool] = []
    receive, release, tick, put, serve = Camera.receive, Camera.release, Camera.tick, Outbox.put, Exchange.serve

    def received(self: Camera) -> Frame | list[Notice]:
        item = receive(self)
        if isinstance(item, Frame):
            held.add(self.name)
        return item

    def released(self: Camera, frame: Frame, wanted_s: float = 0.0) -> None:
        held.discard(self.name)
        release(self, frame, wanted_s)

    def ticked(self: Camera) -> list[Notice]:
        wrong.extend(held)
        return tick(self)

    def served(self: Exchange) -> None:
        wrong.extend(held)
        serve(self)

    def full(self: Outbox, entry: Entry, *, timeout_s: float) -> bool:
        """Every count is refused once."""
        refused.append(not (refused and refused[-1]))
        return not refused[-1] and put(self, entry, timeout_s=timeout_s)

    for target, name, spy in (
        (Camera, "receive", received),
        (Camera, "release", released),
        (Camera, "tick", ticked),
        (Exchange, "serve", served),
        (Outbox, "put", full),
    ):
        monkeypatch.setattr(target, name, spy)
    assert sorted(_run(tmp_path, tiny_bundle)) == _expected()
    assert refused.count(True) >= len(_COUNTS)
    assert wrong == []
