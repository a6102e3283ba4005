"""Connections to a host by its name, within a time: asking for an address can block for minutes, and nothing ends it.

How long `getaddrinfo` waits for silent name servers is up to the machine's resolv.conf, times its search domains. It is
therefore called in a thread of its own. Who has waited long enough gives up, and joins the same lookup the next time:
there is never more than one, and an answer that came late is not lost.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDoneError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_WAIT_S = 15.0
_ALL_ADDRESSES_S = 15.0

Found = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]
"""What `socket.getaddrinfo` gives."""


class Resolver:
    """Opens connections. Belongs to one thread.

    Args:
        wait_s: For a name.
        lookup: As `socket.getaddrinfo`.
    """

    def __init__(self, wait_s: float = _WAIT_S, lookup: Callable[..., Found] = socket.getaddrinfo) -> None:
        self._wait_s = wait_s
        self._lookup = lookup
        self._asked: tuple[str, int] | None = None
        self._answer: Future[Found] = Future()

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Open a connection to the first address that takes one.

        Args:
            host: Name or address.
            port: TCP port.
            timeout_s: For one address; all together get 15 s.

        Returns:
            The connection.

        Raises:
            OSError: No connection, or no address: `socket.gaierror`.
            ValueError: The name can be none.
        """
        problem = OSError(f"{host} has no address")
        until_s: float | None = None
        for family, kind, protocol, _, address in self.addresses(host, port):
            until_s = time.monotonic() + _ALL_ADDRESSES_S if until_s is None else until_s
            left_s = min(timeout_s, until_s - time.monotonic())
            if left_s <= 0:
                break
            try:
                return _open((family, kind, protocol), address, left_s)
            except OSError as exc:
                problem = exc
        try:
            raise problem
        finally:
            del problem  # Its traceback holds this frame: together a circle, which would hold the certificates too.

    def addresses(self, host: str, port: int) -> Found:
        """Look a name up.

        Args:
            host: Name or address.
            port: TCP port.

        Returns:
            As `socket.getaddrinfo`.

        Raises:
            OSError: It has no address, or the name servers did not answer in time: `socket.gaierror`.
            ValueError: It can be no name.
        """
        if self._asked != (host, port):
            answer: Future[Found] = Future()
            threading.Thread(target=_ask, args=(self._lookup, answer, host, port), name="names", daemon=True).start()
            self._asked, self._answer = (host, port), answer
        try:
            self._answer.exception(self._wait_s)
        except NotDoneError:
            raise socket.gaierror(
                socket.EAI_AGAIN, f"no answer about {host} from the name servers in {self._wait_s:g} s"
            ) from None
        answer, self._asked, self._answer = self._answer, None, Future()
        try:
            return answer.result()
        finally:
            del answer  # see `connect`


def _ask(lookup: Callable[..., Found], answer: Future[Found], host: str, port: int) -> None:
    try:
        answer.set_result(lookup(host, port, type=socket.SOCK_STREAM))
    except (OSError, ValueError, MemoryError) as exc:
        answer.set_exception(exc.with_traceback(None))  # see `Resolver.connect`


def _open(kind: tuple[int, int, int], address: Any, timeout_s: float) -> socket.socket:  # noqa: ANN401 - of any family
    sock = socket.socket(*kind)
    try:
        sock.settimeout(timeout_s)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock
