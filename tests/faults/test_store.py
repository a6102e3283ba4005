"""An object store that is busy, lies, or hides behind an ill network: no image is dropped, none is taken for stored."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

import pytest

from edge_agent.config import S3Section
from edge_agent.s3 import S3Target
from tests.edge_agent.test_uploads import World
from tests.edge_agent.waiting import wait_until
from tests.faults.network import Network
from tests.faults.store_front import PORTAL, Answer, Front, refusal
from tests.simulators.object_store import CREDENTIALS, MotoStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.network import Mode

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
]


@pytest.fixture(scope="module")
def store() -> Iterator[MotoStore]:
    with MotoStore() as made:
        yield made


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


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
