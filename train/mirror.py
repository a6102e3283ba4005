"""A copy of a run in an S3 bucket: a machine that is taken away loses nothing but the time since its checkpoint.

Each object is replaced whole or not at all, and the checkpoint comes last: a run that died between two objects left a
stream that is longer than its checkpoint remembers, which the resumed run cuts. Endpoint, region and credentials come
from where boto3 looks for them (AWS_ENDPOINT_URL, AWS_REGION, a role ...).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bundle import durable
from bundle.errors import ConfigError, DeliveryError, InputError
from train.run import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    METRICS_NAME,
    MODEL_NAME,
    PREDICTIONS_NAME,
    REPORT_NAME,
    STREAM_NAME,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RESUMED_FROM = (CONFIG_NAME, STREAM_NAME, CHECKPOINT_NAME)
"""What a fresh machine needs to go on, in the order in which it is written."""
RESULT = (MODEL_NAME, PREDICTIONS_NAME, METRICS_NAME, REPORT_NAME)
_ATTEMPTS = 5
_TIMEOUT_S = 60.0


class Mirror:
    """A run folder's twin in a bucket.

    Args:
        url: Such as s3://bucket/runs/first.
        folder: The run folder.

    Raises:
        ConfigError: Not such an address, or boto3 finds no region or endpoint.
    """

    def __init__(self, url: str, folder: Path) -> None:
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            raise ConfigError("the mirror is not an S3 address", got=url, expected="s3://BUCKET/PREFIX")
        self._bucket, self._prefix, self._folder = parts.netloc, parts.path.strip("/"), folder
        self._client = _client()

    def push(self, names: Sequence[str]) -> None:
        """Write files of the run folder, in this order.

        Args:
            names: Which; the ones that are not there are left out.

        Raises:
            DeliveryError: The bucket refused, five times each.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        for name in names:
            path = self._folder / name
            if not path.is_file():
                continue
            try:
                with path.open("rb") as file:
                    self._client.put_object(Bucket=self._bucket, Key=self._key(name), Body=file)
            except (BotoCoreError, ClientError, OSError) as exc:
                raise DeliveryError(f"cannot write {self._url(name)}", got=str(exc)[:200]) from exc

    def holds_run(self) -> bool:
        """Say whether a run is there.

        Returns:
            Whether the bucket holds its configuration.

        Raises:
            DeliveryError: The bucket cannot be read.
        """
        return self._get(CONFIG_NAME) is not None

    def clear(self) -> None:
        """Delete the run, its checkpoint first: what is left of it is then never resumed from.

        Raises:
            DeliveryError: The bucket refused.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        for name in (*reversed(RESUMED_FROM), *RESULT):
            try:
                self._client.delete_object(Bucket=self._bucket, Key=self._key(name))
            except (BotoCoreError, ClientError, OSError) as exc:
                raise DeliveryError(f"cannot delete {self._url(name)}", got=str(exc)[:200]) from exc

    def fetch(self) -> bool:
        """Bring what a run needs to go on into an empty run folder.

        Returns:
            Whether the bucket held a run.

        Raises:
            DeliveryError: The bucket cannot be read.
            InputError: The disk refused.
        """
        found = {name: self._get(name) for name in RESUMED_FROM}
        if found[CONFIG_NAME] is None:
            return False
        # The configuration last: a folder without one is no run, and is fetched again.
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for name in reversed(RESUMED_FROM):
                data = found[name]
                if data is not None:
                    durable.write_bytes(self._folder / name, data)
        except OSError as exc:
            raise InputError(f"cannot write the run folder {self._folder}", got=exc.strerror) from exc
        return True

    def _get(self, name: str) -> bytes | None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            body: bytes = self._client.get_object(Bucket=self._bucket, Key=self._key(name))["Body"].read()
        except ClientError as exc:
            if exc.response.get("Error", {}).get("Code") == "NoSuchKey":
                return None
            raise DeliveryError(f"cannot read {self._url(name)}", got=str(exc)[:200]) from exc
        except (BotoCoreError, OSError) as exc:
            raise DeliveryError(f"cannot read {self._url(name)}", got=str(exc)[:200]) from exc
        return body

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _url(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._key(name)}"


def _client() -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
        connect_timeout=_TIMEOUT_S,
        read_timeout=_TIMEOUT_S,
        s3={"addressing_style": "auto"},
    )
    try:
        return boto3.client("s3", config=config)
    except (BotoCoreError, ValueError) as exc:
        raise ConfigError("boto3 cannot reach S3", got=str(exc), fix="Set AWS_REGION, or AWS_ENDPOINT_URL.") from exc
