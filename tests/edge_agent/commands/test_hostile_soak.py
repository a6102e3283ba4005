"""Ten thousand hostile commands to a real agent; prints its figures. `pytest -m soak -s tests/edge_agent/commands`."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.edge_agent.commands.sending import Operator, fields
from tests.edge_agent.running import AgentProcess, config_text, write_photos
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import MOSQUITTO, Mosquitto
from tests.simulators.hostile import hostile

if TYPE_CHECKING:
    from tests.edge_agent.commands.sending import Operator as _Operator

_AMOUNT, _SEED, _BATCH = 10_000, 11, 250


def rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def refused(telemetry: dict[str, Any]) -> int:
    return int(telemetry["drops"].get("commands_refused", 0))


def is_withheld(command: tuple[str, bytes]) -> bool:
    """The agent tells the broker, at the connect, that it takes packets of 64 KiB at most."""
    return len(command[1]) > 65_400


def settle(operator: _Operator, number: int) -> None:
    """Wait until everything that was sent so far has been dealt with: a ping behind it is answered."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        command_id = f"settled-{number:05d}-{time.monotonic_ns()}"
        operator.send("ping", fields(command_id))
        until = time.monotonic() + 5
        while time.monotonic() < until:
            if any(result["state"] == "succeeded" for result in operator.results(command_id)):
                return
            time.sleep(0.05)
    pytest.fail("the agent does not answer any more")


@pytest.mark.soak
@pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary")
def test_ten_thousand_hostile_commands_crash_nothing_do_nothing_and_leave_memory_flat(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    source = write_photos(tmp_path / "photos", [1, 2, 3])
    with Mosquitto(tmp_path, "allow_anonymous true\nmax_queued_messages 100000") as broker:
        camera = "repeat = true\npause_s = 0.5"
        text = config_text(bundle=tiny_bundle, source=source, state=tmp_path / "state", port=broker.port, camera=camera)
        agent = AgentProcess.start(tmp_path, text)
        with Operator(broker.port) as operator:
            operator.wait_for_robot()
            settle(operator, 0)
            seen = [rss_kib(agent.process.pid)]
            for number, (name, payload) in enumerate(hostile(_SEED, _AMOUNT), start=1):
                operator.send(name, payload)
                if number % _BATCH == 0:
                    settle(operator, number)
                    seen.append(rss_kib(agent.process.pid))
            results = [r for r in operator.of("/result") if not str(r["command_id"]).startswith("settled-")]
            reasons = Counter(str(result["reason"]) for result in results)
            wait_until(lambda: len({refused(message) for message in operator.of("/telemetry")[-2:]}) == 1)
            figures = {
                "seed": _SEED,
                "sent": _AMOUNT,
                "too_large_for_the_broker_to_deliver": sum(map(is_withheld, hostile(_SEED, _AMOUNT))),
                "refused": refused(operator.of("/telemetry")[-1]),
                "answers": dict(reasons),
                "carried_out": sum(result["state"] != "refused" for result in results),
                "alive": agent.process.poll() is None,
                "rss_mib": [round(value / 1024, 1) for value in seen[:: max(1, len(seen) // 10)]],
                "rss_growth_mib_second_half": round((seen[-1] - seen[len(seen) // 2]) / 1024, 2),
                "settings": operator.of("/status")[-1]["settings"],
            }
        code = agent.terminate()
    print(json.dumps(figures))  # noqa: T201 - the figures
    assert code == 0
    assert figures["alive"]
    assert figures["carried_out"] == 0
    assert refused(operator.of("/telemetry")[-1]) > 0.9 * _AMOUNT
    assert figures["settings"] == {}
    assert seen[-1] - seen[len(seen) // 2] < 4 << 10
