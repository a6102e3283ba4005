"""docs/asyncapi.yaml against the types, against AsyncAPI's structure, and against what a real agent really sent.

Renew the file with: python -m tests.edge_agent.test_asyncapi
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from bundle.version import VERSION
from edge_agent.assemble import assemble
from edge_agent.asyncapi import document
from edge_agent.commands.schema import COMMANDS
from edge_agent.messages import Topics
from tests.edge_agent.running import config_text, load_text, write_photos
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import MOSQUITTO, Mosquitto, Subscriber

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = Path(__file__).resolve().parents[2] / "docs" / "asyncapi.yaml"
_HEAD = (
    "# Made from the agent's types (edge_agent/asyncapi.py); tests/edge_agent/test_asyncapi.py says how to renew it.\n"
)
# AsyncAPI 3.0.0: what each object may hold (https://www.asyncapi.com/docs/reference/specification/v3.0.0).
_ALLOWED = {
    "": {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"},
    "channel": {"address", "messages", "title", "summary", "description", "servers", "parameters", "tags", "bindings"},
    "operation": {"action", "channel", "title", "summary", "description", "bindings", "messages", "reply", "tags"},
    "message": {"headers", "payload", "correlationId", "contentType", "name", "title", "summary", "description"},
    "parameter": {"enum", "default", "description", "examples", "location"},
}


def text() -> str:
    return _HEAD + yaml.safe_dump(document(VERSION), sort_keys=False, allow_unicode=True, width=120)


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def test_file_is_what_the_types_say() -> None:
    assert FILE.read_text(encoding="utf-8") == text()


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for child in value.values():
            yield from references(child)
    elif isinstance(value, list):
        for child in value:
            yield from references(child)


def test_file_has_the_structure_of_asyncapi_3(api: dict[str, Any]) -> None:
    assert api["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(api["info"])
    assert set(api) <= _ALLOWED[""]
    for channel in api["channels"].values():
        assert set(channel) <= _ALLOWED["channel"]
        named = {part[1:-1] for part in channel["address"].split("/") if part.startswith("{")}
        assert named == set(channel["parameters"])
        assert all(set(parameter) <= _ALLOWED["parameter"] for parameter in channel["parameters"].values())
    for operation in api["operations"].values():
        assert set(operation) <= _ALLOWED["operation"]
        assert operation["action"] in ("send", "receive")
    for message in api["components"]["messages"].values():
        assert set(message) <= _ALLOWED["message"]
    for reference in references(api):
        node: Any = api
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    for schema in api["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_file_agrees_with_the_official_schema(api: dict[str, Any]) -> None:
    file = os.environ.get("BINTALLY_ASYNCAPI_SCHEMA")
    if file is None:
        pytest.skip("BINTALLY_ASYNCAPI_SCHEMA does not name 3.0.0-without-$id.json of the npm package @asyncapi/specs")
    schema = json.loads(Path(file).read_text(encoding="utf-8"))
    assert [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(api)] == []


def test_file_names_every_topic_and_every_command(api: dict[str, Any]) -> None:
    topics = Topics("{site}", "{robot}")
    spoken = {topics.status, topics.count, topics.telemetry, topics.event, f"{topics.base}/bin/{{bin_id}}"}
    commands = {f"{topics.base}/cmd/{name}" for name in COMMANDS}
    others = {f"{topics.base}/cmd/{{command}}/result", "{prefix}/device/{site}/{robot}/config"}
    assert {channel["address"] for channel in api["channels"].values()} == spoken | commands | others


def validator(api: dict[str, Any], message: str) -> jsonschema.Draft202012Validator:
    schema = {"$ref": api["components"]["messages"][message]["payload"]["$ref"], "components": api["components"]}
    return jsonschema.Draft202012Validator(schema)


def channel_of(api: dict[str, Any], topic: str) -> tuple[str, str]:
    """Name and message of the channel whose address a topic has."""
    parts = topic.split("/")
    found = [
        (name, next(iter(channel["messages"])))
        for name, channel in api["channels"].items()
        if len(parts) == len(address := channel["address"].split("/"))
        and all(want.startswith("{") or want == part for want, part in zip(address, parts, strict=True))
    ]
    assert len(found) == 1, topic
    return found[0]


@pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary")
def test_messages_of_a_real_run_are_what_the_file_says(api: dict[str, Any], tmp_path: Path, tiny_bundle: Path) -> None:
    photos = write_photos(tmp_path / "photos", [1, 2.5, 3, 4])
    (photos / "0009.jpg").write_bytes(b"no photo")
    with Mosquitto(tmp_path) as broker, Subscriber(broker.port, "#") as subscriber:
        rest = f'[telemetry]\ninterval_s = 0.2\n[uploads]\nfolder = "{tmp_path / "up"}"\n'
        text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", port=broker.port, rest=rest)
        text = text.replace("[mqtt]", '[mqtt]\nhome_assistant = "homeassistant"').replace(
            "[[cameras]]", "[[cameras]]\npause_s = 0.2"
        )
        assemble(load_text(tmp_path, text)).run()
        wait_until(lambda: subscriber.of("/config") and subscriber.of("/telemetry") and subscriber.of("/bin/0003"))
        wait_until(lambda: json.loads(subscriber.of("/status")[-1].payload)["totals"])
        sent = list(subscriber.messages)
    seen = set()
    for message in sent:
        name, kind = channel_of(api, message.topic)
        fields = json.loads(message.payload)
        validator(api, kind).validate(fields)
        if name != "home_assistant":
            assert set(fields) == set(api["components"]["schemas"][kind]["properties"])
        seen.add(name)
    assert seen == {"status", "count", "bin", "telemetry", "event", "home_assistant"}


def test_file_refuses_what_no_message_may_be(api: dict[str, Any]) -> None:
    count = validator(api, "CountMessage")
    assert not count.is_valid({"event_id": "x"})
    ping = validator(api, "CmdPing")
    good = {
        "command_id": "01a1fba9",
        "issued_at": "2026-11-21T01:12:39Z",
        "expires_at": "2026-11-21T01:22:39Z",
        "actor": "anna",
    }
    assert ping.is_valid(good)
    assert not ping.is_valid(good | {"unknown": 1})
    assert not ping.is_valid({key: value for key, value in good.items() if key != "actor"})


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{FILE}\n")
