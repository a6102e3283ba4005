"""The service over HTTP. Starlette and uvicorn parse, this file routes and bounds.

POST /count and POST /invocations (the same, as SageMaker calls it), GET /ping, GET /status, GET /openapi.json, GET /.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from anyio import CapacityLimiter, fail_after, to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from serve.openapi import PAGE, description
from serve.service import MAX_BODY_BYTES, OVERLOADED, Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from starlette.requests import Request

    from serve.service import Service

_BODY_S = 30.0
_MAX_BYTES_INSIDE = 128 << 20


class _RefusedError(Exception):
    """The request is answered without a look at the photo."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.answer = Answer(status, {"error": words})


class _Room:
    """How many requests are inside and how many bytes they hold. Belongs to the event loop's thread.

    Args:
        places: Most requests.
        most_bytes: Most bytes of all their bodies.
    """

    def __init__(self, places: int, most_bytes: int) -> None:
        self._places, self._bytes = places, most_bytes

    @contextmanager
    def place(self) -> Iterator[Callable[[int], None]]:
        """Take a place; what is yielded takes room for so many bytes of a body. Both raise _RefusedError."""
        if not self._places:
            raise _RefusedError(OVERLOADED, "too many photos are waiting. Try again.")
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if size > self._bytes:
                raise _RefusedError(OVERLOADED, "too many large photos are waiting. Try again.")
            self._bytes -= size
            held += size

        self._places -= 1
        try:
            yield hold
        finally:
            self._places += 1
            self._bytes += held


def make_app(
    service: Service, *, max_inside: int, body_timeout_s: float = _BODY_S, max_bytes_inside: int = _MAX_BYTES_INSIDE
) -> Starlette:
    """Build the application.

    Args:
        service: Answers; the application does not close it.
        max_inside: Most requests that are worked on or wait; more get 503 at once.
        body_timeout_s: A caller who has not sent the request by then loses the place.
        max_bytes_inside: Most bytes that the bodies of all those requests hold together.

    Returns:
        An ASGI application.
    """
    room = _Room(max_inside, max_bytes_inside)
    limiters: list[CapacityLimiter] = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        limiters.append(CapacityLimiter(max_inside))
        yield

    async def count(request: Request) -> Response:
        try:
            with room.place() as hold:
                body = await _body(request, hold, body_timeout_s)
                kind = request.headers.get("content-type", "")
                return _respond(await to_thread.run_sync(service.answer, body, kind, limiter=limiters[0]))
        except _RefusedError as exc:
            return _respond(exc.answer)

    async def ping(_: Request) -> Response:
        return Response(status_code=200 if service.healthy() else OVERLOADED)

    async def status(_: Request) -> Response:
        return JSONResponse(service.describe())

    async def openapi(_: Request) -> Response:
        return JSONResponse(description(service.describe()))

    async def page(_: Request) -> Response:
        return HTMLResponse(PAGE)

    routes = [
        Route("/count", count, methods=["POST"]),
        Route("/invocations", count, methods=["POST"]),
        Route("/ping", ping),
        Route("/status", status),
        Route("/openapi.json", openapi),
        Route("/", page),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def _body(request: Request, hold: Callable[[int], None], timeout_s: float) -> bytes:
    """The body, bounded in size and time while it is read."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    parts, size = [], 0
    try:
        with fail_after(timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise _too_large()
                hold(len(chunk))
                parts.append(chunk)
    except TimeoutError as exc:
        raise _RefusedError(408, "the request took too long to arrive") from exc
    except ClientDisconnect as exc:
        raise _RefusedError(400, "the caller left") from exc
    return b"".join(parts)


def _too_large() -> _RefusedError:
    return _RefusedError(413, f"the request is too large: at most {MAX_BODY_BYTES} bytes")


def _respond(answer: Answer) -> Response:
    return JSONResponse(answer.content, answer.status, answer.headers())
