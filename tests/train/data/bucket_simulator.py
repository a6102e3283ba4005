"""An S3 endpoint on a loopback port that can be told to fail, object by object or at random.

Speaks what `train.data.bucket` uses: ListObjectsV2 in pages, and GetObject with Content-Length and ETag.

    with BucketSimulator({"metadata/00001.json": b"{}"}) as server:
        server.fail("metadata/00001.json", "503", times=2)
        ... Bucket(BucketOptions(endpoint_url=server.url, bucket=server.bucket)) ...
        assert server.whole["metadata/00001.json"] == 1
"""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
import time
from collections import Counter, defaultdict, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

Fault = Literal["503", "403", "slow", "drip", "short", "reset", "corrupt"]


class BucketSimulator:
    """The endpoint. `whole` counts complete answers by key, `asked` counts requests."""

    bucket = "bins"

    def __init__(self, objects: Mapping[str, bytes], *, page: int = 100, slow_s: float = 0.05) -> None:
        self.objects = dict(objects)
        self.page = page
        self.slow_s = slow_s
        self.whole: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.random_faults: tuple[float, Sequence[Fault]] = (0.0, ())
        self.forbid_everything = False
        self._planned: dict[str, deque[Fault]] = defaultdict(deque)
        self._random = random.Random(5)
        self._lock = threading.Lock()
        simulator = self

        class Handler(_Handler):
            owner = simulator

        self._server = _QuietServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail(self, key: str, fault: Fault, *, times: int = 1) -> None:
        self._planned[key].extend([fault] * times)

    def next_fault(self, key: str) -> Fault | None:
        with self._lock:
            self.asked[key] += 1
            if self._planned[key]:
                return self._planned[key].popleft()
            share, kinds = self.random_faults
            return self._random.choice(kinds) if kinds and self._random.random() < share else None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed break connections; that is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    owner: BucketSimulator
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        key = unquote(parts.path).removeprefix(f"/{self.owner.bucket}").removeprefix("/")
        if self.owner.forbid_everything:
            self._error(403, "AccessDenied")
        elif not key:
            self._list(parse_qs(parts.query))
        else:
            self._object(key)

    def _object(self, key: str) -> None:
        fault = self.owner.next_fault(key)
        data = self.owner.objects.get(key)
        if fault == "503":
            self._error(503, "SlowDown")
        elif fault == "403":
            self._error(403, "AccessDenied")
        elif data is None:
            self._error(404, "NoSuchKey")
        elif fault == "reset":
            # Linger 0: closing sends RST in the middle of the answer.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._head(data)
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            self.connection.close()
        else:
            self._answer(key, data, fault)

    def _answer(self, key: str, data: bytes, fault: Fault | None) -> None:
        if fault == "slow":
            time.sleep(self.owner.slow_s)
        self._head(data)
        if fault == "corrupt":
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault == "short":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        if fault == "drip":
            for position in range(0, len(data), 16):
                self.wfile.write(data[position : position + 16])
                self.wfile.flush()
                time.sleep(self.owner.slow_s)
        else:
            self.wfile.write(data)
        if fault != "corrupt":
            with self.owner._lock:
                self.owner.whole[key] += 1

    def _head(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"')
        self.end_headers()

    def _error(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>simulated</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _list(self, query: dict[str, list[str]]) -> None:
        prefix = query.get("prefix", [""])[0]
        after = query.get("continuation-token", [""])[0]
        keys = sorted(key for key in self.owner.objects if key.startswith(prefix) and key > after)
        shown, more = keys[: self.owner.page], len(keys) > self.owner.page
        contents = "".join(f"<Contents><Key>{escape(key)}</Key></Contents>" for key in shown)
        token = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        body = (
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
