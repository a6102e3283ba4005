"""Keys from a credential provider: a real TLS server that asks for the robot's certificate, and a real object store."""

from __future__ import annotations

import json
import logging
import ssl
import threading
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import ValidationError

from edge_agent.config import IotSection, S3Section
from edge_agent.delivery.iot import IotCredentials, Keys
from edge_agent.delivery.s3 import S3Target
from edge_agent.delivery.uploads import UploadError
from tests.simulators.authority import Authority
from tests.simulators.object_store import MotoStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from edge_agent.delivery.allowance import Allowance


class Provider:
    """AWS IoT's credential endpoint on the loopback.

    Attributes:
        asked: Path and thing name of each request.
        status: What it answers with.
        answer: Its body, None for fresh keys.
        server_time: Its clock.
        lifetime_s: Of the keys.
        pause_s: Between two bytes of its answer.
    """

    def __init__(self, authority: Authority) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.status, self.answer, self.lifetime_s = 200, b"", 3600.0
        self.pause_s = 0.0
        self.server_time = datetime.now(timezone.utc)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.folder / "server.crt", authority.folder / "server.key")
        context.load_verify_locations(authority.folder / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append((self.path, self.headers.get("x-amzn-iot-thingname")))
                body = provider.answer or provider.keys()
                self.send_response_only(provider.status)
                self.send_header("Date", format_datetime(provider.server_time, usegmt=True))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                for start in range(0, len(body), 1 if provider.pause_s else len(body)):
                    self.wfile.write(body[start : start + 1] if provider.pause_s else body)
                    time.sleep(provider.pause_s)

            def log_message(self, *_: object) -> None:
                return

        return Handler

    def keys(self) -> bytes:
        ends = self.server_time + timedelta(seconds=self.lifetime_s)
        number = len(self.asked)
        fields = {
            "accessKeyId": f"ASIA{number:016d}",
            "secretAccessKey": f"hidden-{number}",
            "sessionToken": f"token-{number}",
            "expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return json.dumps({"credentials": fields}).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(HTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client without a certificate is not news."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority") / "certificates")
    made.run("server", "localhost")
    made.run("client", "robot")
    return made


@pytest.fixture
def provider(authority: Authority) -> Iterator[Provider]:
    made = Provider(authority)
    yield made
    made.close()


def section(authority: Authority, port: int, **changes: object) -> IotSection:
    folder = authority.folder
    files: dict[str, object] = {
        "ca_file": folder / "ca.crt",
        "cert_file": folder / "robot.crt",
        "key_file": folder / "robot.key",
    }
    fields = {"endpoint": f"localhost:{port}", "role_alias": "bintally-robots", **files, **changes}
    return IotSection.model_validate(fields)


def test_keys_are_fetched_with_the_certificate_and_renewed_before_they_end(
    authority: Authority, provider: Provider
) -> None:
    now = [1000.0]
    credentials = IotCredentials(section(authority, provider.port), "r1", clock=lambda: now[0])
    first = credentials.current()
    assert provider.asked == [("/role-aliases/bintally-robots/credentials", "r1")]
    assert first.lifetime_s == pytest.approx(3600, abs=2)
    now[0] += 2600
    assert credentials.current() is first
    now[0] += 200  # a quarter of an hour before their end
    second = credentials.current()
    assert second is not first
    assert credentials.current() is second
    assert "hidden" not in repr(second)
    assert "token" not in repr(second)


def test_keys_of_a_robot_whose_clock_is_wrong_live_as_long_as_the_server_says(
    authority: Authority, provider: Provider
) -> None:
    provider.server_time = datetime(2031, 5, 1, 12, 0, tzinfo=timezone.utc)
    provider.lifetime_s = 900
    credentials = IotCredentials(section(authority, provider.port), "r1")
    assert credentials.current().lifetime_s == pytest.approx(900, abs=1)


def test_old_keys_are_used_while_new_ones_cannot_be_had(
    authority: Authority, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    credentials = IotCredentials(section(authority, provider.port), "r1", clock=lambda: now[0])
    first = credentials.current()
    provider.status, provider.answer = 403, b'{"message": "not allowed"}'
    now[0] = 3000.0
    with caplog.at_level(logging.WARNING):
        assert credentials.current() is first
        assert credentials.current() is first  # not asked again at once
    assert len(provider.asked) == 2
    assert "the old keys are good for" in caplog.text
    now[0] = 3700.0
    with pytest.raises(UploadError, match=r"403: not allowed.*role_alias"):
        credentials.current()


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>please log in</html>",
        b"[]",
        b'{"credentials": {"accessKeyId": "A"}}',
        b'{"credentials": null}',
        b'{"credentials": {"accessKeyId": "A", "secretAccessKey": "hidden-x", "sessionToken": "t", "expiration": 5}}',
    ],
)
def test_answer_of_another_form_is_refused_without_quoting_it(
    authority: Authority, provider: Provider, answer: bytes
) -> None:
    provider.answer = answer
    with pytest.raises(UploadError, match="unknown form") as refused:
        IotCredentials(section(authority, provider.port), "r1").current()
    assert "hidden" not in str(refused.value)


def test_endpoint_that_drips_is_left(authority: Authority, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.delivery.iot._TIMEOUT_S", 0.5)
    provider.pause_s = 0.05
    with pytest.raises(UploadError, match="cannot be reached"):
        IotCredentials(section(authority, provider.port), "r1").current()


def test_endpoint_that_is_not_ours_or_does_not_know_us_gets_no_request(
    authority: Authority, provider: Provider, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    other.run("client", "robot")
    stranger = section(
        authority, provider.port, cert_file=other.folder / "robot.crt", key_file=other.folder / "robot.key"
    )
    imposter = section(authority, provider.port, ca_file=other.folder / "ca.crt")
    for bad in (stranger, imposter):
        with pytest.raises(UploadError, match="cannot be reached"):
            IotCredentials(bad, "r1").current()
    assert provider.asked == []


def test_uploads_use_the_keys_and_ask_for_new_ones_when_the_store_says_that_they_expired(
    authority: Authority, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ClientError

    used: list[Keys | None] = []
    with MotoStore() as store:
        settings = S3Section(bucket=store.bucket, endpoint_url=store.url)
        credentials = IotCredentials(section(authority, provider.port), "r1")
        target = S3Target(settings, credentials)
        import edge_agent.delivery.s3

        make_client = edge_agent.delivery.s3._make_client

        def watched(settings: S3Section, keys: Keys | None, allowance: Allowance) -> S3Client:
            used.append(keys)
            return make_client(settings, keys, allowance)

        monkeypatch.setattr("edge_agent.delivery.s3._make_client", watched)
        target.put("wh1/r1/a.txt", b"a", "text/plain")
        target.put("wh1/r1/b.txt", b"b", "text/plain")
        assert [keys.access_key for keys in used if keys is not None] == ["ASIA0000000000000001"]
        for code in ("ExpiredToken", "RequestTimeTooSkewed"):
            error = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 403}}

            def refuse(error: object = error, **_: object) -> None:
                raise ClientError(cast("Any", error), "PutObject")

            assert target._client is not None
            monkeypatch.setattr(target._client, "put_object", refuse)
            with pytest.raises(UploadError, match=code):
                target.put("wh1/r1/c.txt", b"c", "text/plain")
            target.put("wh1/r1/c.txt", b"c", "text/plain")
        assert len(used) == len(provider.asked) == 3
        assert store.keys() == ["wh1/r1/a.txt", "wh1/r1/b.txt", "wh1/r1/c.txt"]


def test_keys_come_from_one_place(authority: Authority) -> None:
    with pytest.raises(ValidationError, match="one of them"):
        S3Section(bucket="bins", profile="x", iot=section(authority, 1))
