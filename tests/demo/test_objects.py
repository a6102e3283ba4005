"""The embedded object store, through boto3 as the agent uses it."""

from __future__ import annotations

import boto3
import pytest
from botocore.config import Config

from bundle.errors import DeliveryError
from demo.objects import ACCESS_KEY, REGION, SECRET_KEY, EmbeddedStore, StoredObject


def test_store_keeps_objects_until_the_end_and_lists_them_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # a proxy of the surroundings must not matter
    with EmbeddedStore("review") as store:
        assert store.endpoint_url.startswith("http://127.0.0.1:")
        client = boto3.client(
            "s3",
            endpoint_url=store.endpoint_url,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}, proxies={}),
        )
        client.put_object(Bucket="review", Key="b/2.jpg", Body=b"12345")
        client.put_object(Bucket="review", Key="a/1.jpg", Body=b"1")
        assert store.objects() == [StoredObject("a/1.jpg", 1), StoredObject("b/2.jpg", 5)]
        client.close()
    with pytest.raises(DeliveryError, match="does not answer"):
        store.objects()


def test_store_lists_more_objects_than_one_page_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "4")
    with EmbeddedStore("many") as store:
        client = store._client()
        for number in range(10):
            client.put_object(Bucket="many", Key=f"{number:05d}", Body=b"")
        assert len(store.objects()) == 10
