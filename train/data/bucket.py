"""The one file that knows boto3: reading objects from any S3 endpoint, and what went wrong in two families.

Bytes are returned only when they are all there: as many as the endpoint announced, and with the MD5 of the ETag where
the ETag is one (it is not for objects uploaded in parts or encrypted with a key).
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bundle.errors import ConfigError, DeliveryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PUBLIC_BUCKET = "aft-vbi-pds"
"""Amazon Bin Image Dataset, Registry of Open Data on AWS; readable without credentials."""
PUBLIC_REGION = "us-east-1"
MAX_OBJECT_BYTES = 64 << 20
_CHUNK_BYTES = 64 << 10
_PLAIN_MD5 = re.compile("^[0-9a-f]{32}$")
_TOO_MANY_REQUESTS = 429
_REQUEST_TIMEOUT = 408
_SERVER_ERRORS = 500


class RefusedError(DeliveryError):
    """The endpoint says no, and will say so again: forbidden, not there, too large."""


class InterruptedTransferError(DeliveryError):
    """The transfer failed in a way that may pass: overload, broken connection, too slow, wrong bytes."""


@dataclass(frozen=True, slots=True)
class BucketOptions:
    """Where and how to read.

    Attributes:
        bucket: Name of the bucket.
        endpoint_url: Any S3 endpoint; None is AWS.
        region: AWS region.
        signed: Use credentials from the environment instead of reading as nobody.
        connections: Most requests at a time.
        connect_timeout_s: Seconds to wait for a connection.
        read_timeout_s: Seconds to wait for the next bytes.
        object_timeout_s: Seconds that one object may take in all: a server that drips must not hold a thread for ever.
    """

    bucket: str = PUBLIC_BUCKET
    endpoint_url: str | None = None
    region: str = PUBLIC_REGION
    signed: bool = False
    connections: int = 32
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 20.0
    object_timeout_s: float = 120.0


class Bucket:
    """A bucket, read-only. Safe to share between threads.

    Args:
        options: Where and how to read.
        clock: Seconds that only move forward, for the object timeout.

    Raises:
        ConfigError: The endpoint's address is not one.
    """

    def __init__(self, options: BucketOptions, *, clock: Callable[[], float] = time.monotonic) -> None:
        import boto3
        import botocore
        from botocore.config import Config

        self.options = options
        self._clock = clock
        config = Config(
            signature_version=None if options.signed else botocore.UNSIGNED,
            # Retries are ours (`download`): botocore's would hide what happened, and do not cover a body cut short.
            retries={"total_max_attempts": 1},
            max_pool_connections=options.connections,
            connect_timeout=options.connect_timeout_s,
            read_timeout=options.read_timeout_s,
            s3={"addressing_style": "path" if options.endpoint_url else "auto"},
        )
        try:
            self._client: Any = boto3.client(
                "s3", endpoint_url=options.endpoint_url, region_name=options.region, config=config
            )
        except ValueError as exc:
            raise ConfigError(
                "the endpoint is not an address", got=options.endpoint_url, expected="http(s)://HOST"
            ) from exc

    def get(self, key: str, *, stopped: Callable[[], bool] = lambda: False) -> bytes:
        """Read one object, whole.

        Args:
            key: Its key.
            stopped: Asked between pieces; when it says yes, the transfer is given up.

        Returns:
            Its bytes, complete and, where the ETag tells, verified.

        Raises:
            RefusedError: Trying again is useless.
            InterruptedTransferError: Trying again may help.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        try:
            response = self._client.get_object(Bucket=self.options.bucket, Key=key)
            with response["Body"] as body:
                data = self._read(key, body, int(response["ContentLength"]), stopped)
        except ClientError as exc:
            raise _translated(key, exc) from exc
        except (BotoCoreError, HTTPError, OSError) as exc:
            raise InterruptedTransferError(f"{key} was interrupted", got=f"{type(exc).__name__}: {exc}") from exc
        etag = str(response.get("ETag", "")).strip('"')
        found = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if _PLAIN_MD5.match(etag) and found != etag:
            raise InterruptedTransferError(f"{key} arrived damaged", got=f"MD5 {found}", expected=f"MD5 {etag}")
        return data

    def _read(self, key: str, body: Any, length: int, stopped: Callable[[], bool]) -> bytes:  # noqa: ANN401 - untyped
        if length > MAX_OBJECT_BYTES:
            raise RefusedError(f"{key} is too large", got=f"{length} bytes", expected=f"at most {MAX_OBJECT_BYTES}")
        deadline = self._clock() + self.options.object_timeout_s
        data = bytearray()
        while chunk := body.read(min(_CHUNK_BYTES, max(length - len(data), 1))):
            data += chunk
            if stopped():
                raise InterruptedTransferError(f"{key} was given up", got=f"{len(data)} of {length} bytes")
            if self._clock() > deadline:
                raise InterruptedTransferError(
                    f"{key} is too slow", got=f"{len(data)} of {length} bytes in {self.options.object_timeout_s:g} s"
                )
        if len(data) != length:
            raise InterruptedTransferError(f"{key} was cut short", got=f"{len(data)} bytes", expected=length)
        return bytes(data)

    def names(self, prefix: str) -> Iterator[str]:
        """List the names below a prefix, a thousand per request, in the endpoint's order (by bytes).

        Args:
            prefix: Such as `bin-images/`.

        Yields:
            Names without the prefix.

        Raises:
            RefusedError: The endpoint does not let us list.
            InterruptedTransferError: The listing broke off.
        """
        token: dict[str, str] = {}
        while True:
            page = self._page(prefix, token)
            for entry in page.get("Contents", []):
                yield str(entry["Key"]).removeprefix(prefix)
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, prefix: str, token: dict[str, str]) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            page: dict[str, Any] = self._client.list_objects_v2(Bucket=self.options.bucket, Prefix=prefix, **token)
        except ClientError as exc:
            raise _translated(prefix, exc) from exc
        except (BotoCoreError, OSError) as exc:
            raise InterruptedTransferError(f"listing {prefix} was interrupted", got=str(exc)) from exc
        return page


def _translated(key: str, exc: Any) -> DeliveryError:  # noqa: ANN401 - botocore's ClientError
    error = exc.response.get("Error", {})
    status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    got = f"{status} {error.get('Code', '')}: {error.get('Message', '')}".rstrip(": ")
    passes = status >= _SERVER_ERRORS or status in {0, _REQUEST_TIMEOUT, _TOO_MANY_REQUESTS}
    return (InterruptedTransferError if passes else RefusedError)(f"{key} was refused", got=got)
