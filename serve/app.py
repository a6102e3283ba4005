"""The service over HTTP. Starlette and uvicorn parse, this file routes and bounds.

POST /count and POST /invocations (the same, as SageMaker calls it), GET /ping, GET /status, GET /openapi.json, GET /.
"""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from anyio import CapacityLimiter, fail_after, to_thread
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from serve.openapi import PAGE, description
from serve.service import MAX_BODY_BYTES, Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from serve.service import Service

_RETRY_AFTER = {"Retry-After": "1"}
_OVERLOADED = 503
_BODY_S = 30.0


class _Admission:
    """How many requests are inside; the rest is refused before a byte of it is read."""

    def __init__(self, most: int) -> None:
        self._most, self._inside, self._lock = most, 0, threading.Lock()

    def enter(self) -> bool:
        with self._lock:
            if self._inside >= self._most:
                return False
            self._inside += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1


def make_app(service: Service, *, max_inside: int, body_timeout_s: float = _BODY_S) -> Starlette:
    """Build the application.

    Args:
        service: Answers; the application does not close it.
        max_inside: Most requests that are worked on or wait; more get 503 at once.
        body_timeout_s: A caller who has not sent the request by then loses the place.

    Returns:
        An ASGI application.
    """
    admission = _Admission(max_inside)
    limiters: list[CapacityLimiter] = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        limiters.append(CapacityLimiter(max_inside))
        yield

    async def count(request: Request) -> Response:
        if not admission.enter():
            return _respond(Answer(_OVERLOADED, {"error": "too many photos are waiting. Try again."}))
        try:
            try:
                with fail_after(body_timeout_s):
                    body = await _read(request)
            except TimeoutError:
                return _respond(Answer(408, {"error": "the request took too long to arrive"}))
            if body is None:
                return _respond(Answer(413, {"error": f"the request is too large: at most {MAX_BODY_BYTES} bytes"}))
            kind = request.headers.get("content-type", "")
            return _respond(await to_thread.run_sync(service.answer, body, kind, limiter=limiters[0]))
        finally:
            admission.leave()

    async def ping(_: Request) -> Response:
        return Response(status_code=200 if service.healthy() else _OVERLOADED)

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


async def _read(request: Request) -> bytes | None:
    """The body, or None when it is larger than any request may be; bounded while it is read."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        return None
    parts, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            return None
        parts.append(chunk)
    return b"".join(parts)


def _respond(answer: Answer) -> Response:
    headers = _RETRY_AFTER if answer.status == _OVERLOADED else None
    return JSONResponse(answer.content, answer.status, headers)
