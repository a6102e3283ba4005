from __future__ import annotations

import base64
import itertools
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.errors import CameraError, ConfigError
from bundle.images import decode, encode_jpeg
from bundle.manifest import Preprocessing
from edge_agent.capture.camera import Camera
from edge_agent.capture.child import is_readable
from edge_agent.capture.frames import Frame
from edge_agent.capture.snapshot import SnapshotSource
from edge_agent.capture.sources import Picture
from edge_agent.config import CameraSection
from tests.edge_agent.waiting import wait_until
from tests.simulators.bundle_factory import grey

if TYPE_CHECKING:
    from collections.abc import Iterator

_JPEG = encode_jpeg(grey(2))
_MAX_PIXELS = 10_000


class _Camera(BaseHTTPRequestHandler):
    """A network camera: what the path says is what it does."""

    elsewhere = ""
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path == "/private" and self.headers["Authorization"] != f"Basic {base64.b64encode(b'u:s3cret').decode()}":
            self._answer(401, b"", {"WWW-Authenticate": 'Basic realm="camera"'})
        elif path == "/moved":
            self._answer(302, b"", {"Location": "/x.jpg"})
        elif path == "/away":
            self._answer(302, b"", {"Location": f"{self.elsewhere}/x.jpg?token=t0ken"})
        elif path == "/file":
            self._answer(302, b"", {"Location": "file:///etc/passwd"})
        elif path == "/portal":
            self._answer(200, b"<html>Sign in to the network</html>")
        elif path == "/bomb":
            self._answer(200, b"\xff\xd8" + bytes(17 << 20))
        elif path == "/busy":
            self._answer(503, b"")
        else:
            self._answer(200, _JPEG)

    def _answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            return  # The agent has seen enough.

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def _network_camera(elsewhere: str = "") -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (_Camera,), {"asked": asked, "elsewhere": elsewhere})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _pictures(address: str, count: int = 1) -> list[Picture]:
    source = SnapshotSource(address, max_pixels=_MAX_PIXELS, pause_s=0.01)
    return [item for item in itertools.islice(source.read(0, lambda _: None), count) if isinstance(item, Picture)]


def test_snapshot_source_gives_picture_after_picture_with_the_file() -> None:
    with _network_camera() as (host, asked):
        found = _pictures(f"snapshot+http://{host}/x.jpg?channel=1", 3)
    assert [picture.index for picture in found] == [0, 1, 2]
    assert asked == ["/x.jpg?channel=1"] * 3
    assert found[0].encoded == _JPEG
    assert np.array_equal(found[0].image_bgr, decode(_JPEG, name="it"))


def test_snapshot_source_asks_for_no_picture_before_it_is_wanted() -> None:
    with _network_camera() as (host, asked):
        source = SnapshotSource(f"snapshot+http://{host}/x.jpg", max_pixels=_MAX_PIXELS, pause_s=0.01)
        pictures = source.read(0, lambda _: None)
        next(pictures)
        source.wanted_s = time.monotonic() + 0.3
        later = next(pictures)
    assert isinstance(later, Picture)
    assert later.captured_mono_s >= source.wanted_s
    assert len(asked) == 2


def test_camera_of_which_no_picture_is_wanted_rests_and_is_asked_again_in_time() -> None:
    with _network_camera() as (host, _):
        settings = CameraSection(source=f"snapshot+http://{host}/x.jpg", fps=1000.0, look_fps=1000.0)
        camera = Camera(settings, Preprocessing(size_wh=(16, 16)))
        try:
            first = _frame(camera)
            wanted_s = time.monotonic() + 0.3
            camera.release(first, wanted_s)
            frames = [_frame(camera)]  # the one that was under way may be older
            while frames[-1].message.captured_mono_s < wanted_s:
                camera.release(frames[-1], wanted_s)
                frames.append(_frame(camera))
            assert len(frames) <= 5
            camera.release(frames[-1], time.monotonic() + 3600)
            _frame(camera)  # it is looked at now and then all the same
        finally:
            camera.close()


def _frame(camera: Camera) -> Frame:
    found: list[Frame] = []

    def came() -> bool:
        camera.tick()
        if camera.connection is not None and is_readable(camera.connection):
            item = camera.receive()
            assert isinstance(item, Frame)
            found.append(item)
        return bool(found)

    wait_until(came, what="a frame")
    return found[0]


def test_snapshot_source_sends_the_password_when_it_is_asked_for() -> None:
    with _network_camera() as (host, _):
        assert len(_pictures(f"snapshot+http://u:s3cret@{host}/private")) == 1
        with pytest.raises(CameraError, match="401") as caught:
            _pictures(f"snapshot+http://u:wr0ng@{host}/private")
    assert "wr0ng" not in str(caught.value)


def test_snapshot_source_follows_the_camera_within_itself_alone() -> None:
    with _network_camera() as (other, stranger_asked), _network_camera(f"http://{other}") as (host, _):
        assert len(_pictures(f"snapshot+http://{host}/moved")) == 1
        for path in ("away", "file"):
            with pytest.raises(CameraError, match="gives no picture") as caught:
                _pictures(f"snapshot+http://{host}/{path}")
            assert "t0ken" not in str(caught.value)
    assert stranger_asked == []


@pytest.mark.parametrize(
    ("path", "problem"), [("portal", "no usable picture"), ("bomb", "more than"), ("busy", "HTTP status 503")]
)
def test_snapshot_source_what_is_no_picture_is_a_camera_error(path: str, problem: str) -> None:
    with _network_camera() as (host, _), pytest.raises(CameraError, match=problem):
        _pictures(f"snapshot+http://{host}/{path}")


def test_snapshot_source_a_picture_above_the_limit_is_refused_before_it_is_decoded() -> None:
    with _network_camera() as (host, _), pytest.raises(CameraError, match="too large to decode"):
        next(iter(SnapshotSource(f"snapshot+http://{host}/x.jpg", max_pixels=100, pause_s=0).read(0, lambda _: None)))


@pytest.mark.parametrize("address", ["snapshot+file:///etc/passwd", "snapshot+http:///x", "snapshot+ftp://h/x"])
def test_snapshot_source_of_another_scheme_is_a_config_error(address: str) -> None:
    with pytest.raises(ConfigError, match="no address of a snapshot"):
        SnapshotSource(address, max_pixels=1, pause_s=0)
