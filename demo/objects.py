"""The embedded object store: moto's S3 in a thread of its own, on a free port of this machine alone.

Everything is in memory and gone at the end. It is for the tour and for tests. This is the only file that knows moto.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from bundle.errors import DeliveryError

if TYPE_CHECKING:
    from types import TracebackType

    from moto.server import ThreadedMotoServer
    from typing_extensions import Self

REGION = "us-east-1"
ACCESS_KEY = "demo"
SECRET_KEY = "demo"  # noqa: S105 - of a store that lives in this process and keeps nothing
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object in the bucket.

    Attributes:
        key: Its name.
        size: Bytes.
    """

    key: str
    size: int


class EmbeddedStore:
    """A store with one bucket, for the length of a `with` block.

    Args:
        bucket: Name of the bucket; made on entry.

    Attributes:
        bucket: Its name.
        endpoint_url: Where it listens; empty before the block.
    """

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.endpoint_url = ""
        self._server: ThreadedMotoServer | None = None

    def __enter__(self) -> Self:
        """Start it and make the bucket.

        Raises:
            DeliveryError: It did not come up.
        """
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address=_HOST, port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint_url = f"http://{host}:{port}"
        try:
            self._client().create_bucket(Bucket=self.bucket)
        except (BotoCoreError, ClientError) as exc:
            self._server.stop()
            raise DeliveryError("the embedded object store did not start", got=exc) from exc
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread; the objects are gone."""
        if self._server is not None:
            self._server.stop()

    def objects(self) -> list[StoredObject]:
        """List the bucket.

        Returns:
            Every object, sorted by key.

        Raises:
            DeliveryError: The store does not answer.
        """
        try:
            pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
            return [StoredObject(entry["Key"], entry["Size"]) for page in pages for entry in page.get("Contents", ())]
        except (BotoCoreError, ClientError) as exc:
            raise DeliveryError("the embedded object store does not answer", got=exc) from exc

    def _client(self) -> Any:  # noqa: ANN401 - boto3 makes its clients' types at run time
        session = boto3.session.Session(
            aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY, region_name=REGION
        )
        # Path-style, because bucket.127.0.0.1 is no host; and never through a proxy of the surroundings.
        config = Config(s3={"addressing_style": "path"}, proxies={}, retries={"max_attempts": 1})
        return session.client("s3", endpoint_url=self.endpoint_url, config=config)
