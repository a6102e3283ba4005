from __future__ import annotations

import io
import json
import logging
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bundle.errors import ConfigError
from edge_agent.health.logs import JournalFormatter, JsonFormatter, Throttle, set_up_logs
from edge_agent.health.prometheus import Endpoint, exposition
from edge_agent.health.watchdog import Watchdog
from edge_agent.machine import ClockQuality, Heat, judge_clock, read_clock, read_heat
from edge_agent.messages import StageLatency, TelemetryMessage, utc

if TYPE_CHECKING:
    from collections.abc import Iterator


def make_machine(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / "sys/class" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "sys/class" / name).write_text(f"{content}\n", encoding="ascii")
    return root


_JETSON = {
    "thermal/thermal_zone0/temp": "48500",
    "thermal/thermal_zone1/temp": "61250",
    "thermal/thermal_zone2/temp": "not now",
    "thermal/cooling_device0/type": "pwm-fan",
    "thermal/cooling_device0/cur_state": "3",
    "thermal/cooling_device1/type": "gpu-throttle-alert",
    "thermal/cooling_device1/cur_state": "0",
    "hwmon/hwmon4/oc1_event_cnt": "2",
    "hwmon/hwmon4/oc3_event_cnt": "1",
}


def test_heat_of_a_jetson_is_read_and_its_fan_is_no_throttling(tmp_path: Path) -> None:
    assert read_heat(make_machine(tmp_path, _JETSON)) == Heat(61.25, throttled=False, over_current_events=3)
    make_machine(tmp_path, {"thermal/cooling_device1/cur_state": "1"})
    assert read_heat(tmp_path).throttled is True


def test_heat_of_a_machine_that_tells_nothing_is_unknown_not_zero(tmp_path: Path) -> None:
    assert read_heat(tmp_path) == Heat(None, None, None)


@pytest.mark.parametrize(
    ("state", "status", "mark", "expected"),
    [
        (0, 0, None, ClockQuality(synchronised=True, max_error_ms=1.5)),
        (5, 0x40, True, ClockQuality(synchronised=False, max_error_ms=None)),
        (0, 0x40, None, ClockQuality(synchronised=False, max_error_ms=None)),
        (-1, 0, True, ClockQuality(synchronised=True, max_error_ms=None)),
        (-1, 0, None, ClockQuality(synchronised=None, max_error_ms=None)),
    ],
)
def test_clock_is_judged_by_the_kernel_and_by_timesyncd_where_that_is_forbidden(
    state: int, status: int, *, mark: bool | None, expected: ClockQuality
) -> None:
    assert judge_clock(state, status, 1500, mark=mark) == expected


def test_clock_of_this_machine_can_be_asked_without_setting_it() -> None:
    assert read_clock().synchronised in (True, False, None)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(10)
        yield made


def environment(folder: Path) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "4000000"}


def heard(systemd: socket.socket) -> list[str]:
    found = []
    systemd.setblocking(False)
    while True:
        try:
            found.append(systemd.recv(4096).decode())
        except BlockingIOError:
            return found


def test_watchdog_is_fed_by_progress_and_says_what_is_late(
    tmp_path: Path, systemd: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    now, progress = [100.0], {"loop": 100.0, "mqtt": 100.0}
    stages = {name: ((lambda name=name: progress[name]), 5.0) for name in progress}
    watchdog = Watchdog(stages, environment=environment(tmp_path), clock=lambda: now[0])
    watchdog.ping()
    assert heard(systemd) == ["WATCHDOG=1"]
    watchdog.ping()  # not due yet
    assert heard(systemd) == []
    now[0], progress["loop"] = 106.0, 106.0
    watchdog.ping()
    now[0] = 108.0
    watchdog.ping()
    assert heard(systemd) == ["STATUS=no progress in mqtt"]
    assert "test_watchdog_is_fed" in capfd.readouterr().err  # where each thread is
    progress["mqtt"] = 108.0
    now[0] = 110.0
    watchdog.ping()
    assert heard(systemd) == ["WATCHDOG=1"]


def test_watchdog_says_ready_once_and_a_status_when_it_changes(tmp_path: Path, systemd: socket.socket) -> None:
    watchdog = Watchdog({}, environment=environment(tmp_path))
    watchdog.ready()
    watchdog.ready()
    watchdog.say("online\n3 counts")
    watchdog.say("online 3 counts")
    watchdog.stopping(12.5)
    assert heard(systemd) == ["READY=1", "STATUS=online 3 counts", "STOPPING=1\nEXTEND_TIMEOUT_USEC=12500000"]


def telemetry(**changes: object) -> TelemetryMessage:
    fields: dict[str, object] = {
        "robot": 'r"1',
        "at": utc(0),
        "uptime_s": 12.5,
        "fps": 3.25,
        "totals": {"accepted": 7, "delivered": 5, "p50_ms": None},
        "queue": {"messages": 2, "oldest_s": 0.5},
        "drops": {"images_aged": 1},
        "latency": {"infer": StageLatency(p50_ms=2.0, p99_ms=None)},
        "disk_free_bytes": 123456789012,
        "rss_bytes": None,
        "temperature_c": 51.5,
        "throttled": False,
        "over_current_events": None,
        "clock_synchronised": True,
        "clock_max_error_ms": 1.5,
    }
    return TelemetryMessage.model_validate(fields | changes)


def test_exposition_has_every_number_that_is_known_and_no_other() -> None:
    lines = exposition(telemetry(), "degraded").splitlines()
    assert 'bintally_state{robot="r\\"1",state="degraded"} 1.0' in lines
    assert 'bintally_accepted_total{robot="r\\"1"} 7' in lines
    assert 'bintally_disk_free_bytes{robot="r\\"1"} 123456789012.0' in lines
    assert 'bintally_latency_seconds{robot="r\\"1",stage="infer",quantile="0.5"} 0.002' in lines
    assert 'bintally_throttled{robot="r\\"1"} 0.0' in lines
    assert not [line for line in lines if "rss" in line or "over_current" in line or "None" in line]
    kinds = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds))
    assert {line.split("{")[0] for line in lines if not line.startswith("#")} == set(kinds)


def test_endpoint_serves_the_newest_page_on_the_loopback_and_nothing_else() -> None:
    endpoint = Endpoint(0)
    try:
        with pytest.raises(ConfigError, match="prometheus_port"):
            Endpoint(endpoint.port)
        endpoint.show("bintally_fps 1\n")
        endpoint.show("bintally_fps 2\n")
        with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert answer.read() == b"bintally_fps 2\n"
        with pytest.raises(urllib.error.HTTPError, match="404") as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/", timeout=10)
        refused.value.close()
    finally:
        endpoint.close()


_SECRETS = ("s3cr3t", "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG")


def test_logs_never_hold_a_secret_not_even_in_a_traceback() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log = logging.getLogger("test_health")
    log.propagate = False
    log.addHandler(handler)
    log.warning("cannot open %s", "rtsp://admin:s3cr3t@10.0.0.9/live")
    log.warning("cannot open %s now", "http://10.0.0.9/video?user=admin&pwd=s3cr3t&x=1")
    log.warning("key AKIAIOSFODNN7EXAMPLE, aws_secret_access_key = wJalrXUtnFEMI/K7MDENG, password: s3cr3t")
    try:
        Path("rtsp://admin:s3cr3t@10.0.0.9").read_bytes()
    except OSError:
        log.exception("bad")
    log.removeHandler(handler)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert all(json.loads(line)["level"] for line in lines)
    assert not [secret for secret in _SECRETS if secret in stream.getvalue()]
    assert "10.0.0.9/live" in lines[0]
    assert lines[1].count("now") == 1


def test_logs_that_repeat_are_held_back_and_say_so() -> None:
    now = [0.0]
    throttle = Throttle(clock=lambda: now[0])
    records = [logging.makeLogRecord({"msg": "again", "pathname": "a.py", "lineno": 7}) for _ in range(1000)]
    written = [record.getMessage() for record in records if throttle.filter(record)]
    assert len(written) == 20
    assert "held back" in written[-1]
    now[0] = 61.0
    assert throttle.filter(logging.makeLogRecord({"msg": "again", "pathname": "a.py", "lineno": 7}))


def test_logs_to_the_journal_carry_their_priority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = logging.root.handlers[:]
    with (tmp_path / "journal").open("w+", encoding="utf-8") as journal:
        status = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        monkeypatch.setattr("sys.stderr", journal)
        set_up_logs("info", json_lines=True)
        assert isinstance(logging.root.handlers[0].formatter, JournalFormatter)
        logging.getLogger("bintally").error("broken")
        journal.seek(0)
        line = journal.read()
    logging.root.handlers[:] = before
    assert line.startswith("<3>{")
    assert json.loads(line[3:])["message"] == "broken"
