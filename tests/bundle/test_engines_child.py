from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from bundle.engines.child import in_child
from bundle.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

# Spawned children import this module, so what they run stands at its top.


def _add(say: Callable[[str], None], first: int, second: int) -> dict[str, Any]:
    say("adding")
    return {"sum": first + second, "pid": os.getpid()}


def _refuse(_: Callable[[str], None]) -> dict[str, Any]:
    raise ConfigError("no such thing", got="nothing")


def _die(_: Callable[[str], None]) -> dict[str, Any]:
    os.abort()


def _hang(_: Callable[[str], None]) -> dict[str, Any]:
    while True:
        time.sleep(60)


def test_in_child_returns_the_result_from_another_process() -> None:
    said: list[str] = []
    result = in_child(_add, 2, 3, timeout_s=60, say=said.append)
    assert result["sum"] == 5
    assert result["pid"] != os.getpid()
    assert said == ["adding"]


def test_in_child_error_of_ours_keeps_its_words() -> None:
    with pytest.raises(EngineError, match="no such thing: got nothing"):
        in_child(_refuse, timeout_s=60)


def test_in_child_crash_is_an_error_here_and_nothing_more() -> None:
    with pytest.raises(EngineError, match=r"died: got exit code -6"):
        in_child(_die, timeout_s=60)


def test_in_child_hang_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(EngineError, match="took too long"):
        in_child(_hang, timeout_s=0.5)
    assert time.monotonic() - started < 30
