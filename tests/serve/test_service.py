from __future__ import annotations

import base64
import json
import os
import struct
import weakref
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bundle.counter import Counter
from bundle.errors import EngineError
from bundle.images import decode, encode_jpeg
from bundle.verify import load_bundle
from serve import lambda_handler
from serve.batcher import Batcher
from serve.fetch import Fetcher
from serve.openapi import description
from serve.service import _STATUS, MAX_BODY_BYTES, MAX_FRAMES, Service
from tests.serve.test_batcher import Gated
from tests.simulators.bundle_factory import grey, make_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_PHOTO = encode_jpeg(grey(3))


def _png(width: int, height: int, depth: int, colour: int, pixels: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bomb() -> bytes:
    """A PNG of a hundred kilobytes that asks for 2.7 GB of pixels."""
    return _png(30000, 30000, 8, 2, bytes(100_000_000))


def flat_png(width: int, height: int) -> bytes:
    """Black, and small whatever its size: a byte holds eight pixels before it is compressed."""
    return _png(width, height, 1, 0, bytes(height * (1 + (width + 7) // 8)))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    bundle = make_bundle(tmp_path_factory.mktemp("service") / "bundle")
    counter = Counter.open(bundle, engine="onnxruntime", threads=1)
    batcher = Batcher(counter)
    yield Service(counter, batcher, Fetcher())
    batcher.close()


def _json(**content: object) -> bytes:
    return json.dumps(content).encode()


def _text(data: bytes = _PHOTO) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/JPEG; charset=binary", "application/x-image"])
def test_answer_photo_is_counted(service: Service, kind: str) -> None:
    answer = service.answer(_PHOTO, kind)
    assert answer.status == 200
    assert (answer.content["count"], answer.content["label"], answer.content["at_least"]) == (3, "3", False)
    assert sum(answer.content["posterior"].values()) == pytest.approx(1, abs=1e-4)


def test_answer_open_class_is_at_least(service: Service) -> None:
    answer = service.answer(encode_jpeg(grey(6)), "image/jpeg")
    assert (answer.content["count"], answer.content["label"], answer.content["at_least"]) == (6, "6+", True)


def test_answer_is_that_of_the_counter(service: Service, tiny_bundle: Path) -> None:
    counter = Counter.open(tiny_bundle, engine="onnxruntime")
    expected = counter.count([decode(_PHOTO, name="photo")])
    counter.close()
    assert service.answer(_PHOTO, "image/jpeg").content["confidence"] == pytest.approx(expected.confidence, abs=1e-6)


def test_answer_frames_of_one_visit_are_fused(service: Service) -> None:
    frames = [_text(encode_jpeg(grey(count))) for count in (2, 2, 4)]
    answer = service.answer(_json(images=frames), "application/json")
    assert answer.content["label"] == "2"
    assert answer.content["posterior"]["4"] == pytest.approx(1 / 3, abs=0.01)


def test_answer_json_photo_is_counted(service: Service) -> None:
    assert service.answer(_json(image=_text()), "application/json").content["count"] == 3


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"a text", "text/plain", 415, "not read"),
        (b"a text", "", 415, "got none"),
        (b"a text", "image/jpeg", 422, "not a photo"),
        (_PHOTO[:200], "image/jpeg", 422, "truncated"),
        (b"", "image/png", 422, "not a photo"),
        (b"{", "application/json", 400, "not JSON"),
        (b"[" * 100_000, "application/json", 400, "not JSON"),
        (b"\xff\xfe\x00", "application/json", 400, "not JSON"),
        (b"[]", "application/json", 400, "names no photo"),
        (b"{}", "application/json", 400, "names no photo"),
        (_json(image="x", url="y"), "application/json", 400, "names no photo"),
        (_json(photo="x"), "application/json", 400, "names no photo"),
        (_json(image=3), "application/json", 400, "not text"),
        (_json(image="no base64!"), "application/json", 400, "not base64"),
        (_json(image="\u00e4"), "application/json", 400, "not base64"),
        (_json(images=[]), "application/json", 400, "not a list of photos"),
        (_json(images=["x"] * (MAX_FRAMES + 1)), "application/json", 400, "not a list of photos"),
        (_json(images="x"), "application/json", 400, "not a list of photos"),
        (_json(url=["x"]), "application/json", 400, "not text"),
        (_json(url="http://169.254.169.254/latest"), "application/json", 403, "not allowed"),
        (_json(url="file:///etc/passwd"), "application/json", 403, "not one that is fetched"),
        (bytes(MAX_BODY_BYTES + 1), "image/jpeg", 413, "too large"),
    ],
)
def test_answer_bad_request_says_what_was_wrong(
    service: Service, body: bytes, kind: str, status: int, words: str
) -> None:
    answer = service.answer(body, kind)
    assert answer.status == status
    assert words in answer.content["error"]


def test_answer_picture_bomb_is_refused_before_it_is_decoded(service: Service) -> None:
    answer = service.answer(bomb(), "image/png")
    assert answer.status == 422
    assert "too large to decode safely" in answer.content["error"]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[NDArray[np.uint8]]]:
    """Every picture that the service decodes from now on."""
    return _watch(monkeypatch, lambda _: None)


def _watch(monkeypatch: pytest.MonkeyPatch, before: Callable[[list[Any]], None]) -> list[Any]:
    pictures: list[Any] = []

    def watched(data: bytes, **settings: Any) -> NDArray[np.uint8]:  # noqa: ANN401 - of decode
        before(pictures)
        picture = decode(data, **settings)
        pictures.append(weakref.ref(picture))
        return picture

    monkeypatch.setattr("serve.service.decode", watched)
    return pictures


def test_answer_frames_that_are_too_large_together_are_refused_before_the_first_is_decoded(
    service: Service, decoded: list[Any]
) -> None:
    answer = service.answer(_json(images=[_text(flat_png(5000, 5000))] * MAX_FRAMES), "application/json")
    assert (answer.status, decoded) == (422, [])
    assert "too large to decode safely: got 400000000 pixels in 16 frames" in answer.content["error"]


def test_answer_frames_are_decoded_one_after_the_other(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sixteen frames that are just small enough together one is in memory at any time."""

    def alone(pictures: list[Any]) -> None:
        assert all(picture() is None for picture in pictures)

    pictures = _watch(monkeypatch, alone)
    answer = service.answer(_json(images=[_text(flat_png(1250, 1250))] * MAX_FRAMES), "application/json")
    assert (answer.status, answer.content["count"], len(pictures)) == (200, 0, MAX_FRAMES)


def test_answer_without_a_turn_to_decode_is_a_503(tiny_bundle: Path, decoded: list[Any]) -> None:
    batcher = Batcher(counter := Counter.open(tiny_bundle, engine="onnxruntime", threads=1))
    service = Service(counter, batcher, Fetcher(), decode_wait_s=0.05)
    for _ in range(os.cpu_count() or 1):
        service._decoding.acquire()
    answer = service.answer(_PHOTO, "image/jpeg")
    assert (answer.status, decoded) == (503, [])
    assert "waiting to be decoded" in answer.content["error"]
    service._decoding.release()
    assert service.answer(_PHOTO, "image/jpeg").status == 200
    assert service.answer(_PHOTO, "image/jpeg").status == 200  # the turn was given back
    batcher.close()


def test_answer_stops_between_the_frames_of_a_visit(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = Batcher(counter := Counter.open(tiny_bundle, engine="onnxruntime", threads=1))
    service = Service(counter, batcher, Fetcher())
    decoded = _watch(monkeypatch, lambda _: batcher.close())
    answer = service.answer(_json(images=[_text()] * MAX_FRAMES), "application/json")
    assert (answer.status, len(decoded)) == (503, 1)
    assert (service.answer(_PHOTO, "image/jpeg").status, len(decoded)) == (503, 1)


@pytest.mark.parametrize("failure", [EngineError("the device is gone"), RuntimeError("the device is gone")])
def test_answer_when_the_network_fails_is_a_500(tiny_bundle: Path, failure: Exception) -> None:
    engine = Gated(fail=failure)
    engine.go.set()
    batcher = Batcher(counter := Counter(load_bundle(tiny_bundle), engine))
    answer = Service(counter, batcher, Fetcher()).answer(_PHOTO, "image/jpeg")
    batcher.close()
    assert answer.status == 500
    assert "the device is gone" in answer.content["error"]


def test_answer_after_close_is_a_clear_503(tiny_bundle: Path) -> None:
    counter = Counter.open(tiny_bundle, engine="onnxruntime", threads=1)
    batcher = Batcher(counter)
    service = Service(counter, batcher, Fetcher())
    assert service.healthy()
    batcher.close()
    assert service.answer(_PHOTO, "image/jpeg").status == 503
    assert not service.healthy()


def test_description_names_every_status_that_answers_have(service: Service) -> None:
    document = description(service.describe())
    operation = document["paths"]["/count"]["post"]
    of_requests = {200, 400, 408, 413, 415}
    assert set(operation["responses"]) == {str(status) for status in of_requests | {status for _, status in _STATUS}}
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(schema["required"]) == set(service.answer(_PHOTO, "image/jpeg").content)


@pytest.fixture
def lambda_bundle(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BINTALLY_BUNDLE", str(tiny_bundle))
    lambda_handler._service.cache_clear()
    yield
    lambda_handler._service()._batcher.close()
    lambda_handler._service.cache_clear()


@pytest.mark.usefixtures("lambda_bundle")
@pytest.mark.parametrize("header", ["content-type", "Content-Type"])
def test_lambda_handler_http_event_is_answered_like_http(header: str) -> None:
    event = {"requestContext": {}, "headers": {header: "image/jpeg"}, "isBase64Encoded": True, "body": _text()}
    reply = lambda_handler.handler(event, None)
    assert reply["statusCode"] == 200
    assert json.loads(reply["body"])["count"] == 3


@pytest.mark.usefixtures("lambda_bundle")
def test_lambda_handler_direct_invocation_is_answered() -> None:
    assert lambda_handler.handler({"image": _text()}, None)["count"] == 3
    assert lambda_handler.handler({"picture": "x"}, None)["status"] == 400


@pytest.mark.usefixtures("lambda_bundle")
def test_lambda_handler_bad_events_are_refusals() -> None:
    event: dict[str, object] = {
        "requestContext": {},
        "headers": None,
        "isBase64Encoded": True,
        "body": "no base64!",
    }
    assert lambda_handler.handler(event, None)["statusCode"] == 400
    assert lambda_handler.handler({"requestContext": {}, "body": None}, None)["statusCode"] == 415


def test_grey_photos_of_any_shape_are_counted(service: Service) -> None:
    for shape in ((1, 1, 3), (2000, 10, 3)):
        photo = encode_jpeg(np.full(shape, 110, np.uint8))
        assert service.answer(photo, "image/jpeg").status == 200
