from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import bintally
from bundle.errors import BintallyError, ConfigError, DeliveryError
from edge_agent import send as sending
from edge_agent.commands.parse import parse
from edge_agent.send import make_sending
from tests.simulators.broker import Script, ScriptedBroker

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(*words: str) -> BaseException | None:
    return CliRunner().invoke(bintally.cli, ["send", "wh1/r1", *words]).exception


def test_repeat_has_expired_by_every_clock_and_a_new_command_has_not() -> None:
    def lifetime(command_id: str | None) -> tuple[float, float]:
        made = make_sending("s", "r", "ping", {}, actor="a", why="", expires_in_s=600, command_id=command_id)
        command = parse("ping", made.payload, retained=False)
        assert json.loads(made.payload)["command_id"] == made.command_id
        return command.issued_at.timestamp(), command.expires_s

    assert lifetime("sent-before") == (0.0, 1.0)
    issued_s, expires_s = lifetime(None)
    assert expires_s - issued_s == pytest.approx(600)
    assert issued_s > 1e9


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["ping", "--expires", "nan"], "--expires"),
        (["ping", "--expires", "-1"], "--expires"),
        (["ping", "--expires", "86401"], "--expires"),
        (["ping", "--wait", "nan"], "--wait"),
        (["ping", "--wait=-1"], "--wait"),
        (["ping", "command_id=12345678"], "--command-id"),
        (["ping", "expires_at=2030-01-01T00:00:00Z"], "--expires"),
        (["capture", "bin_id=1", "actor=eve"], "--actor"),
        (["capture", "bin_id=1", "bin_id=2"], "twice"),
    ],
)
def test_send_with_what_it_cannot_mean_is_refused_before_anything_is_sent(words: Sequence[str], wrong: str) -> None:
    with ScriptedBroker(Script()) as broker:
        error = run(*words, "--port", str(broker.port))
        assert isinstance(error, ConfigError)
        assert wrong in str(error)
        assert broker.published == []


def test_send_without_waiting_fails_when_the_broker_does_not_confirm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_ACK_S", 0.5)
    with ScriptedBroker(Script(reason=lambda _: None)) as broker:
        error = run("ping", "--wait", "0", "--port", str(broker.port))
    assert isinstance(error, DeliveryError)
    assert "does not confirm" in str(error)
    with ScriptedBroker(Script()) as broker:
        assert not isinstance(run("ping", "--wait", "0", "--port", str(broker.port)), BintallyError)
