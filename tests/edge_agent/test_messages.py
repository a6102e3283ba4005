from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from edge_agent.commands.schema import Capture
from edge_agent.messages import (
    CountMessage,
    EventMessage,
    ResultMessage,
    SidecarMessage,
    StatusMessage,
    TelemetryMessage,
    Topics,
    as_historical,
    new_event_id,
    utc,
)


def _count(**changes: object) -> CountMessage:
    fields: dict[str, object] = {
        "event_id": "e",
        "robot": "r1",
        "camera": "c",
        "bin_id": "A-1",
        "count": 3,
        "at_least": False,
        "label": "3",
        "confidence": 0.9,
        "confident": True,
        "posterior": (0.1, 0.9),
        "interval": None,
        "verdict": None,
        "record": None,
        "frames": 1,
        "flags": (),
        "bundle": "b",
        "captured_at": utc(1_700_000_000.25),
        "latency_ms": 4.5,
        "is_historical": False,
        "image_key": None,
    }
    return CountMessage.model_validate({**fields, **changes})


def test_count_message_is_json_with_rfc3339_utc() -> None:
    fields = json.loads(_count().to_bytes())
    assert fields["captured_at"] == "2023-11-14T22:13:20.250000Z"
    assert fields["posterior"] == [0.1, 0.9]


@pytest.mark.parametrize(("field", "value"), [("confidence", float("nan")), ("latency_ms", float("inf")), ("x", 1)])
def test_count_message_refuses_what_json_cannot_say(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        _count(**{field: value})


def test_as_historical_changes_that_one_field() -> None:
    before = json.loads(_count().to_bytes())
    after = json.loads(as_historical(_count().to_bytes()))
    assert after == {**before, "is_historical": True}


def test_new_event_id_is_a_sorted_unique_uuid7() -> None:
    ids = [new_event_id(1_700_000_000 + second) for second in range(100)]
    assert ids == sorted(ids)
    assert len({*ids, *(new_event_id(1_700_000_000) for _ in range(1000))}) == 1100
    assert {uuid.UUID(text).version for text in ids} == {7}
    assert {uuid.UUID(text).variant for text in ids} == {uuid.RFC_4122}


@pytest.mark.parametrize(
    ("bin_id", "level"), [("A-01", "A-01"), ("a/b", "a%2Fb"), ("+#", "%2B%23"), ("ä", "%C3%A4"), ("01044", "01044")]
)
def test_topics_bin_id_cannot_leave_its_level(bin_id: str, level: str) -> None:
    assert Topics("wh1", "r1").bin(bin_id) == f"bintally/v1/wh1/r1/bin/{level}"


def test_document_examples_have_exactly_the_fields_of_the_messages() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "mqtt.md").read_text(encoding="utf-8")
    examples = [json.loads(block) for block in re.findall(r"```json\n(\{.*?\})\n```", text, re.DOTALL)]
    command = examples.pop(3)
    assert set(command) <= set(Capture.model_fields)
    Capture.model_validate_json(json.dumps(command))
    kinds: tuple[type[BaseModel], ...] = (CountMessage, StatusMessage, EventMessage, ResultMessage, SidecarMessage)
    assert [set(example) for example in examples] == [set(kind.model_fields) for kind in kinds]
    for example, kind in list(zip(examples, kinds, strict=True))[:4]:
        kind.model_validate_json(json.dumps(example))
    for field in (*CountMessage.model_fields, *TelemetryMessage.model_fields, *StatusMessage.model_fields):
        assert f"`{field}`" in text or f'"{field}"' in text, field


def test_event_message_has_severity_from_a_list() -> None:
    with pytest.raises(ValidationError):
        EventMessage.model_validate(
            {
                "event_id": "e",
                "robot": "r",
                "event": "x",
                "severity": "bad",
                "subject": "s",
                "problem": "p",
                "at": utc(0),
            }
        )
