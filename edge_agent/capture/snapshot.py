"""A camera that is asked for one picture at a time over HTTP: `snapshot+http://host/picture.jpg`.

What answers is a stranger: its answer is bounded in bytes and time, must be a picture, and may not send the agent to
another host. User name and password of the address are sent as HTTP asks for them (basic or digest) and never shown.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from bundle.errors import CameraError, ConfigError, InputError
from bundle.images import decode
from edge_agent.capture.sources import Picture, Unusable
from edge_agent.masking import shown_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from http.client import HTTPMessage
    from typing import IO

SCHEME = "snapshot+"
MAX_SNAPSHOT_BYTES = 16 << 20
_TIMEOUT_S = 5.0
_SCHEMES = ("http", "https")


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follow the camera within itself, and nowhere else: an answer must not turn the robot against its network."""

    max_redirections = 3

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Refuse what leads to another host or port, or from HTTPS to HTTP."""
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if (before.scheme, before.netloc) != (after.scheme, after.netloc):
            fp.close()
            raise urllib.error.URLError(f"it sends us to another host, {after.hostname}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _closing(first: IO[bytes], try_again: Callable[[], object]) -> object:
    """Asked for a password, urllib tries again and leaves the first answer open: close it, unless it is the last."""
    with ExitStack() as undo:
        undo.callback(first.close)
        answer = try_again()
        if answer is None:
            undo.pop_all()
        return answer


class _Basic(urllib.request.HTTPBasicAuthHandler):
    """Sends the password as it is."""

    def http_error_401(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> object:
        """Answer with the password; None where there is none, or it was wrong."""
        return _closing(fp, lambda: super(_Basic, self).http_error_401(req, fp, code, msg, headers))


class _Digest(urllib.request.HTTPDigestAuthHandler):
    """Sends a digest of the password."""

    def http_error_401(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> object:
        """Answer with a digest; None where there is no password, or it was wrong."""
        return _closing(fp, lambda: super(_Digest, self).http_error_401(req, fp, code, msg, headers))


class SnapshotSource:
    """Pictures of an HTTP address, one request each.

    Args:
        address: `snapshot+http://...` or `snapshot+https://...`.
        max_pixels: Larger pictures are refused before they are decoded.
        pause_s: Between the starts of two requests.

    Raises:
        ConfigError: It is no such address.
    """

    live = True
    wanted_s = 0.0

    def __init__(self, address: str, *, max_pixels: int, pause_s: float) -> None:
        self._shown = shown_source(address)
        self._max_pixels = max_pixels
        self._pause_s = pause_s
        parts = urlsplit(address.removeprefix(SCHEME))
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise ConfigError(
                "cameras.source is no address of a snapshot", got=self._shown, expected="snapshot+http://host/path"
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        netloc = host if parts.port is None else f"{host}:{parts.port}"
        self._url = urlunsplit((parts.scheme, netloc, parts.path or "/", parts.query, ""))
        self._opener = _opener(self._url, unquote(parts.username or ""), unquote(parts.password or ""))

    def read(self, start: int, mark: Callable[[int], None]) -> Iterator[Picture | Unusable]:
        """Yield pictures until one fails; see `Source.read`."""
        del start
        index, due_s = 0, time.monotonic()
        while True:
            mark(index)
            while (left_s := max(due_s, self.wanted_s) - time.monotonic()) > 0:
                time.sleep(left_s)  # what is wanted may have changed meanwhile
            due_s = max(due_s + self._pause_s, time.monotonic())
            yield self._picture(index)
            index += 1

    def _picture(self, index: int) -> Picture:
        now_s, now_mono_s = time.time(), time.monotonic()
        data = self._fetch()
        try:
            image = decode(data, name="its answer", max_pixels=self._max_pixels)
        except InputError as exc:
            raise CameraError(
                f"camera {self._shown} sends no usable picture", got=str(exc), fix="Open the address in a browser."
            ) from exc
        return Picture(index, f"frame-{index:06d}", image, data, now_s, now_mono_s)

    def _fetch(self) -> bytes:
        try:
            with self._opener.open(self._url, timeout=_TIMEOUT_S) as answer:
                data: bytes = answer.read(MAX_SNAPSHOT_BYTES + 1)
        except urllib.error.HTTPError as exc:
            exc.close()
            raise self._unreachable(f"HTTP status {exc.code}") from exc
        except urllib.error.URLError as exc:
            raise self._unreachable(str(exc.reason)) from exc
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise self._unreachable(f"{type(exc).__name__}") from exc
        if len(data) > MAX_SNAPSHOT_BYTES:
            raise self._unreachable(f"more than {MAX_SNAPSHOT_BYTES} bytes")
        return data

    def _unreachable(self, got: str) -> CameraError:
        return CameraError(
            f"camera {self._shown} gives no picture",
            got=got,
            fix="Check the address, its user name and password, and the network.",
        )


def _opener(url: str, user: str, password: str) -> urllib.request.OpenerDirector:
    """Only HTTP, no proxies of the environment, no other schemes to be redirected to."""
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if user or password:
        passwords.add_password(None, url, user, password)
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SameHost(),
        _Basic(passwords),
        _Digest(passwords),
    ):
        opener.add_handler(handler)
    return opener
