"""One request in, one answer out: what HTTP, SageMaker and Lambda share. Blocking, safe from any thread.

Whoever calls is a stranger: bytes are bounded before they are read, the pixels of all frames together before the first
is decoded, frames before they are queued, every wait has an end, and every refusal says what was wrong.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import threading
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.errors import BintallyError, EngineError, InputError
from bundle.images import decode, header
from serve.batcher import OverloadedError
from serve.fetch import FetchError, ForbiddenError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bundle.counter import Count, Counter
    from serve.batcher import Batcher
    from serve.fetch import Fetcher

MAX_BODY_BYTES = 16 << 20
MAX_FRAMES = 16
OVERLOADED = 503
_ANSWER_S = 30.0
_NAME = "the photo"
_IMAGES = frozenset({"image/jpeg", "image/png", "application/octet-stream", "application/x-image"})
_KEYS = frozenset({"image", "images", "url"})
_STATUS: tuple[tuple[type[BintallyError], int], ...] = (
    (ForbiddenError, 403),
    (InputError, 422),
    (FetchError, 502),
    (OverloadedError, OVERLOADED),
    (EngineError, 500),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the caller gets.

    Attributes:
        status: As in HTTP.
        content: Goes out as JSON.
    """

    status: int
    content: dict[str, Any]

    def headers(self) -> dict[str, str]:
        """What the caller must know beside the content.

        Returns:
            Retry-After for an overload, else nothing.
        """
        return {"Retry-After": "1"} if self.status == OVERLOADED else {}


class _RequestError(InputError):
    """The request itself is wrong, whatever is on the photo."""

    def __init__(self, status: int, what: str, *, got: object = None, expected: object = None) -> None:
        self.status = status
        super().__init__(what, got=got, expected=expected)


class Service:
    """Counts for strangers.

    Args:
        counter: Used for its preprocessing and decision; its engine belongs to `batcher`.
        batcher: Runs the network.
        fetcher: Gets photos that are named by URL.
        max_pixels: Most pixels of all frames of a request; more are refused before anything is decoded.
        decode_wait_s: Whoever has waited so long for a turn to decode is refused.
    """

    def __init__(
        self,
        counter: Counter,
        batcher: Batcher,
        fetcher: Fetcher,
        *,
        max_pixels: int = 25_000_000,
        decode_wait_s: float = 10.0,
    ) -> None:
        self._counter, self._batcher, self._fetcher = counter, batcher, fetcher
        self._max_pixels, self._decode_wait_s = max_pixels, decode_wait_s
        # More threads than cores decoding at once only hold more pixels in memory.
        self._decoding = threading.Semaphore(os.cpu_count() or 1)

    def answer(self, body: bytes, content_type: str) -> Answer:
        """Count the items on the photo, or on the frames of one visit, that a request holds.

        Args:
            body: A JPEG or PNG; or JSON with "image" (base64), "images" (a list of them, one visit) or "url".
            content_type: As the caller declares it.

        Returns:
            Status 200 with the count; 400 malformed request, 403 URL not allowed, 413 too large, 415 not a type that is
            read, 422 not a photo that can be counted, 502 the URL's host failed, 503 overloaded, 500 the engine failed.
        """
        try:
            return Answer(200, self._count(self._frames(body, content_type.partition(";")[0].strip().lower())))
        except _RequestError as exc:
            return Answer(exc.status, {"error": str(exc)})
        except BintallyError as exc:
            status = next((status for kind, status in _STATUS if isinstance(exc, kind)), 500)
            return Answer(status, {"error": str(exc)})

    def healthy(self) -> bool:
        """Whether requests are answered.

        Returns:
            False once the network's thread is gone.
        """
        return self._batcher.alive()

    def describe(self) -> dict[str, Any]:
        """What is running, for the status page.

        Returns:
            bundle, classes, threshold, promise, engine, reason.
        """
        return {
            "bundle": self._counter.bundle.label,
            "classes": list(self._counter.classes),
            "threshold": self._counter.threshold,
            "promise": self._counter.promise,
            "engine": self._counter.engine.name,
            "reason": self._counter.engine.reason,
        }

    def _frames(self, body: bytes, kind: str) -> list[bytes]:
        if len(body) > MAX_BODY_BYTES:
            raise _RequestError(413, "the request is too large", expected=f"at most {MAX_BODY_BYTES} bytes")
        if kind in _IMAGES:
            return [body]
        if kind != "application/json":
            raise _RequestError(
                415, "the request is of a type that is not read", got=kind or "none", expected="image/jpeg or image/png"
            )
        asked = _parse(body)
        if "url" in asked:
            return [self._fetcher.fetch(_text(asked["url"], "url"))]
        images = asked["images"] if "images" in asked else [asked["image"]]
        if not isinstance(images, list) or not 1 <= len(images) <= MAX_FRAMES:
            raise _RequestError(400, "images is not a list of photos", expected=f"1 to {MAX_FRAMES} of them")
        return [_from_base64(_text(image, "image")) for image in images]

    def _count(self, frames: list[bytes]) -> dict[str, Any]:
        self._require_small(frames)
        tensor = self._tensor(frames)
        try:
            posteriors = self._batcher.submit(tensor).result(_ANSWER_S)
        except FutureTimeoutError as exc:
            raise OverloadedError("the answer took too long", got=f"over {_ANSWER_S:.0f} s") from exc
        return as_json(self._counter.decide(posteriors), self._counter)

    def _require_small(self, frames: list[bytes]) -> None:
        """Refuse by what the headers say."""
        pixels = sum(found.width * found.height for found in (header(data, name=_NAME) for data in frames))
        if pixels > self._max_pixels:
            raise InputError(
                f"{_NAME} is too large to decode safely",
                got=f"{pixels} pixels in {len(frames)} frames",
                expected=f"at most {self._max_pixels} in all of them",
                fix="Scale the frames down, or send fewer.",
            )

    def _tensor(self, frames: list[bytes]) -> NDArray[np.float32]:
        """Decode frame by frame, each brought to the network's size before the next: one picture in memory."""
        if not self._decoding.acquire(timeout=self._decode_wait_s):
            raise OverloadedError("too many photos are waiting to be decoded", fix="Try again.")
        try:
            return np.concatenate([self._tensor_of(data) for data in frames])
        finally:
            self._decoding.release()

    def _tensor_of(self, data: bytes) -> NDArray[np.float32]:
        if not self._batcher.alive():  # also between the frames of a request: a stop does not wait for all of them
            raise OverloadedError("the service is stopping")
        return self._counter.tensor([decode(data, name=_NAME, max_pixels=self._max_pixels)])


def as_json(count: Count, counter: Counter) -> dict[str, Any]:
    """A count as callers get it.

    Args:
        count: Of one visit.
        counter: That counted.

    Returns:
        count, at_least, label, confidence, confident, proven, posterior by class, interval, bundle.
    """
    return {
        "count": count.count,
        "at_least": count.at_least,
        "label": count.label,
        "confidence": round(count.confidence, 6),
        "confident": count.confident,
        "proven": count.proven,
        "posterior": {name: round(p, 6) for name, p in zip(counter.classes, count.posterior, strict=True)},
        "interval": None if count.interval is None else asdict(count.interval),
        "bundle": counter.bundle.label,
    }


def _parse(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise _RequestError(400, "the request is not JSON", got=str(exc)[:100]) from exc
    if not isinstance(asked, dict) or len(asked) != 1 or not set(asked) <= _KEYS:
        got = sorted(map(str, asked))[:5] if isinstance(asked, dict) else type(asked).__name__
        raise _RequestError(400, "the request names no photo", got=got, expected=f"one of {', '.join(sorted(_KEYS))}")
    return asked


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise _RequestError(400, f"{key} is not text", got=type(value).__name__)
    return value


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _RequestError(400, "a photo is not base64", got=str(exc)) from exc
