"""Stands before a real object store and answers in its place when told to: a store that is busy, lies, or is none."""

from __future__ import annotations

import http.client
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def refusal(status: int, code: str) -> Answer:
    """What S3 says when it refuses."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


PORTAL = Answer(200, b"<html>Please log in to the network</html>", {"Content-Type": "text/html"})


class Front:
    """The server.

    Args:
        port: Of the real store.

    Attributes:
        script: Answers to the next PUTs, one each; the others reach the store.
        asked: PUTs so far.
    """

    def __init__(self, port: int) -> None:
        self.script: list[Answer] = []
        self.asked = 0
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                if self.headers.get("Expect"):
                    self.send_response_only(100)
                    self.end_headers()
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                front.asked += 1
                answer = front.script.pop(0) if front.script else self._ask_store(body)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def _ask_store(self, body: bytes) -> Answer:
                store = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                names = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
                store.request("PUT", self.path, body, names)
                got = store.getresponse()
                answer = Answer(got.status, got.read(), {n: v for n, v in got.getheaders() if n != "Content-Length"})
                store.close()
                return answer

            def log_request(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
