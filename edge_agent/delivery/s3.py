"""The one file that speaks boto3: put an object, and say what a failure means.

Invariants:
- An upload is confirmed by the store's answer to a PUT that carried the object's SHA-256; a store that computes another
  one refuses it. An answer without an ETag is none: the web page of a network that wants a login says 200 to all.
- Keys are named by content, so a second PUT of the same key is the same object: `If-None-Match: *` makes it cheap, and
  412 means done. A store that does not know the header is asked without it from then on.
- A client is kept as long as its keys: it is megabytes of circles, which the agent's collector finds late. After a
  failure of the network its connections are closed; it is built anew when the keys in it are new, missing or refused.
- An answer, however slowly it drips, takes at most `read_timeout_s` after the last piece of the object was sent.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import io
import logging
from contextlib import closing
from typing import TYPE_CHECKING, Any

from bundle.errors import DeliveryError
from edge_agent.delivery.allowance import Allowance
from edge_agent.delivery.uploads import UploadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

    from edge_agent.config import S3Section
    from edge_agent.delivery.iot import IotCredentials, Keys

_LOG = logging.getLogger(__name__)

_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_OBJECT = frozenset({"EntityTooLarge", "KeyTooLongError", "MetadataTooLarge"})
_FIXES = {
    "NoSuchBucket": "Create the bucket, or correct s3.bucket.",
    "AccessDenied": "Allow s3:PutObject on the prefix for this robot's credentials.",
    "InvalidRequest": "Check the bucket's settings: Object Lock, encryption, checksums.",
    "PermanentRedirect": "Correct s3.region.",
    "AuthorizationHeaderMalformed": "Correct s3.region.",
    "RequestTimeTooSkewed": "Set the robot's clock (NTP).",
}
_ALREADY_THERE = 412
_HEADER_UNKNOWN = frozenset({"NotImplemented", "501", "InvalidArgument", "InvalidRequest"})
_MAX_ANSWER_BYTES = 1 << 20
_MAX_CHUNK_S = 60.0
"""For one piece of an object that is read: less than a thread may be silent."""


class _Told(io.BytesIO):
    """A body that tells when a piece of it is read."""

    def __init__(self, data: bytes, on_read: Callable[[], object]) -> None:
        super().__init__(data)
        self._on_read = on_read

    def read(self, size: int | None = -1, /) -> bytes:
        self._on_read()
        return super().read(size)


class S3Target:
    """A bucket. Belongs to one thread.

    Args:
        settings: Which bucket, and how to reach it.
        credentials: Where keys come from, None for what `settings` says.

    Attributes:
        on_progress: Called for every piece of an object that is sent, because a slow network is no hung one.
    """

    def __init__(self, settings: S3Section, credentials: IotCredentials | None = None) -> None:
        self.name = f"s3://{settings.bucket}"
        self._settings = settings
        self._credentials = credentials
        self._keys: Keys | None = None
        self._client: S3Client | None = None
        self._allowance = Allowance(settings.read_timeout_s, _MAX_ANSWER_BYTES)
        self._conditional = True
        self.on_progress: Callable[[], object] = lambda: None

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Store an object under a key that is named by its content.

        Args:
            key: The key.
            data: The object.
            content_type: Its type.

        Raises:
            UploadError: It is not stored; the error says whether to retry.
        """
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from botocore.exceptions import ConnectionError as NoConnectionError

        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        try:
            self._put(key, data, content_type, digest)
        except ClientError as exc:
            self._judge(exc.response, key, data, content_type)
        except BotoCoreError as exc:
            self._hang_up()
            if not isinstance(exc, (NoConnectionError, HTTPClientError)):
                self._client = None  # It may have no keys, or keys that cannot be renewed: they are read again.
            got = self._allowance.problem or exc
            raise UploadError(f"{self.name} cannot be reached", got=got, fix="Check [s3] and the network.") from exc

    def _put(self, key: str, data: bytes, content_type: str, digest: str) -> None:
        extra: dict[str, Any] = {"IfNoneMatch": "*"} if self._conditional else {}
        client = self._open()
        self._allowance.begin()
        self.on_progress()
        answer = client.put_object(
            Bucket=self._settings.bucket,
            Key=key,
            Body=_Told(data, self._got_on),
            ContentType=content_type,
            ChecksumSHA256=digest,
            **extra,
        )
        if not answer.get("ETag") or answer.get("ChecksumSHA256", digest) != digest:
            self._hang_up()  # on whatever answers there
            raise UploadError(
                f"{self.name} does not confirm {key}",
                got="no ETag" if not answer.get("ETag") else "another checksum",
                fix="Something else answers in its place: check s3.endpoint_url and the network.",
            )

    def _got_on(self) -> None:
        self._allowance.restart()
        self.on_progress()

    def _judge(self, response: Any, key: str, data: bytes, content_type: str) -> None:  # noqa: ANN401 - boto3's answer is a dict of anything
        code = str(response.get("Error", {}).get("Code", "unknown"))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if self._conditional and (status == _ALREADY_THERE or code == "PreconditionFailed"):
            return
        if code in _HEADER_UNKNOWN and self._conditional:
            _LOG.info("%s answers %s; going on without If-None-Match", self.name, code)
            self._conditional = False
            self.put(key, data, content_type)
            return
        if code in _CREDENTIALS:
            self._hang_up()
            self._client = None
            if self._credentials is not None:
                self._credentials.refused()
        raise UploadError(
            f"{self.name} refuses {key}",
            got=f"{code} ({status})",
            fix=_FIXES.get(code),
            object_refused=code in _OBJECT,
        )

    def _open(self) -> S3Client:
        keys = None if self._credentials is None else self._credentials.current()
        if self._client is None or keys is not self._keys:
            self._hang_up()
            self._client = None
            gc.collect()  # the one before
            self._client, self._keys = _make_client(self._settings, keys, self._allowance), keys
        return self._client

    def _hang_up(self) -> None:
        """Close the client's connections; it makes new ones when it is used again."""
        if self._client is not None:
            self._client.close()


def read_object(settings: S3Section, credentials: IotCredentials | None, key: str, chunk_bytes: int) -> Iterator[bytes]:
    """Read an object in pieces.

    Args:
        settings: Which bucket, and how to reach it.
        credentials: Where keys come from, None for what `settings` says.
        key: Of the object.
        chunk_bytes: Size of a piece, at most.

    Yields:
        Its bytes.

    Raises:
        DeliveryError: It cannot be read.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    keys = None if credentials is None else credentials.current()
    allowance = Allowance(min(settings.read_timeout_s, _MAX_CHUNK_S), None)
    try:
        with closing(_make_client(settings, keys, allowance)) as client:
            body = client.get_object(Bucket=settings.bucket, Key=key)["Body"]
            with closing(body):
                for chunk in body.iter_chunks(chunk_bytes):
                    yield chunk
                    allowance.restart()
    except ClientError as exc:
        code = str(exc.response.get("Error", {}).get("Code", "unknown"))
        raise DeliveryError(f"s3://{settings.bucket}/{key} cannot be read", got=code, fix=_FIXES.get(code)) from exc
    except BotoCoreError as exc:
        got = allowance.problem or exc
        raise DeliveryError(f"s3://{settings.bucket}/{key} cannot be read", got=got, fix="Check [s3].") from exc


def _make_client(settings: S3Section, keys: Keys | None, allowance: Allowance) -> S3Client:
    """Build a client; boto3 is imported here because it costs a third of a second and 30 MB."""
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    try:
        core = botocore.session.Session(profile=settings.profile)
        if settings.credentials_file is not None:
            core.set_config_variable("credentials_file", str(settings.credentials_file))
        client: S3Client = boto3.session.Session(botocore_session=core, region_name=settings.region).client(
            "s3",
            aws_access_key_id=None if keys is None else keys.access_key,
            aws_secret_access_key=None if keys is None else keys.secret_key,
            aws_session_token=None if keys is None else keys.token,
            endpoint_url=settings.endpoint_url,
            config=Config(
                connect_timeout=settings.connect_timeout_s,
                read_timeout=settings.read_timeout_s,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path" if settings.endpoint_url else "auto"},
            ),
        )
    except BotoCoreError as exc:
        raise UploadError(
            f"s3://{settings.bucket} has no usable client", got=exc, fix="Check s3.profile and s3.credentials_file."
        ) from exc
    _bound(client, allowance)
    return client


def _bound(client: Any, allowance: Allowance) -> None:  # noqa: ANN401 - botocore shows no way in: none of this is typed
    """Let a client's connections read within an allowance: botocore's own timeout begins anew with every byte."""
    from botocore import awsrequest

    class Plain(awsrequest.AWSHTTPConnection):
        def connect(self) -> None:
            super().connect()
            self.sock = allowance.guard(self.sock)

    class Secure(awsrequest.AWSHTTPSConnection):
        def connect(self) -> None:
            super().connect()
            self.sock = allowance.guard(self.sock)

    class PlainPool(awsrequest.AWSHTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(awsrequest.AWSHTTPSConnectionPool):
        ConnectionCls = Secure

    client._endpoint.http_session._pool_classes_by_scheme.update(http=PlainPool, https=SecurePool)  # noqa: SLF001
