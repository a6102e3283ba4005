from __future__ import annotations

import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from serve.fetch import Fetcher, FetchError, ForbiddenError, is_public

if TYPE_CHECKING:
    from collections.abc import Iterator

_PHOTO = b"\xff\xd8 a photo \xff\xd9" * 1000
_STOP = threading.Event()


class _Host(BaseHTTPRequestHandler):
    """A host with a photo, a large one, a slow one and a redirect."""

    def do_GET(self) -> None:
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data")
            self.end_headers()
            return
        if self.path == "/drip":  # a header that never ends
            while not _STOP.wait(0.05):
                self.wfile.write(b"x")
            return
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        if self.path == "/slow":
            while not _STOP.wait(0.05):
                self.wfile.write(b"x")
        elif self.path == "/large":
            self.wfile.write(b"x" * 300_000)
        else:
            self.wfile.write(self.headers["Host"].encode() if self.path == "/host" else _PHOTO)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    _STOP.set()
    server.shutdown()
    server.server_close()


def _fetcher(port: int, **changed: object) -> Fetcher:
    """Sees the local server as the public host photos.example.org."""
    settings: dict[str, object] = {
        "allowed_hosts": ("photos.example.org",),
        "max_bytes": 200_000,
        "timeout_s": 2.0,
        "resolve": lambda _: ["127.0.0.1"],
        "ports": (("http", port), ("https", port)),
        "is_public": lambda _: True,
    }
    return Fetcher(**(settings | changed))  # type: ignore[arg-type]


def test_fetch_allowed_host_gives_the_photo(port: int) -> None:
    assert _fetcher(port).fetch("http://photos.example.org/bins/1.jpg?size=2") == _PHOTO


def test_fetch_connects_to_the_checked_address_and_names_the_host(port: int) -> None:
    """The address comes from `resolve` alone: a second lookup, which could differ, never happens."""
    asked: list[str] = []

    def resolve(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    assert _fetcher(port, resolve=resolve).fetch("http://PHOTOS.example.org./host") == b"photos.example.org"
    assert asked == ["photos.example.org"]


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example.org/1.jpg",
        "http://photos.example.org.evil.test/1.jpg",
        "http://evil.test/photos.example.org",
        "http://photos.example.org@evil.test/1.jpg",
        "http://user:word@photos.example.org/1.jpg",
        "http://photos.example.org:22/1.jpg",
        "http://photos.example.org:99999/1.jpg",
        "ftp://photos.example.org/1.jpg",
        "file:///etc/passwd",
        "gopher://photos.example.org/1",
        "//photos.example.org/1.jpg",
        "photos.example.org",
        "http://photos.example.org/a b",
        "http://photos.example.org/\r\nX: y",
        "http://[::1/1.jpg",
        "http://127.0.0.1/1.jpg",
        "http://2130706433/1.jpg",
        "",
    ],
)
def test_fetch_url_that_is_not_allowed_is_refused_before_anything_is_resolved(url: str) -> None:
    def resolve(host: str) -> list[str]:
        raise AssertionError(host)

    with pytest.raises(ForbiddenError):
        Fetcher(allowed_hosts=("photos.example.org",), resolve=resolve).fetch(url)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.5", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",  # noqa: S104
        "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:0:0:0:0:0:1",
    ],
)  # fmt: skip
def test_fetch_name_that_leads_into_a_private_network_is_refused(address: str) -> None:
    fetcher = Fetcher(allowed_hosts=("photos.example.org",), resolve=lambda _: [address])
    with pytest.raises(ForbiddenError, match="private network"):
        fetcher.fetch("https://photos.example.org/1.jpg")


def test_fetch_one_private_address_among_public_ones_is_refused() -> None:
    fetcher = Fetcher(allowed_hosts=("photos.example.org",), resolve=lambda _: ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(ForbiddenError, match="private network"):
        fetcher.fetch("https://photos.example.org/1.jpg")


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111"])
def test_is_public_open_internet_is(address: str) -> None:
    assert is_public(address)


def test_fetch_wildcard_allows_what_lies_below_and_not_the_name_itself(port: int) -> None:
    fetcher = _fetcher(port, allowed_hosts=("*.example.org",))
    assert fetcher.fetch("http://photos.example.org/1.jpg") == _PHOTO
    for host in ("example.org", "badexample.org"):
        with pytest.raises(ForbiddenError):
            fetcher.fetch(f"http://{host}/1.jpg")


def test_fetch_without_an_allow_list_fetches_nothing(port: int) -> None:
    with pytest.raises(ForbiddenError, match="--allow-host"):
        _fetcher(port, allowed_hosts=()).fetch("http://photos.example.org/1.jpg")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("redirect", "status 302"),
        ("missing", "status 404"),
        ("large", "too large"),
        ("slow", "too slowly"),
        ("drip", "too slowly"),
    ],
)
def test_fetch_host_that_does_not_give_the_photo_is_an_error(port: int, path: str, message: str) -> None:
    started = time.monotonic()
    with pytest.raises(FetchError, match=message):
        _fetcher(port, timeout_s=0.5).fetch(f"http://photos.example.org/{path}")
    assert time.monotonic() - started < 10


def test_fetch_name_without_address_is_an_error() -> None:
    def resolve(_: str) -> list[str]:
        raise OSError("Name or service not known")

    with pytest.raises(FetchError, match="has no address"):
        Fetcher(allowed_hosts=("photos.example.org",), resolve=resolve).fetch("http://photos.example.org/1.jpg")


@pytest.mark.parametrize("label", ["x" * 64, "x..y", "", ".x", "x" * 5000, "b\u00fccher"])
def test_fetch_name_that_is_none_is_a_refusal(label: str) -> None:
    with pytest.raises(ForbiddenError, match="malformed"):
        Fetcher(allowed_hosts=("*.example.org",)).fetch(f"http://{label}.example.org/1.jpg")


def test_fetch_name_that_resolves_slowly_is_an_error_in_time(port: int) -> None:
    done = threading.Event()

    def resolve(_: str) -> list[str]:
        done.wait(30)
        return ["127.0.0.1"]

    try:
        started = time.monotonic()
        with pytest.raises(FetchError, match="too slowly"):
            _fetcher(port, timeout_s=0.2, resolve=resolve).fetch("http://photos.example.org/1.jpg")
        assert time.monotonic() - started < 10
    finally:
        done.set()


def test_fetch_tls_that_cannot_be_prepared_is_an_error(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrap(*_: object, **__: object) -> None:
        raise ssl.SSLError("Closed before TLS handshake with data in recv buffer.")

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", wrap)
    with pytest.raises(FetchError, match=r"did not give the photo: got .*before TLS handshake"):
        _fetcher(port).fetch("https://photos.example.org/1.jpg")


def test_fetch_https_host_without_a_certificate_is_an_error(port: int) -> None:
    with pytest.raises(FetchError, match="did not give"):
        _fetcher(port).fetch("https://photos.example.org/1.jpg")
