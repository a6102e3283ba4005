"""Photos from URLs, from the hosts that the operator allows and from nowhere else.

A service that fetches what strangers name is a door into the network it stands in. So: only http and https, only hosts
on the allow-list, only their ordinary ports, no redirects, no credentials in the URL. The name is resolved once, every
address must be a public one, and the connection goes to that very address: a name that answers differently the second
time gains nothing. Size and time are bounded while reading.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bundle.errors import BintallyError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PORTS = {"http": 80, "https": 443}
_CHUNK = 1 << 16
_OK = 200
_MAX_LABEL = 63


class FetchError(BintallyError):
    """A host that is allowed did not give the photo."""

    exit_code = 75


class ForbiddenError(InputError):
    """This URL must not be fetched."""


def _resolve(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


def is_public(address: str) -> bool:
    """Whether an address lies in the open internet.

    Args:
        address: IPv4 or IPv6.

    Returns:
        False for private, loopback, link-local, multicast and reserved ones, and for IPv6 addresses that stand for an
        IPv4 one (mapped, 6to4, Teredo, NAT64), because those may lead anywhere.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and (
        found not in _GLOBAL_UNICAST or found.sixtofour is not None or found.teredo is not None
    ):
        return False
    return found.is_global and not found.is_multicast


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches photos.

    Attributes:
        allowed_hosts: Exact names, or "*.example.org" for what lies below a name; empty allows none.
        max_bytes: Largest photo.
        timeout_s: For the whole of a fetch.
        resolve: Name to addresses; replaced in tests.
        ports: Port by scheme; replaced in tests.
        is_public: Whether an address may be connected to; replaced in tests.
    """

    allowed_hosts: tuple[str, ...] = ()
    max_bytes: int = 8 << 20
    timeout_s: float = 10.0
    resolve: Callable[[str], list[str]] = _resolve
    ports: tuple[tuple[str, int], ...] = tuple(_PORTS.items())
    is_public: Callable[[str], bool] = is_public

    def fetch(self, url: str) -> bytes:
        """Fetch one photo.

        Args:
            url: As a caller named it.

        Returns:
            The body.

        Raises:
            ForbiddenError: The URL is not one that may be fetched.
            FetchError: The host did not give the photo.
        """
        scheme, host, target = self._check(url)
        end = time.monotonic() + self.timeout_s
        address = self._address(host, end)
        try:
            with _connected(scheme, host, address, dict(self.ports)[scheme], end) as connection:
                connection.request("GET", target, headers={"Host": host, "Accept": "image/jpeg, image/png"})
                response = connection.getresponse()
                if response.status != _OK:
                    raise FetchError(f"{host} did not give the photo", got=f"status {response.status}")
                return self._read(response, host, end)
        except (OSError, http.client.HTTPException) as exc:
            if time.monotonic() >= end:
                raise self._too_slow(host) from exc
            raise FetchError(f"{host} did not give the photo", got=str(exc) or type(exc).__name__) from exc

    def _check(self, url: str) -> tuple[str, str, str]:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise ForbiddenError("the URL is malformed", got=url[:200]) from exc
        host = (parts.hostname or "").rstrip(".").lower()
        scheme = parts.scheme
        if not host.isascii() or not all(0 < len(label) <= _MAX_LABEL for label in host.split(".") if host):
            raise ForbiddenError("the URL is malformed", got=ascii(host)[:200])
        if scheme not in _PORTS or parts.username or parts.password or port not in (None, _PORTS[scheme]):
            raise ForbiddenError(
                "the URL is not one that is fetched",
                got=f"{scheme or 'no'} scheme, port {port}",
                expected="http or https, ordinary port, no credentials",
            )
        if not any(_matches(host, pattern.lower()) for pattern in self.allowed_hosts):
            raise ForbiddenError(
                "the URL's host is not allowed", got=host, fix="The operator lists hosts with --allow-host."
            )
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not target.isascii() or any(character.isspace() or not character.isprintable() for character in target):
            raise ForbiddenError("the URL is malformed", got=ascii(target)[:200])
        return scheme, host, target

    def _address(self, host: str, end: float) -> str:
        try:
            addresses = _within(end, self.resolve, host)
        except FutureTimeoutError as exc:
            raise self._too_slow(host[:200]) from exc
        except (OSError, UnicodeError) as exc:
            raise FetchError(f"{host[:200]} has no address", got=str(exc)[:200]) from exc
        private = [address for address in addresses if not self.is_public(address)]
        if private or not addresses:
            raise ForbiddenError("the URL leads into a private network", got=host)
        return addresses[0]

    def _read(self, response: http.client.HTTPResponse, host: str, end: float) -> bytes:
        parts, size = [], 0
        while chunk := response.read1(_CHUNK):
            size += len(chunk)
            if size > self.max_bytes:
                raise FetchError(f"{host} gave too large a file", got=f"over {self.max_bytes} bytes")
            parts.append(chunk)
        if time.monotonic() >= end:
            raise self._too_slow(host)
        return b"".join(parts)

    def _too_slow(self, host: str) -> FetchError:
        return FetchError(f"{host} gave the photo too slowly", got=f"over {self.timeout_s:g} s")


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) and host != pattern[2:] if pattern.startswith("*.") else host == pattern


@contextmanager
def _connected(scheme: str, host: str, address: str, port: int, end: float) -> Iterator[http.client.HTTPConnection]:
    """A connection to the address that was checked, with the name for the certificate, cut off at `end`.

    A timeout of the socket bounds each single read; a host that sends a byte now and then would never reach it.
    """
    connection = http.client.HTTPConnection(address, port)
    sock = _socket(scheme, host, address, port, end)
    cut = threading.Timer(_left(end), _cut, [sock])
    cut.daemon = True
    cut.start()
    try:
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        connection.sock = sock
        yield connection
    finally:
        cut.cancel()
        connection.close()
        sock.close()


def _socket(scheme: str, host: str, address: str, port: int, end: float) -> socket.socket:
    """Connected; with https, TLS is prepared and its handshake still to come."""
    sock = socket.create_connection((address, port), _left(end))
    if scheme != "https":
        return sock
    try:
        context = ssl.create_default_context()
        return context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    except BaseException:
        sock.close()
        raise


def _left(end: float) -> float:
    return max(0.01, end - time.monotonic())


def _within(end: float, resolve: Callable[[str], list[str]], host: str) -> list[str]:
    """The answer of `resolve`, which cannot be interrupted: who is late is left to a thread that holds up nothing."""
    answer: Future[list[str]] = Future()

    def ask() -> None:
        try:
            answer.set_result(resolve(host))
        except BaseException as exc:  # noqa: BLE001 - raised again by whoever waits
            answer.set_exception(exc)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    return answer.result(_left(end))


def _cut(sock: socket.socket) -> None:
    with suppress(OSError):  # closed in the meantime
        # Of the plain socket: the one of TLS would take the state away from the thread that reads.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
