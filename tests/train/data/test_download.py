from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import boto3
import pytest

from bundle.errors import ConfigError, DeliveryError
from tests.simulators.object_store import CREDENTIALS, MotoStore
from tests.train.data.bucket_simulator import BucketSimulator, Fault
from tests.train.data.sources import AbidSource
from train.data.bucket import Bucket, BucketOptions
from train.data.download import DownloadOptions, download
from train.data.landing import locked
from train.data.selection import Selection
from train.data.tally import MISSING_NAME, REMARKS_NAME, Downloaded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PHOTOS = 60
FAST = DownloadOptions(connections=8, retry_s=0.001)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    source = AbidSource(tmp_path_factory.mktemp("bucket"))
    for number in range(1, PHOTOS + 1):
        source.add(f"{number:05d}", number % 7)
    return source.objects()


@pytest.fixture
def server(objects: dict[str, bytes]) -> Iterator[BucketSimulator]:
    with BucketSimulator(objects, page=17) as simulator:
        yield simulator


def _bucket(server: BucketSimulator, *, read_timeout_s: float = 5.0, object_timeout_s: float = 5.0) -> Bucket:
    return Bucket(
        BucketOptions(
            bucket=server.bucket,
            endpoint_url=server.url,
            connections=8,
            read_timeout_s=read_timeout_s,
            object_timeout_s=object_timeout_s,
        )
    )


def _run(server: BucketSimulator, out: Path, selection: Selection | None = None) -> Downloaded:
    return download(_bucket(server), out, selection or Selection(), FAST)


def whole_files(out: Path, objects: Mapping[str, bytes]) -> dict[str, bytes]:
    """Everything that has its final name; each must be exactly what the bucket holds."""
    found = {}
    for part in ("bin-images", "metadata"):
        for path in (out / part).iterdir() if (out / part).is_dir() else ():
            if path.suffix != ".part":
                found[f"{part}/{path.name}"] = path.read_bytes()
    assert all(objects[key] == data for key, data in found.items())
    return found


def test_download_everything_is_complete_and_equal(
    server: BucketSimulator, objects: dict[str, bytes], tmp_path: Path
) -> None:
    done = _run(server, tmp_path)
    assert whole_files(tmp_path, objects).keys() == objects.keys()
    assert (done.photos, done.fetched, done.present, done.missing) == (PHOTOS, 2 * PHOTOS, 0, ())
    assert done.bytes == sum(map(len, objects.values()))
    assert (tmp_path / MISSING_NAME).read_text() == ""


def test_download_again_asks_for_nothing_but_the_listing(server: BucketSimulator, tmp_path: Path) -> None:
    _run(server, tmp_path)
    before = server.asked.copy()
    done = _run(server, tmp_path)
    assert server.asked == before
    assert (done.fetched, done.present) == (0, 2 * PHOTOS)


@pytest.mark.parametrize("fault", ["503", "short", "reset", "corrupt", "slow"])
def test_download_fault_that_passes_is_survived(
    server: BucketSimulator, objects: dict[str, bytes], tmp_path: Path, fault: Fault
) -> None:
    for number in (1, 2, 3, 30, 60):
        server.fail(f"bin-images/{number:05d}.jpg", fault, times=2)
        server.fail(f"metadata/{number:05d}.json", fault, times=2)
    done = _run(server, tmp_path)
    assert done.missing == ()
    assert whole_files(tmp_path, objects).keys() == objects.keys()


def test_download_random_faults_everywhere_ends_complete(
    server: BucketSimulator, objects: dict[str, bytes], tmp_path: Path
) -> None:
    server.random_faults = (0.25, ("503", "short", "reset", "corrupt", "slow"))
    for _ in range(4):
        done = _run(server, tmp_path)
        if not done.missing:
            break
    assert done.missing == ()
    assert whole_files(tmp_path, objects).keys() == objects.keys()


def test_download_refused_object_is_named_and_not_tried_again(
    server: BucketSimulator, objects: dict[str, bytes], tmp_path: Path
) -> None:
    server.fail("bin-images/00004.jpg", "403", times=99)
    server.objects.pop("metadata/00009.json")
    done = _run(server, tmp_path)
    assert {(entry.name, entry.kind) for entry in done.missing} == {
        ("bin-images/00004.jpg", "refused"),
        ("metadata/00009.json", "refused"),
    }
    assert server.asked["bin-images/00004.jpg"] == server.asked["metadata/00009.json"] == 1
    listed = [json.loads(line) for line in (tmp_path / MISSING_NAME).read_text().splitlines()]
    assert "403 AccessDenied" in listed[0]["reason"]
    assert "404 NoSuchKey" in listed[1]["reason"]
    assert whole_files(tmp_path, objects).keys() == objects.keys() - {
        "bin-images/00004.jpg",
        "metadata/00009.json",
        "bin-images/00009.jpg",
    }


def test_download_second_run_fetches_only_what_was_missing(server: BucketSimulator, tmp_path: Path) -> None:
    server.fail("bin-images/00004.jpg", "503", times=FAST.attempts)
    first = _run(server, tmp_path)
    assert [entry.kind for entry in first.missing] == ["interrupted"]
    before = server.asked.copy()
    second = _run(server, tmp_path)
    assert second.missing == ()
    assert (server.asked - before) == {"bin-images/00004.jpg": 1}


def test_download_dripping_server_is_given_up_in_time(server: BucketSimulator, tmp_path: Path) -> None:
    server.slow_s = 0.02
    server.fail("bin-images/00001.jpg", "drip", times=99)
    started = time.monotonic()
    bucket = _bucket(server, object_timeout_s=0.1)
    done = download(bucket, tmp_path, Selection(ids=("00001",)), DownloadOptions(attempts=2, retry_s=0.001))
    assert time.monotonic() - started < 5
    assert "too slow" in done.missing[0].reason


def test_download_server_that_refuses_everything_stops_early(server: BucketSimulator, tmp_path: Path) -> None:
    server.forbid_everything = True
    with pytest.raises(DeliveryError, match="20 objects in a row"):
        _run(server, tmp_path, Selection(ids=tuple(f"{number:05d}" for number in range(1, 61))))
    assert len((tmp_path / MISSING_NAME).read_text().splitlines()) == 20
    with pytest.raises(DeliveryError, match="refused"):
        _run(server, tmp_path)


def test_download_from_another_s3_implementation_signed_and_unsigned(
    objects: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    few = Selection(counts=range(3), limit=2)
    with MotoStore() as store:
        client = boto3.client("s3", endpoint_url=store.url, region_name="us-east-1")
        for key, data in objects.items():
            if "/0001" in key:
                client.put_object(Bucket=store.bucket, Key=key, Body=data, ACL="public-read")
        client.put_bucket_acl(Bucket=store.bucket, ACL="public-read")
        client.close()
        for signed in (False, True):
            out = tmp_path / str(signed)
            bucket = Bucket(BucketOptions(bucket=store.bucket, endpoint_url=store.url, signed=signed))
            done = download(bucket, out, few, FAST)
            assert (done.photos, done.missing) == (2, ())
            assert len(whole_files(out, objects)) == 4


def test_download_nobody_listening_is_one_clear_error(server: BucketSimulator, tmp_path: Path) -> None:
    bucket = Bucket(BucketOptions(bucket="b", endpoint_url="http://127.0.0.1:1", connect_timeout_s=1))
    with pytest.raises(DeliveryError, match="interrupted"):
        download(bucket, tmp_path, Selection(), DownloadOptions(attempts=2, retry_s=0.001))
    assert server.asked == {}


def test_download_endpoint_that_is_no_address_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        Bucket(BucketOptions(endpoint_url="not an address"))


def test_download_counts_and_limit_take_the_first_that_fit(
    server: BucketSimulator, objects: dict[str, bytes], tmp_path: Path
) -> None:
    done = _run(server, tmp_path, Selection(counts=range(2, 4), limit=7))
    names = sorted(key for key in whole_files(tmp_path, objects) if key.startswith("bin-images"))
    assert [int(name[11:16]) % 7 for name in names] == [2, 3, 2, 3, 2, 3, 2]
    assert done.by_count == {2: 4, 3: 3}
    assert len(whole_files(tmp_path, objects)) == 14
    before = server.asked.copy()
    again = _run(server, tmp_path, Selection(counts=range(2, 4), limit=7))
    assert server.asked == before
    assert again.photos == 7


def test_download_selection_does_not_depend_on_connections(server: BucketSimulator, tmp_path: Path) -> None:
    server.random_faults = (0.3, ("slow",))
    selection = Selection(quota={1: 3, 6: 4}, shuffle=2)
    for connections in (1, 16):
        options = DownloadOptions(connections=connections, retry_s=0.001)
        download(_bucket(server), tmp_path / str(connections), selection, options)
    one, many = (sorted(p.name for p in (tmp_path / n / "bin-images").iterdir()) for n in ("1", "16"))
    assert one == many
    assert len(one) == 7


def test_download_exclude_never_fetches_twice(server: BucketSimulator, tmp_path: Path) -> None:
    there = frozenset(f"{number:05d}" for number in range(1, 31))
    done = _run(server, tmp_path, Selection(exclude=there, quota={0: 100}))
    assert done.by_count == {0: 4}
    assert not there & {path.stem for path in (tmp_path / "bin-images").iterdir()}


def test_download_record_that_contradicts_the_list_is_remarked(server: BucketSimulator, tmp_path: Path) -> None:
    done = _run(server, tmp_path, Selection(ids=("00001", "00002"), claimed={"00001": 1, "00002": 6}))
    (remark,) = done.remarks
    assert (remark.name, remark.kind) == ("metadata/00002.json", "count_differs")
    assert "6" in remark.reason
    assert "2" in remark.reason
    assert (tmp_path / REMARKS_NAME).read_text().count("\n") == 1


def test_download_malformed_record_is_listed(server: BucketSimulator, tmp_path: Path) -> None:
    server.objects["metadata/00001.json"] = b"{"
    done = _run(server, tmp_path, Selection(ids=("00001", "00002")))
    assert [(entry.name, entry.kind) for entry in done.missing] == [("metadata/00001.json", "malformed")]


def test_download_looked_up_photos_are_remembered_and_a_torn_line_is_not_believed(
    server: BucketSimulator, tmp_path: Path
) -> None:
    _run(server, tmp_path, Selection(counts=range(5, 6)))
    seen = tmp_path / ".download" / "seen.tsv"
    assert len(seen.read_text().splitlines()) == PHOTOS - 8
    # As a kill would leave it: the last number is torn, 12 could have been 1 or 2 ...
    seen.write_text("00005\t1\n00012\t1")
    done = _run(server, tmp_path, Selection(ids=("00012",), counts=range(5, 6)))
    assert done.photos == 1
    assert "00012" not in seen.read_text()


def test_download_into_a_folder_in_use_is_refused(server: BucketSimulator, tmp_path: Path) -> None:
    (tmp_path / ".download").mkdir()
    with locked(tmp_path / ".download" / "lock"), pytest.raises(ConfigError, match="another download"):
        _run(server, tmp_path)


def test_download_into_a_place_that_is_no_folder_says_what_to_do(server: BucketSimulator, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/out cannot be written: got Not a directory.*Choose another"):
        _run(server, tmp_path / "file" / "out")


def test_download_interrupted_by_the_user_stops_all_threads_and_keeps_whole_files(
    server: BucketSimulator, objects: dict[str, bytes], tmp_path: Path
) -> None:
    def interrupt(done: int, _total: int, _bytes: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(_bucket(server), tmp_path, Selection(), DownloadOptions(connections=4, on_progress=interrupt))
    assert len(whole_files(tmp_path, objects)) >= 10
    assert not list(tmp_path.rglob("*.part"))
    _run(server, tmp_path)
    assert whole_files(tmp_path, objects).keys() == objects.keys()
    assert max(server.whole.values()) <= 2


def command(server: BucketSimulator, out: Path) -> list[str]:
    where = ["--endpoint", server.url, "--bucket", server.bucket, "--connections", "8"]
    return [sys.executable, "-m", "bintally", "data", "download", str(out), *where, "--json"]


def kill_at_random_moments(
    server: BucketSimulator, objects: Mapping[str, bytes], out: Path, repository: Path, *, kills: int, seed: int
) -> None:
    """SIGKILL a download `kills` times, then let it end; at no time may a half file bear a whole file's name."""
    draw = random.Random(seed)
    for _ in range(kills):
        # Mostly while it works, so the moment is set by what has arrived, plus a little.
        goal = len(list(out.glob("*/*.jp*"))) + draw.randint(0, max(1, len(objects) // (3 * kills)))
        process = subprocess.Popen(command(server, out), cwd=repository, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and len(list(out.glob("*/*.jp*"))) < goal and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(draw.random() * 0.02)
        process.kill()
        process.wait()
        whole_files(out, objects)
    there = whole_files(out, objects).keys()
    before = server.asked.copy()
    done = subprocess.run(command(server, out), cwd=repository, capture_output=True, text=True, check=True)
    assert whole_files(out, objects).keys() == objects.keys()
    assert (server.asked - before).keys() == objects.keys() - there
    assert json.loads(done.stdout)["missing"] == 0
    assert not list(out.rglob("*.part"))


def test_download_killed_goes_on_where_it_was(
    server: BucketSimulator, objects: dict[str, bytes], tmp_path: Path, repository: Path
) -> None:
    server.slow_s = 0.01
    server.random_faults = (0.7, ("slow",))
    kill_at_random_moments(server, objects, tmp_path / "out", repository, kills=2, seed=1)


def test_download_sigint_ends_quickly(server: BucketSimulator, tmp_path: Path, repository: Path) -> None:
    server.slow_s = 0.2
    server.random_faults = (1.0, ("slow",))
    out = tmp_path / "out"
    # A shell ignores SIGINT in what it runs in the background, and the child would inherit that.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [*command(server, out)[:-2], "2"], cwd=repository, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    finally:
        signal.signal(signal.SIGINT, inherited)
    deadline = time.monotonic() + 120
    while not list(out.glob("bin-images/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    assert not list(out.rglob("*.part"))


def test_download_disk_that_takes_no_more_stops_with_whole_files(
    server: BucketSimulator, objects: dict[str, bytes], tmp_path: Path, repository: Path
) -> None:
    largest = max(objects, key=lambda key: len(objects[key]))
    limit = len(objects[largest]) - 1
    # The kernel refuses files above the limit, as a full disk would: partly written, then an error.
    code = (
        "import resource, signal, sys, bintally\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        f"sys.argv = ['bintally'] + {command(server, tmp_path / 'out')[3:]!r}\n"
        "bintally.main()\n"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 75
    assert "cannot be written" in done.stderr
    assert "run the same command again" in done.stderr
    there = whole_files(tmp_path / "out", objects)
    assert largest not in there
    assert not list((tmp_path / "out").rglob("*.part"))
    _run(server, tmp_path / "out")
    assert whole_files(tmp_path / "out", objects).keys() == objects.keys()
