"""Home Assistant finds the robot by itself: one retained message that describes a device and its sensors.

Off unless `mqtt.home_assistant` names Home Assistant's discovery prefix. The form is that of MQTT device discovery
(Home Assistant 2024.11 and later): PREFIX/device/NODE/OBJECT/config, with NODE and OBJECT the robot's site and id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from edge_agent.messages import Topics

_STATE = "{{ 'offline' if value_json.state == 'offline' else 'online' }}"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Device(_Part):
    """The robot."""

    identifiers: tuple[str, ...]
    name: str
    manufacturer: Literal["bintally"] = "bintally"
    model: Literal["bin counter"] = "bin counter"
    sw_version: str
    suggested_area: str


class Origin(_Part):
    """What wrote the message."""

    name: Literal["bintally"] = "bintally"
    sw_version: str


class Availability(_Part):
    """Where it stands whether the robot is there."""

    topic: str
    value_template: str = _STATE


class Component(_Part):
    """One sensor. What is None is left out."""

    platform: Literal["sensor", "binary_sensor"] = "sensor"
    unique_id: str
    name: str
    state_topic: str
    value_template: str
    json_attributes_topic: str | None = None
    device_class: Literal["data_size", "duration", "enum", "problem", "temperature"] | None = None
    state_class: Literal["measurement", "total_increasing"] | None = None
    unit_of_measurement: str | None = None
    entity_category: Literal["diagnostic"] | None = None
    payload_on: str | None = None
    payload_off: str | None = None


class Discovery(_Part):
    """The whole message."""

    device: Device
    origin: Origin
    availability: tuple[Availability, ...]
    components: dict[str, Component]
    qos: Literal[1] = 1


def discovery_topic(prefix: str, site: str, robot: str) -> str:
    """Name the topic of the message.

    Args:
        prefix: Home Assistant's discovery prefix.
        site: Name of the site.
        robot: Name of the robot.

    Returns:
        The topic.
    """
    return f"{prefix}/device/{site}/{robot}/config"


def make_discovery(topics: Topics, *, site: str, robot: str, version: str) -> bytes:
    """Describe the robot.

    Args:
        topics: Where its messages are.
        site: Name of the site.
        robot: Name of the robot.
        version: Of bintally.

    Returns:
        The message as JSON.
    """
    identity = f"bintally_{site}_{robot}"
    message = Discovery(
        device=Device(identifiers=(identity,), name=f"bintally {robot}", sw_version=version, suggested_area=site),
        origin=Origin(sw_version=version),
        availability=(Availability(topic=topics.status),),
        components={key: part.model_copy(update={"unique_id": f"{identity}_{key}"}) for key, part in _parts(topics)},
    )
    return message.model_dump_json(exclude_none=True).encode()


def _parts(topics: Topics) -> list[tuple[str, Component]]:
    def value(name: str, path: str, **others: str) -> Component:
        fields = {"state_topic": topics.telemetry, "state_class": "measurement", "entity_category": "diagnostic"}
        template = f"{{{{ value_json.{path} }}}}"
        return Component.model_validate({"unique_id": "", "name": name, "value_template": template, **fields, **others})

    status = Component(
        unique_id="",
        name="State",
        state_topic=topics.status,
        value_template="{{ value_json.state }}",
        json_attributes_topic=topics.status,
    )
    count = Component(
        unique_id="",
        name="Last count",
        state_topic=topics.count,
        value_template="{{ value_json.label if value_json.confident else value_json.label ~ '?' }}",
        json_attributes_topic=topics.count,
    )
    throttled = Component(
        platform="binary_sensor",
        unique_id="",
        name="Slowed down",
        state_topic=topics.telemetry,
        value_template="{{ value_json.throttled }}",
        device_class="problem",
        entity_category="diagnostic",
        payload_on="True",
        payload_off="False",
    )
    return [
        ("state", status),
        ("last_count", count),
        ("accepted", value("Counts", "totals.accepted", state_class="total_increasing")),
        ("unsure", value("Unsure counts", "totals.unsure", state_class="total_increasing")),
        ("queue", value("Messages waiting", "queue.messages")),
        ("fps", value("Frames per second", "fps")),
        ("temperature", value("Temperature", "temperature_c", device_class="temperature", unit_of_measurement="°C")),
        ("disk_free", value("Disk free", "disk_free_bytes", device_class="data_size", unit_of_measurement="B")),
        ("throttled", throttled),
    ]
