"""The shipped policies, as an implementation of IAM judges them (moto with authorisation switched on)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count

if TYPE_CHECKING:
    from pathlib import Path

_NAMES = {"BUCKET": "bin-reviews", "PREFIX": "bintally", "SITE": "wh1", "ROBOT": "r1"}
_FREE_ACTIONS = 6  # what the account's owner does below, before the robot comes


def policy(repository: Path, name: str) -> str:
    text = (repository / "deploy" / "s3" / name).read_text(encoding="utf-8")
    for word, value in _NAMES.items():
        text = re.sub(rf"\b{word}\b", value, text)
    return text


@mock_aws
@set_initial_no_auth_action_count(_FREE_ACTIONS)
def test_robot_policy_allows_its_own_images_and_published_bundles_alone(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "owner")
    owner, people = boto3.client("s3", region_name="us-east-1"), boto3.client("iam", region_name="us-east-1")
    owner.create_bucket(Bucket="bin-reviews")
    owner.put_bucket_lifecycle_configuration(
        Bucket="bin-reviews", LifecycleConfiguration=json.loads(policy(repository, "lifecycle.json"))
    )
    owner.put_object(Bucket="bin-reviews", Key="bundles/b/manifest.json", Body=b"{}")
    people.create_user(UserName="r1")
    people.put_user_policy(UserName="r1", PolicyName="p", PolicyDocument=policy(repository, "robot-policy.json"))
    key = people.create_access_key(UserName="r1")["AccessKey"]
    robot: Any = boto3.client(
        "s3",
        region_name="us-east-1",
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
    )
    robot.put_object(Bucket="bin-reviews", Key="bintally/wh1/r1/a.jpg", Body=b"a", IfNoneMatch="*")
    assert robot.get_object(Bucket="bin-reviews", Key="bundles/b/manifest.json")["Body"].read() == b"{}"
    refused = {
        "another robot's prefix": lambda: robot.put_object(
            Bucket="bin-reviews", Key="bintally/wh1/r2/a.jpg", Body=b"a"
        ),
        "bundles": lambda: robot.put_object(Bucket="bin-reviews", Key="bundles/b/manifest.json", Body=b"a"),
        "read back": lambda: robot.get_object(Bucket="bin-reviews", Key="bintally/wh1/r1/a.jpg"),
        "list": lambda: robot.list_objects_v2(Bucket="bin-reviews"),
        "delete": lambda: robot.delete_object(Bucket="bin-reviews", Key="bintally/wh1/r1/a.jpg"),
        "buckets": robot.list_buckets,
    }
    for what, act in refused.items():
        with pytest.raises(ClientError, match="AccessDenied"):
            pytest.fail(f"{what} was allowed: {act()}")


@pytest.mark.parametrize("name", ["robot-policy.json", "iot-role-policy.json"])
def test_policy_names_no_star_action_and_only_its_bucket(repository: Path, name: str) -> None:
    statements = json.loads(policy(repository, name))["Statement"]
    assert {statement["Action"] for statement in statements} == {"s3:PutObject", "s3:GetObject"}
    assert all(statement["Resource"].startswith("arn:aws:s3:::bin-reviews/") for statement in statements)
