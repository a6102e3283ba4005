from __future__ import annotations

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from bundle.verify import load_bundle
from edge_agent.commands.fetch import FolderSource, fetch, open_source
from edge_agent.commands.reasons import CommandError
from edge_agent.config import CommandsSection, S3Section
from tests.simulators.bundle_factory import make_bundle
from tests.simulators.object_store import CREDENTIALS, MotoStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edge_agent.commands.fetch import Source

MAX_BYTES = 10 << 20


class _Quiet(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/away/"):
            self.send_response(302)
            self.send_header("Location", self.path.replace("/away/", "/"))
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def never(_: float) -> bool:
    return False


def reason_of(source: Source, digest: str, folder: Path, max_bytes: int = MAX_BYTES) -> str:
    with pytest.raises(CommandError) as caught:
        fetch(source, digest, folder / "part", max_bytes, never)
    return caught.value.reason.code


def test_fetch_over_http_brings_the_bundle_and_follows_no_redirect(tmp_path: Path, web: str) -> None:
    digest = load_bundle(make_bundle(tmp_path / "made")).digest
    settings = CommandsSection(bundle_sources=(web,))
    assert fetch(open_source(f"{web}/made", settings, None, "r1"), digest, tmp_path / "part", MAX_BYTES, never)
    assert load_bundle(tmp_path / "part").digest == digest
    assert reason_of(open_source(f"{web}/away/made", settings, None, "r1"), digest, tmp_path) == "download_failed"
    assert reason_of(open_source(f"{web}/nothing", settings, None, "r1"), digest, tmp_path) == "download_failed"


def test_fetch_from_an_object_store_brings_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    made = make_bundle(tmp_path / "made")
    with MotoStore() as store:
        for file in made.iterdir():
            store.add(f"bundles/one/{file.name}", file.read_bytes())
        s3 = S3Section(bucket="images", endpoint_url=store.url)
        settings = CommandsSection(bundle_sources=("s3://bins/bundles",))
        source = open_source("s3://bins/bundles/one", settings, s3, "r1")
        assert fetch(source, load_bundle(made).digest, tmp_path / "part", MAX_BYTES, never)
        assert load_bundle(tmp_path / "part").digest == load_bundle(made).digest
        nothing = open_source("s3://bins/bundles/two", settings, s3, "r1")
        assert reason_of(nothing, load_bundle(made).digest, tmp_path) == "download_failed"


def test_fetch_takes_no_pipe_nothing_larger_than_promised_and_nothing_beyond_its_bound(tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "made")
    digest = load_bundle(made).digest
    assert reason_of(FolderSource(made), digest, tmp_path, max_bytes=100) == "bundle_refused"
    with (made / "card.md").open("ab") as file:
        file.write(b"more")
    assert reason_of(FolderSource(made), digest, tmp_path) == "bundle_refused"
    (made / "card.md").unlink()
    os.mkfifo(made / "card.md")
    assert reason_of(FolderSource(made), digest, tmp_path) == "download_failed"


def test_fetch_that_is_told_to_end_ends(tmp_path: Path) -> None:
    source, digest = FolderSource(make_bundle(tmp_path / "made")), load_bundle(tmp_path / "made").digest
    assert not fetch(source, digest, tmp_path / "part", MAX_BYTES, lambda share: share > 0.1)


@pytest.mark.parametrize(
    "source",
    [
        "/media/usb",
        "/media/usbx/b",
        "/media/usb/../x",
        "/media/usb/./x",
        "https://host/other/x",
        "https://host/bundles@evil/x",
        "https://host/bundles/x?y",
        "s3://bundles/x",
        "file:///etc/passwd",
        "relative/x",
    ],
)
def test_open_source_refuses_what_is_not_below_an_allowed_one(source: str) -> None:
    settings = CommandsSection(bundle_sources=("/media/usb", "https://host/bundles", "s3://bundle"))
    with pytest.raises(CommandError) as caught:
        open_source(source, settings, S3Section(bucket="images"), "r1")
    assert caught.value.reason.code == "source_not_allowed"
