"""A network camera that answers with hostile images now and then, before a real agent; prints its figures.

`pytest -m soak -s tests/edge_agent/test_hostile_snapshots_soak.py`
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.images import encode_jpeg
from demo.render import render_bin
from tests.edge_agent.running import AgentProcess, config_text
from tests.edge_agent.test_hostile_images_soak import Watch, sound
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import MOSQUITTO, Mosquitto, Subscriber
from tests.simulators.hostile_images import REFUSED, hostile_images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary")

_SEED, _AMOUNT, _EVERY = 8, 200, 4
_CAMERA = "fps = 50.0\nlook_fps = 50.0\n[cameras.visit]\ninterval_s = 0.05\nframes = 1"


class Answers:
    """What the camera answers: sound photos of two items, every fourth time something hostile while there is any."""

    def __init__(self) -> None:
        photos = [render_bin(seed, size_wh=(200, 160)).image_bgr for seed in range(2)]
        stream = hostile_images(_SEED, 3 * _AMOUNT, photos)
        self._hostile = [data for way, _, data in stream if way in REFUSED][:_AMOUNT]
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        return len(self._hostile)

    def next(self) -> bytes:
        with self._lock:
            number = next(self._numbers)
            if number % _EVERY == _EVERY - 1 and self._hostile:
                return self._hostile.pop()
        return encode_jpeg(np.asarray(sound(2, number), np.uint8))


@contextmanager
def network_camera(answers: Answers) -> Iterator[str]:
    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = answers.next()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"snapshot+http://127.0.0.1:{server.server_address[1]}/x.jpg"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.soak
def test_hostile_answers_of_a_network_camera_are_survived_and_counted_never(tmp_path: Path, tiny_bundle: Path) -> None:
    answers, watch = Answers(), Watch()
    hostile = answers.left
    with (
        Mosquitto(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        network_camera(answers) as address,
    ):
        state = tmp_path / "state"
        text = config_text(bundle=tiny_bundle, source=address, state=state, port=broker.port, camera=_CAMERA)
        agent = AgentProcess.start(tmp_path, text)
        began_s = time.monotonic()

        def over() -> bool:
            watch.look(agent.process.pid, subscriber)
            assert not agent.ended, agent.stderr[-20:]
            return answers.left == 0

        wait_until(over, timeout_s=1800, what="the last hostile answer")
        counted = len(agent.counts)
        wait_until(lambda: len(agent.counts) > counted, what="a count after the last hostile answer")
        took_s = time.monotonic() - began_s
        code = agent.terminate()
    labels = {count["label"] for count in agent.counts}
    figures = {
        "seed": _SEED,
        "hostile": hostile,
        "counts": len(agent.counts),
        "labels": sorted(labels),
        "seconds": round(took_s, 1),
        "exit_code": code,
        "agent_mib": watch.shown_mib(0),
        "growth_mib": watch.growth_mib(0),
    }
    print(json.dumps(figures))  # noqa: T201 - the figures
    assert code == 0
    assert labels == {"2"}
    assert watch.growth_mib(0) < 4
