"""Stands before a real object store and answers in its place when told to: a store that is busy, lies, or is none."""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer.

    Attributes:
        status: 100 promises to listen, and hangs up in the middle of it.
        body: What follows the headers.
        headers: Beside the length.
        drips: What of it comes byte by byte, for as long as somebody listens.
    """

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    drips: Literal["", "head", "body"] = ""


def refusal(status: int, code: str) -> Answer:
    """What S3 says when it refuses."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


_DRIP_S = 0.05

PORTAL = Answer(200, b"<html>Please log in to the network</html>", {"Content-Type": "text/html"})


class Front:
    """The server.

    Args:
        port: Of the real store.

    Attributes:
        port: As above.
        script: Answers to the next PUTs, one each; the others reach the store.
        asked: PUTs so far.
        left: Who went away before the end of an answer that drips.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.script: list[Answer] = []
        self.asked = self.left = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, front: Front, *args: Any) -> None:  # noqa: ANN401 - those of the base class
        self._front = front
        super().__init__(*args)

    def handle_expect_100(self) -> bool:
        script = self._front.script
        if script and script[0].status == http.HTTPStatus.CONTINUE:
            script.pop(0)
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n")
            self.close_connection = True
            return False
        return super().handle_expect_100()

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._front.asked += 1
        answer = self._front.script.pop(0) if self._front.script else self._ask_store(body)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        if answer.drips:
            self._drip(answer)
        else:
            self.end_headers()
            self.wfile.write(answer.body)

    def _drip(self, answer: Answer) -> None:
        self.close_connection = True
        if answer.drips == "body":
            self.end_headers()
        self.flush_headers()
        try:
            for byte in answer.body:
                self.wfile.write(bytes([byte]))
                time.sleep(_DRIP_S)
        except OSError:
            self._front.left += 1

    def _ask_store(self, body: bytes) -> Answer:
        store = http.client.HTTPConnection("127.0.0.1", self._front.port, timeout=30)
        names = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        store.request("PUT", self.path, body, names)
        got = store.getresponse()
        answer = Answer(got.status, got.read(), {n: v for n, v in got.getheaders() if n != "Content-Length"})
        store.close()
        return answer

    def log_request(self, *_: object) -> None:
        return
