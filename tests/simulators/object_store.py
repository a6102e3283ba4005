"""Object stores for tests: a real S3 endpoint over HTTP (moto), and a target that fails on command."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

from tests.simulators.broker import free_port, wait_for_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from typing_extensions import Self

    from edge_agent.delivery.uploads import UploadError

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


class MotoStore:
    """An S3 endpoint on the loopback that can be stopped and started again on the same port.

    Args:
        bucket: Made at the start.
    """

    def __init__(self, bucket: str = "bins") -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.bucket = bucket
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._make: Any = ThreadedMotoServer
        self._server: Any = None

    def __enter__(self) -> Self:
        self.start()
        client = self._client()
        client.create_bucket(Bucket=self.bucket)
        client.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()
        self.stop()

    def start(self) -> None:
        self._server = self._make(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        wait_for_port(self.port)

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _forget(self) -> None:
        """Empty the store while its modules are still there: it complains when it is swept at the very end."""
        with urlopen(Request(f"{self.url}/moto-api/reset", method="POST"), timeout=10):  # noqa: S310 - the loopback
            return

    def _client(self) -> S3Client:
        import boto3

        client: S3Client = boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        return client

    def keys(self) -> list[str]:
        """Every key of the bucket."""
        client = self._client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        found = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        client.close()
        return found

    def add(self, key: str, data: bytes) -> None:
        """Put an object there."""
        client = self._client()
        client.put_object(Bucket=self.bucket, Key=key, Body=data)
        client.close()

    def get(self, key: str) -> bytes:
        client = self._client()
        data = client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        client.close()
        return bytes(data)

    def sidecars(self) -> list[dict[str, object]]:
        """Every JSON object of the bucket."""
        return [json.loads(self.get(key)) for key in self.keys() if key.endswith(".json")]


@dataclass(slots=True)
class SimulatedTarget:
    """A store in memory: the interface of `edge_agent.delivery.uploads.Target`.

    Attributes:
        objects: What it holds.
        failures: Raised by the next puts, one each.
        puts: How often it was asked.
    """

    name: str = "simulated store"
    objects: dict[str, bytes] = field(default_factory=dict)
    failures: list[UploadError] = field(default_factory=list)
    puts: int = 0

    def put(self, key: str, data: bytes, content_type: str) -> None:
        del content_type
        self.puts += 1
        if self.failures:
            raise self.failures.pop(0)
        self.objects[key] = data
