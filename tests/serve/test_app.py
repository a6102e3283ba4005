"""The whole service as a process, asked over sockets."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from bundle.counter import Counter
from bundle.images import encode_jpeg
from serve.app import make_app
from serve.batcher import Batcher
from serve.fetch import Fetcher
from serve.service import Service
from tests.serve.test_service import bomb, flat_png
from tests.simulators.bundle_factory import grey, make_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_PHOTO = encode_jpeg(grey(3, (640, 480)))
_HEAD = f"POST /count HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(_PHOTO)}\r\n\r\n".encode()


class _Served:
    """A running `bintally serve`."""

    def __init__(self, bundle: Path, repository: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "bintally", "serve", str(bundle), "--port", "0", "--engine", "onnxruntime"]
        self.process = subprocess.Popen([*command, *arguments], cwd=repository, stderr=subprocess.PIPE, text=True)
        self.port = self._wait()

    def _wait(self) -> int:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("listening on"):
                return int(line.strip().rsplit(":", 1)[1])
        raise AssertionError("the service did not start")

    def ask(
        self, method: str, path: str, body: bytes = b"", kind: str = "image/jpeg"
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": kind})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def count(self, body: bytes = _PHOTO, kind: str = "image/jpeg") -> tuple[int, dict[str, Any]]:
        status, _, content = self.ask("POST", "/count", body, kind)
        return status, json.loads(content)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[_Served]:
    running = _Served(make_bundle(tmp_path_factory.mktemp("served") / "bundle"), repository, "--max-inside", "4")
    yield running
    running.stop()


def test_app_counts_a_photo(served: _Served) -> None:
    status, content = served.count()
    assert (status, content["count"]) == (200, 3)


def test_app_speaks_sagemaker(served: _Served) -> None:
    assert served.ask("GET", "/ping")[0] == 200
    status, _, content = served.ask("POST", "/invocations", _PHOTO, "application/x-image")
    assert (status, json.loads(content)["count"]) == (200, 3)


def test_app_says_what_is_running(served: _Served) -> None:
    content = json.loads(served.ask("GET", "/status")[2])
    assert content["engine"] == "onnxruntime-int8"
    assert content["classes"][-1] == "6+"


def test_app_describes_itself(served: _Served) -> None:
    document = json.loads(served.ask("GET", "/openapi.json")[2])
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method in operations:
            assert served.ask(method.upper(), path, _PHOTO)[0] == 200


def test_app_page_needs_nothing_from_elsewhere(served: _Served) -> None:
    status, headers, page = served.ask("GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"http://" not in page
    assert b"https://" not in page


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/count", 405), ("POST", "/nothing", 404), ("GET", "/../etc/passwd", 404)]
)
def test_app_other_requests_are_refused(served: _Served, method: str, path: str, status: int) -> None:
    assert served.ask(method, path)[0] == status


def test_app_picture_bomb_does_not_take_memory(served: _Served) -> None:
    served.count()
    before = _peak_mb(served.process.pid)
    assert served.count(bomb(), "image/png")[0] == 422
    assert _peak_mb(served.process.pid) - before < 100


def test_app_frames_do_not_take_memory_together(served: _Served) -> None:
    """Sixteen times 25 million pixels in one small request are refused; as many as are allowed hold one at a time."""
    served.count()
    before = _peak_mb(served.process.pid)
    for side, status in ((5000, 422), (1250, 200)):
        frame = base64.b64encode(flat_png(side, side)).decode()
        assert served.count(json.dumps({"images": [frame] * 16}).encode(), "application/json")[0] == status
    assert _peak_mb(served.process.pid) - before < 60


def test_app_body_that_is_too_large_is_refused(served: _Served) -> None:
    """Declared in the header, and not declared (chunked)."""
    assert _raw(served.port, b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n") == 413
    chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
    head = b"POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert _raw(served.port, head, *[chunk] * 20) == 413


def test_app_under_overload_answers_or_says_503(served: _Served) -> None:
    """Three callers that send nothing leave one place of four."""
    idle = [_half_open(served.port) for _ in range(3)]
    try:
        with ThreadPoolExecutor(32) as pool:
            replies = list(pool.map(lambda _: served.ask("POST", "/count", _PHOTO), range(300)))
    finally:
        for connection in idle:
            connection.close()
    assert {status for status, _, _ in replies} == {200, 503}
    for status, headers, content in replies:
        assert status == 200 or (headers["retry-after"] == "1" and b"waiting" in content)
    _until(lambda: served.count()[0] == 200)


def test_app_full_house_is_503_at_once(served: _Served) -> None:
    """Four callers that send nothing occupy every place."""
    idle = [_half_open(served.port) for _ in range(4)]
    try:
        _until(lambda: served.count()[0] == 503)
        assert served.ask("GET", "/ping")[0] == 200
    finally:
        for connection in idle:
            connection.close()
    _until(lambda: served.count()[0] == 200)


def test_app_sigterm_answers_who_is_inside_and_ends_with_0(tmp_path: Path, repository: Path) -> None:
    running = _Served(make_bundle(tmp_path / "bundle"), repository)
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as inside:
        inside.sendall(_HEAD + _PHOTO[:100])
        assert running.count()[0] == 200  # by now the half request is inside too
        running.process.send_signal(signal.SIGTERM)
        _until(lambda: not _listens(running.port))
        inside.sendall(_PHOTO[100:])
        assert inside.recv(100).split()[1] == b"200"
    assert running.stop() == 0


def test_app_caller_who_sends_nothing_loses_the_place(tiny_bundle: Path) -> None:
    with _in_process(tiny_bundle, max_inside=1, body_timeout_s=0.2) as port, _half_open(port) as connection:
        connection.settimeout(30)
        assert connection.recv(100).split()[1] == b"408"


def test_app_large_bodies_together_are_bounded(tiny_bundle: Path) -> None:
    """Room for one photo and a half: while one is half inside, the next is asked to come back."""
    with _in_process(tiny_bundle, max_inside=8, max_bytes_inside=3 * len(_PHOTO) // 2) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as first:
            first.sendall(_HEAD + _PHOTO[:-1])
            _until(lambda: _raw(port, _HEAD, _PHOTO) == 503)
            first.sendall(_PHOTO[-1:])
            assert first.recv(100).split()[1] == b"200"
        assert _raw(port, _HEAD, _PHOTO) == 200


def test_app_caller_who_leaves_gives_the_place_back(tiny_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with _in_process(tiny_bundle, max_inside=1) as port:
        for _ in range(3):
            _half_open(port).close()
        _until(lambda: _raw(port, _HEAD, _PHOTO) == 200)
    assert caplog.records == []


def test_serve_taken_port_is_one_clear_message(tmp_path: Path, repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "bintally", "serve", str(make_bundle(tmp_path / "b")), "--port", port]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def _in_process(bundle: Path, **settings: Any) -> Iterator[int]:  # noqa: ANN401 - of make_app
    batcher = Batcher(counter := Counter.open(bundle, engine="onnxruntime", threads=1))
    app = make_app(Service(counter, batcher, Fetcher()), **settings)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)
            batcher.close()


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def _half_open(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 10\r\n\r\n")
    return connection


def _raw(port: int, *parts: bytes) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all of it was sent
        return int(connection.recv(100).split()[1])


def _peak_mb(pid: int) -> float:
    with open(os.path.join("/proc", str(pid), "status")) as file:  # noqa: PTH118, PTH123 - a pseudo file
        return next(int(line.split()[1]) / 1e3 for line in file if line.startswith("VmHWM"))
