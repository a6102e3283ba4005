"""An object store that is busy, lies, or hides behind an ill network: no image is dropped, none is taken for stored."""

from __future__ import annotations

import base64
import gc
import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from bundle.errors import DeliveryError
from edge_agent.config import S3Section
from edge_agent.delivery.s3 import S3Target, read_object
from edge_agent.delivery.uploads import UploadError
from edge_agent.lifecycle import _YOUNG_OBJECTS
from tests.edge_agent.test_uploads import World
from tests.edge_agent.waiting import wait_until
from tests.faults.network import Network
from tests.faults.store_front import PORTAL, Answer, Front, refusal
from tests.simulators.broker import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.network import Mode
    from tests.simulators.object_store import MotoStore

pytestmark = pytest.mark.usefixtures("store_keys")

_OTHER = base64.b64encode(hashlib.sha256(b"something else").digest()).decode()
_BURST = [
    *[refusal(503, "SlowDown")] * 3,
    *[refusal(429, "TooManyRequests")] * 3,
    *[refusal(500, "InternalError")] * 2,
    Answer(502, b"<html>bad gateway</html>"),
    refusal(403, "AccessDenied"),
    refusal(403, "RequestTimeTooSkewed"),
    refusal(400, "ExpiredToken"),
    refusal(301, "PermanentRedirect"),
    Answer(302, b"", {"Location": "http://login.example/"}),
    PORTAL,
    Answer(200, b"", {"ETag": '"0"', "x-amz-checksum-sha256": _OTHER}),
    refusal(404, "NoSuchBucket"),
    *[refusal(400, "InvalidRequest")] * 3,
]


@contextmanager
def like_the_agent_collects() -> Iterator[None]:
    """The collector as the agent sets it: what was there before stays, and circles are looked for rarely."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def target(store: MotoStore, url: str) -> S3Target:
    times = {"connect_timeout_s": 0.5, "read_timeout_s": 0.5}
    return S3Target(S3Section.model_validate({"bucket": store.bucket, "endpoint_url": url, **times}))


def test_store_that_refuses_or_lies_in_bursts_gets_every_image_in_the_end(tmp_path: Path, store: MotoStore) -> None:
    with Front(store.port) as front:
        front.script = list(_BURST)
        world = World(tmp_path, target(store, front.url))
        keys = [world.put(number, bytes([number]) * 3000) for number in range(3)]
        world.uploader.worker.start()
        wait_until(lambda: world.outbox.numbers().images == 0, what="the last upload")
        world.stop()
        assert front.asked == len(_BURST) + 6
    assert world.uploader.uploaded == 3
    assert world.outbox.numbers().drops == {}
    assert [store.get(key) for key in keys] == [bytes([number]) * 3000 for number in range(3)]


@pytest.mark.parametrize(
    "mode", ["hole", "portal", *(pytest.param(mode, marks=pytest.mark.soak) for mode in ("refuse", "mute", "slow"))]
)
def test_store_behind_an_ill_network_gets_the_image_once_it_is_well(
    tmp_path: Path, store: MotoStore, mode: Mode
) -> None:
    picture = mode.encode() * 20_000
    with Network(store.port) as network:
        network.mode = mode
        world = World(tmp_path, target(store, f"http://127.0.0.1:{network.port}"))
        key = world.put(1, picture)
        world.uploader.worker.start()
        wait_until(lambda: world.uploader.worker.problem is not None, what="the problem")
        assert world.outbox.numbers().images == 1
        assert key not in set(store.keys()) or mode == "mute"  # what was stored without an answer is found there
        network.mode = "well"
        wait_until(lambda: world.outbox.numbers().images == 0, what="the upload")
        world.stop()
    assert store.get(key) == picture
    assert world.outbox.numbers().drops == {}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Answer(200, b"X-Drops: " + bytes(1000), drips="head"), "no whole answer in 0.5 s"),
        (Answer(200, bytes(1000), {"ETag": '"0"'}, drips="body"), "no whole answer in 0.5 s"),
        (Answer(500, bytes(2 << 20)), "an answer of more than 1048576 B"),
        (Answer(100), "closed"),
    ],
    ids=["head drips", "body drips", "endless", "hangs up in the middle of a promise"],
)
def test_store_whose_answer_never_ends_is_left_and_gets_the_image_later(
    tmp_path: Path, store: MotoStore, answer: Answer, problem: str
) -> None:
    with Front(store.port) as front:
        front.script = [answer]
        with pytest.raises(UploadError, match=problem):
            target(store, front.url).put("a/x.jpg", bytes(30_000), "image/jpeg")
        front.script = [answer] * 2
        world = World(tmp_path, target(store, front.url))
        key = world.put(1, str(answer).encode())
        world.uploader.worker.start()
        wait_until(lambda: world.outbox.numbers().images == 0, what="the upload")
        world.stop()
        wait_until(lambda: front.left == 3 * bool(answer.drips), what="the closed connections")
    assert store.get(key) == str(answer).encode()
    assert world.outbox.numbers().drops == {}
    assert world.uploader.worker.crashes == 0


def test_store_that_knows_no_condition_gets_the_image_without_it(store: MotoStore) -> None:
    with Front(store.port) as front:
        front.script = [refusal(400, "InvalidRequest")]
        target(store, front.url).put("unconditional.jpg", b"x", "image/jpeg")
        assert front.asked == 2
    assert store.get("unconditional.jpg") == b"x"


@pytest.mark.parametrize("code", ["", "InvalidAccessKeyId"], ids=["nobody listens", "keys are refused"])
def test_store_that_fails_a_hundred_times_leaves_nothing_behind(store: MotoStore, code: str) -> None:
    held: list[int] = []
    with Front(store.port) as front:
        ill = target(store, front.url if code else f"http://127.0.0.1:{free_port()}")
        with like_the_agent_collects():
            for _ in range(30 if code else 120):
                front.script = [refusal(403, code)]
                with pytest.raises(UploadError, match=code or "cannot be reached"):
                    ill.put("x.jpg", b"x", "image/jpeg")
                held.append(len(gc.get_objects()))
    # One client is ten thousand objects and more.
    assert max(held[10:]) - min(held[10:]) < 5 * 10_000


def test_object_that_drips_is_not_waited_for(store: MotoStore) -> None:
    store.add("dripping", bytes(20_000))
    with Network(store.port) as network:
        network.mode, network.rate = "slow", 2000
        settings = target(store, f"http://127.0.0.1:{network.port}")._settings
        with pytest.raises(DeliveryError, match=r"no whole answer in 0\.5 s"):
            list(read_object(settings, None, "dripping", 20_000))


@pytest.mark.soak
def test_store_cut_off_within_an_image_gets_the_whole_one(tmp_path: Path, store: MotoStore) -> None:
    picture = b"whole" * 30_000
    with Network(store.port) as network:
        network.cut_after = len(picture) - 1000
        world = World(tmp_path, target(store, f"http://127.0.0.1:{network.port}"))
        key = world.put(1, picture)
        world.uploader.worker.start()
        wait_until(lambda: network.connections >= 3, what="a further attempt")
        assert world.outbox.numbers().images == 1
        network.cut_after = 0
        wait_until(lambda: world.outbox.numbers().images == 0, what="the upload")
        world.stop()
    assert store.get(key) == picture


def test_store_that_takes_an_image_in_pieces_shows_progress(store: MotoStore) -> None:
    told: list[int] = []
    with Network(store.port) as network:
        slow = target(store, f"http://127.0.0.1:{network.port}")
        slow.on_progress = lambda: told.append(1)
        slow.put("slow.jpg", bytes(500_000), "image/jpeg")
    assert len(told) > 2
