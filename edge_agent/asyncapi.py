"""docs/asyncapi.yaml, made from the types that the agent really sends and obeys; a test holds the file to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from edge_agent import messages
from edge_agent.commands.schema import COMMANDS
from edge_agent.delivery.home_assistant import Discovery

if TYPE_CHECKING:
    from pydantic import BaseModel

_SPOKEN: dict[str, tuple[str, type[BaseModel], int, bool, str]] = {
    # channel: (address below the robot, type, QoS, retained, what)
    "status": ("status", messages.StatusMessage, 1, True, "What the robot is doing; also its Last Will."),
    "count": ("count", messages.CountMessage, 1, False, "One visit to one bin."),
    "bin": ("bin/{bin_id}", messages.CountMessage, 1, True, "The newest count of a bin."),
    "telemetry": ("telemetry", messages.TelemetryMessage, 0, False, "Numbers, every few seconds."),
    "event": ("event", messages.EventMessage, 1, False, "Something that a person or a program should know."),
    "result": ("cmd/{command}/result", messages.ResultMessage, 1, False, "What became of a command."),
}
_BASE = "bintally/v1/{site}/{robot}"
_MQTT = "0.2.0"
_PARAMETERS = {
    "site": "Name of the site: letters, digits, _ . -",
    "robot": "Name of the robot: letters, digits, _ . -",
    "bin_id": "Id of the bin, percent-encoded.",
    "command": "Name of the command.",
}


def document(version: str) -> dict[str, Any]:
    """Describe every topic.

    Args:
        version: Of bintally.

    Returns:
        An AsyncAPI 3.0.0 document.
    """
    channels, operations, named = {}, {}, {}
    for name, (address, model, qos, retain, what) in _SPOKEN.items():
        channels[name] = _channel(f"{_BASE}/{address}", model.__name__, what)
        operations[f"send_{name}"] = _operation("send", name, qos=qos, retain=retain)
        named[model.__name__] = model
    for name, command in COMMANDS.items():
        key = f"cmd_{name}"
        channels[key] = _channel(f"{_BASE}/cmd/{name}", f"Cmd{command.__name__}", _first_line(command))
        operations[f"receive_{key}"] = _operation("receive", key, qos=1, retain=False) | {
            "reply": {"channel": {"$ref": "#/channels/result"}}
        }
        named[f"Cmd{command.__name__}"] = command
    channels["home_assistant"] = _channel(
        "{prefix}/device/{site}/{robot}/config", "Discovery", "For Home Assistant, if mqtt.home_assistant is set."
    )
    operations["send_home_assistant"] = _operation("send", "home_assistant", qos=1, retain=True)
    named["Discovery"] = Discovery
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "bintally agent",
            "version": version,
            "description": "See docs/mqtt.md. A reader ignores fields that it does not know.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"site": _server()},
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {name: _message(name, model) for name, model in named.items()},
            "schemas": _schemas(),
        },
    }


def _server() -> dict[str, Any]:
    will = {"topic": f"{_BASE}/status", "qos": 1, "retain": True, "message": "StatusMessage, state offline"}
    return {
        "host": "broker.example:8883",
        "protocol": "secure-mqtt",
        "protocolVersion": "5",
        "description": "The site's broker. MQTT 3.1.1 is spoken with a broker that knows no other.",
        "bindings": {"mqtt": {"lastWill": will, "keepAlive": 30, "bindingVersion": _MQTT}},
    }


def _channel(address: str, message: str, what: str) -> dict[str, Any]:
    named = {**_PARAMETERS, "prefix": "Home Assistant's discovery prefix."}
    return {
        "address": address,
        "description": what,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "parameters": {name: {"description": words} for name, words in named.items() if f"{{{name}}}" in address},
    }


def _operation(action: str, channel: str, *, qos: int, retain: bool) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "bindings": {"mqtt": {"qos": qos, "retain": retain, "bindingVersion": _MQTT}},
    }


def _message(name: str, model: type[BaseModel]) -> dict[str, Any]:
    return {
        "name": name,
        "summary": _first_line(model),
        "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
    }


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _schemas() -> dict[str, Any]:
    spoken = [(model, "serialization") for _, model, *_ in _SPOKEN.values()]
    obeyed = [(model, "validation") for model in COMMANDS.values()]
    _, found = models_json_schema(
        [*dict.fromkeys(spoken), (Discovery, "validation"), *obeyed],  # type: ignore[list-item]  # modes are plain words here
        ref_template="#/components/schemas/{model}",
    )
    schemas: dict[str, Any] = found["$defs"]
    strict = {model.__name__ for model in COMMANDS.values()}
    for name, schema in schemas.items():
        if name not in strict:
            schema.pop("additionalProperties", None)  # a reader ignores what it does not know
    return schemas
