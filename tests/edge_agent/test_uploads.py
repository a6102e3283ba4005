from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from edge_agent.config import S3Section
from edge_agent.delivery.s3 import S3Target
from edge_agent.delivery.uploads import FolderTarget, Uploader, UploadError, image_key
from edge_agent.outbox.outbox import Outbox
from edge_agent.outbox.rows import Entry, ImageEntry
from edge_agent.outbox.spool import Spool
from tests.edge_agent.test_outbox import open_ledger
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import free_port
from tests.simulators.object_store import CREDENTIALS, SimulatedTarget

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.delivery.uploads import Target
    from tests.simulators.object_store import MotoStore

pytestmark = pytest.mark.usefixtures("store_keys")

_JPEG = b"\xff\xd8 a picture \xff\xd9"


class World:
    """An uploader over an outbox of its own."""

    def __init__(self, folder: Path, target: Target) -> None:
        self.outbox = Outbox(open_ledger(folder))
        self.spool = Spool(folder / "images")
        self.uploader = Uploader(target, self.outbox, self.spool, retry_max_s=0.1)
        self.outbox.start()

    def put(self, number: int, data: bytes = _JPEG) -> str:
        key = image_key("site/robot", data)
        sidecar = json.dumps({"image_key": key}).encode()
        entry = Entry(f"e{number}", "count", "t", b"{}", image=ImageEntry(key, data, sidecar))
        assert self.outbox.put(entry, timeout_s=5)
        wait_until(lambda: self.outbox.is_stored)
        return key

    def stop(self) -> None:
        self.uploader.finish(5)
        self.outbox.close(5)


def _settings(store: MotoStore, **changes: object) -> S3Section:
    return S3Section.model_validate({"bucket": store.bucket, "endpoint_url": store.url, **changes})


def test_image_key_is_the_content() -> None:
    assert image_key("a/b", _JPEG) == f"a/b/{hashlib.sha256(_JPEG).hexdigest()}.jpg"
    assert image_key("", b"\x89PNG...").endswith(".png")


def test_uploader_sends_image_then_sidecar_and_empties_the_outbox(tmp_path: Path) -> None:
    target = SimulatedTarget()
    world = World(tmp_path, target)
    keys = [world.put(number, _JPEG + bytes([number])) for number in range(5)]
    world.uploader.worker.start()
    wait_until(lambda: world.outbox.numbers().images == 0)
    world.stop()
    assert [key for key in target.objects if key.endswith(".jpg")] == keys
    assert list(target.objects)[:2] == [keys[0], keys[0].replace(".jpg", ".json")]
    assert json.loads(target.objects[keys[0].replace(".jpg", ".json")]) == {"image_key": keys[0]}
    assert world.uploader.uploaded == 5
    assert not list((tmp_path / "images").iterdir())


def test_uploader_keeps_an_image_until_the_store_takes_it(tmp_path: Path) -> None:
    target = SimulatedTarget(failures=[UploadError("503 slow down")] * 3)
    world = World(tmp_path, target)
    key = world.put(1)
    world.uploader.worker.start()
    wait_until(lambda: key in target.objects)
    wait_until(lambda: world.outbox.numbers().images == 0)
    world.stop()
    assert world.uploader.worker.problem is None
    assert world.outbox.numbers().drops == {}


def test_uploader_drops_only_the_object_that_the_store_will_never_take(tmp_path: Path) -> None:
    target = SimulatedTarget(failures=[UploadError("too large", object_refused=True)])
    world = World(tmp_path, target)
    world.put(1, _JPEG + b"1")
    second = world.put(2, _JPEG + b"2")
    world.uploader.worker.start()
    wait_until(lambda: world.outbox.numbers().images == 0)
    world.stop()
    assert second in target.objects
    assert (world.uploader.uploaded, world.uploader.refused) == (1, 1)
    assert world.outbox.numbers().drops == {"images_refused": 1}


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_uploader_never_uploads_what_was_not_stored(tmp_path: Path, damage: str) -> None:
    target = SimulatedTarget()
    world = World(tmp_path, target)
    world.put(1)
    file = world.spool.path("e1")
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(_JPEG.replace(b"a", b"b"))
    world.uploader.worker.start()
    wait_until(lambda: world.outbox.numbers().images == 0)
    world.stop()
    assert target.objects == {}
    assert world.outbox.numbers().drops == {"images_damaged": 1}


def test_folder_target_writes_once_and_mends_what_is_not_whole(tmp_path: Path) -> None:
    target, file = FolderTarget(tmp_path / "up"), tmp_path / "up" / "site" / "robot" / "x.jpg"
    target.put("site/robot/x.jpg", b"whole", "image/jpeg")
    written = file.stat().st_mtime_ns
    target.put("site/robot/x.jpg", b"whole", "image/jpeg")
    assert file.stat().st_mtime_ns == written
    file.write_bytes(b"ha")
    target.put("site/robot/x.jpg", b"whole", "image/jpeg")
    assert file.read_bytes() == b"whole"


def test_folder_target_that_is_a_file_is_an_upload_error(tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"")
    with pytest.raises(UploadError, match=r"uploads\.folder"):
        FolderTarget(tmp_path / "up").put("x.jpg", b"", "image/jpeg")


def test_s3_target_puts_once_and_finds_it_there_the_second_time(store: MotoStore) -> None:
    target = S3Target(_settings(store))
    target.put("a/once.jpg", _JPEG, "image/jpeg")
    target.put("a/once.jpg", _JPEG, "image/jpeg")
    assert store.get("a/once.jpg") == _JPEG
    assert store.keys().count("a/once.jpg") == 1


def test_s3_target_missing_bucket_says_what_to_do(store: MotoStore) -> None:
    with pytest.raises(UploadError, match=r"NoSuchBucket.*s3\.bucket") as caught:
        S3Target(_settings(store, bucket="not-there")).put("x.jpg", _JPEG, "image/jpeg")
    assert not caught.value.object_refused


def test_s3_target_unreachable_endpoint_is_an_upload_error() -> None:
    settings = S3Section(bucket="bins", endpoint_url=f"http://127.0.0.1:{free_port()}", connect_timeout_s=1)
    with pytest.raises(UploadError, match="cannot be reached"):
        S3Target(settings).put("x.jpg", _JPEG, "image/jpeg")


def test_s3_target_without_credentials_says_so(
    store: MotoStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UploadError, match="credentials"):
        S3Target(_settings(store)).put("x.jpg", _JPEG, "image/jpeg")


def test_s3_target_takes_credentials_from_a_file(
    store: MotoStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    file = tmp_path / "aws"
    file.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n", encoding="utf-8")
    S3Target(_settings(store, credentials_file=file)).put("file.jpg", _JPEG, "image/jpeg")
    assert store.get("file.jpg") == _JPEG
