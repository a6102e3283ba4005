"""A network that can be made ill: a TCP relay between the agent and what it talks to.

`mode` may be changed while connections are open: "well" passes everything on; "refuse" closes new connections and cuts
open ones with a reset; "hole" keeps connections open and swallows what is sent, both ways, as a cable that is pulled;
"mute" swallows the answers alone; "slow" passes `rate` bytes a second each way; "portal" answers whatever is sent with
a web page, as a hotel's network does. With `cut_after`, a connection is reset after so many bytes.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from typing_extensions import Self

Mode = Literal["well", "refuse", "hole", "mute", "slow", "portal"]
MODES: tuple[Mode, ...] = ("well", "refuse", "hole", "mute", "slow", "portal")
_PAGE = b"<html><body>Please log in to the network</body></html>"
_PORTAL = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (len(_PAGE), _PAGE)
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset
_TICK_S = 0.05
_MOST = 1 << 16


class Network:
    """The relay.

    Args:
        port: Of the server behind it.
    """

    def __init__(self, port: int) -> None:
        self.mode: Mode = "well"
        self.rate = 1000
        self.cut_after = 0
        self.connections = 0
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                self._relay(client)
            except OSError:
                return

    def _relay(self, client: socket.socket) -> None:
        if self.mode == "portal":
            _be_portal(client)
            return
        with socket.create_connection(("127.0.0.1", self._server), timeout=5) as server:
            ends, sent, swallowed = [client, server], 0, False
            while not self._over.is_set():
                if self.mode == "refuse" or (swallowed and self.mode == "well") or 0 < self.cut_after < sent:
                    _reset(ends)  # also what was swallowed: TCP leaves out nothing
                    return
                for source in select.select(ends, [], [], _TICK_S)[0]:
                    data = source.recv(self._most())
                    if not data:
                        return
                    sent += len(data)
                    if self.mode in ("hole", "portal") or (self.mode == "mute" and source is server):
                        swallowed = True
                    else:
                        (server if source is client else client).sendall(data)

    def _most(self) -> int:
        """How much to pass on at once; a slow network takes its time for it."""
        if self.mode != "slow":
            return _MOST
        time.sleep(_TICK_S)
        return max(1, int(self.rate * _TICK_S))


def _be_portal(client: socket.socket) -> None:
    client.settimeout(1)
    try:
        while client.recv(_MOST):
            client.sendall(_PORTAL)
    except TimeoutError:
        return


def _reset(ends: list[socket.socket]) -> None:
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.close()
