from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from edge_agent.commands.desk import Desk
from edge_agent.commands.memory import Memory
from edge_agent.commands.order import Done, Handler, Order, Progress, Results
from edge_agent.commands.parse import parse
from edge_agent.commands.runner import Runner
from edge_agent.commands.simple import CaptureHandler
from edge_agent.commands.visit_requests import VisitRequests
from edge_agent.delivery.intake import Intake
from edge_agent.delivery.link import Delivery
from edge_agent.messages import Topics, new_event_id
from edge_agent.outbox.command_table import Remembered, StoredCommand
from edge_agent.outbox.rows import Entry
from tests.edge_agent.commands.sending import BASE, fields
from tests.edge_agent.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

_NOW_S = datetime(2026, 11, 21, tzinfo=timezone.utc).timestamp()


def _open(command_id: str, state: str, after_s: float) -> StoredCommand:
    said = json.dumps({"event_id": new_event_id(_NOW_S + after_s)}).encode()
    request = json.dumps(fields(command_id)).encode()
    return StoredCommand(command_id, "ping", state, _NOW_S, request, said)


def _desk(*rows: StoredCommand) -> Desk:
    unused: Any = SimpleNamespace()
    return Desk(Memory(Remembered(rows)), unused, unused, unused, give=lambda _: None)


class Clock:
    """Monotonic and wall clock that a test moves; nothing runs by itself."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self._start_s = time.time()

    def mono_s(self) -> float:
        return 1000.0 + self.passed_s

    def wall_s(self) -> float:
        return self._start_s + self.passed_s


class Disk:
    """Takes what is put; it is on disk when a test says so."""

    def __init__(self) -> None:
        self.put_so_far: list[Entry] = []
        self.is_stored = self.has_room = True

    def put(self, entry: Entry, *, timeout_s: float) -> bool:
        del timeout_s
        if not self.has_room:
            return False
        self.put_so_far.append(entry)
        return True

    def said(self) -> list[dict[str, Any]]:
        return [json.loads(entry.payload) for entry in self.put_so_far]


class Front:
    """A desk with a disk and a clock that stand still."""

    def __init__(self, give: Callable[[Order], None], remembered: Remembered | None = None) -> None:
        self.clock, self.disk = Clock(), Disk()
        self.results = Results("r1", Topics("wh1", "r1"), wall_clock=self.clock.wall_s)
        disk: Any = self.disk
        telemetry: Any = SimpleNamespace(count=lambda *_: None)
        memory = Memory(remembered or Remembered())
        clocks: Any = {"clock": self.clock.mono_s, "wall_clock": self.clock.wall_s}
        self.desk = Desk(memory, self.results, disk, telemetry, give=give, **clocks)

    def receive(self, name: str, content: dict[str, Any], settled: Callable[[], None] = lambda: None) -> None:
        assert self.desk.receive(delivery(name, content), settled)


def delivery(name: str, content: dict[str, Any], mid: int = 1) -> Delivery:
    return Delivery(f"{BASE}/cmd/{name}", json.dumps(content).encode(), retained=False, mid=mid)


def test_commands_left_open_go_on_in_the_order_of_their_acceptance_after_what_had_begun() -> None:
    rows = [_open("set-b-0001", "accepted", 1), _open("set-a-0002", "accepted", 2), _open("job-z-001", "running", 3)]
    left = _desk(*sorted(rows, key=lambda row: row.command_id)).left_open()  # as the file gives them
    assert [order.id for order in left] == ["job-z-001", "set-b-0001", "set-a-0002"]
    assert all(order.resumed for order in left)


def test_command_left_open_that_was_not_begun_is_not_begun_after_its_expiry() -> None:
    front = Front(lambda _: None)
    for command_id, life_s in (("set-short", 30.0), ("set-long1", 7200.0), ("set-begun", 30.0)):
        front.receive("set", fields(command_id, life_s=life_s, threshold=0.9))
    front.receive("rollback", fields("roll-back", life_s=30.0))
    marks = [(entry.command, entry.payload) for entry in front.disk.put_so_far]
    rows = [StoredCommand(m.command_id, m.name, m.state, m.expires_s, m.request, said) for m, said in marks if m]
    rows[2] = replace(rows[2], state="running")
    restarted = Front(lambda _: None, Remembered(tuple(rows)))
    restarted.clock.passed_s = 3600.0
    handler = _Once()
    handlers: dict[str, Handler] = {"set": handler, "rollback": handler}
    runner = Runner("test", handlers, lambda: restarted.desk, restarted.results, clock=restarted.clock.mono_s)
    for order in restarted.desk.left_open():
        runner.give(order)
    runner.worker.start()
    wait_until(lambda: len(restarted.disk.said()) == 4)
    runner.finish(10.0)
    ends = {said["command_id"]: said["reason"] for said in restarted.disk.said()}
    assert ends == {"set-short": "expired", "set-long1": None, "roll-back": None, "set-begun": None}


def test_command_left_open_whose_last_message_is_not_kept_is_not_forgotten() -> None:
    row = _open("job-z-001", "running", 0)
    left = _desk(StoredCommand(row.command_id, "ping", "running", _NOW_S, row.request, b"")).left_open()
    assert [order.id for order in left] == ["job-z-001"]


def test_redelivery_of_a_command_that_is_not_on_disk_yet_is_not_confirmed_before_it_is() -> None:
    given: list[Order] = []
    confirmed: list[str] = []
    front = Front(given.append)
    front.receive("ping", fields("ping-0001"), lambda: confirmed.append("first"))
    front.receive("ping", fields("ping-0001"), lambda: confirmed.append("again"))
    assert (confirmed, given) == ([], [])
    front.desk.stored(front.disk.put_so_far)
    assert confirmed == ["first", "again"]
    assert [order.id for order in given] == ["ping-0001"]
    front.receive("ping", fields("ping-0001"), lambda: confirmed.append("third"))
    assert confirmed[2:] == ["third"]


class _Once(Handler):
    def __init__(self) -> None:
        self.begun: list[str] = []

    def run(self, order: Order, progress: Progress) -> Done:
        del progress
        self.begun.append(order.id)
        return Done("done")

    resume = run


def test_command_whose_acceptance_waited_for_the_disk_past_its_expiry_is_not_begun() -> None:
    handler = _Once()
    front = Front(lambda order: runner.give(order))  # noqa: PLW0108 - it comes after
    runner = Runner("test", {"ping": handler}, lambda: front.desk, front.results, clock=front.clock.mono_s)
    for command_id, life_s in (("ping-short", 30.0), ("ping-long1", 7200.0)):
        front.receive("ping", fields(command_id, life_s=life_s))
    waiting = list(front.disk.put_so_far)
    front.clock.passed_s = 3600.0
    runner.worker.start()
    front.desk.stored(waiting)
    wait_until(lambda: len(front.disk.said()) == 4)
    runner.finish(10.0)
    ends = {said["command_id"]: (said["state"], said["reason"]) for said in front.disk.said()[2:]}
    assert ends == {"ping-short": ("refused", "expired"), "ping-long1": ("succeeded", None)}
    assert handler.begun == ["ping-long1"]


def test_capture_waits_for_a_frame_from_its_reception_on_and_not_past_its_expiry() -> None:
    clock = Clock()
    received_s = clock.mono_s()
    requests = VisitRequests(lambda *_: Entry("", "result", "t", b""), clock=clock.mono_s)
    handler = CaptureHandler(requests, ["front"], clock=clock.mono_s)
    clock.passed_s = 5.0
    unused: Any = None
    for command_id, begin_by_s in (("capture-10s", received_s + 600), ("capture-7s", received_s + 7)):
        payload = json.dumps(fields(command_id, bin_id="01044", wait_s=10)).encode()
        command = parse("capture", payload, retained=False)
        handler.run(Order("capture", command, payload, received_mono_s=received_s, begin_by_mono_s=begin_by_s), unused)
    late = []
    for clock.passed_s in (6.9, 7.0, 9.9, 10.0):
        late.append([request.command_id for request in requests.overdue()])
    assert late == [[], ["capture-7s"], [], ["capture-10s"]]


def test_command_is_remembered_from_its_end_on_when_that_is_later_than_its_expiry() -> None:
    given: list[Order] = []
    front = Front(given.append)
    content = fields("long-job-1", life_s=600.0)
    front.receive("recalibrate", content)
    front.desk.stored(front.disk.put_so_far)
    front.clock.passed_s = 7200.0
    front.desk.end(given[0], Done("activated"), lambda: False)
    front.desk.stored(front.disk.put_so_far[-1:])
    front.clock.passed_s += 240.0
    front.receive("ping", fields("ping-later", age_s=-front.clock.passed_s))  # room is made for it
    front.receive("recalibrate", content)
    assert [said["state"] for said in front.disk.said()] == ["accepted", "succeeded", "accepted", "succeeded"]
    assert front.disk.said()[3] == front.disk.said()[1]


def test_repeat_that_has_expired_is_answered_when_it_is_known_and_never_begun() -> None:
    given: list[Order] = []
    front = Front(given.append)
    front.receive("rollback", fields("rollback-1"))
    front.desk.stored(front.disk.put_so_far)
    front.desk.end(given[0], Done("it counts again"), lambda: False)
    front.desk.stored(front.disk.put_so_far[-1:])
    for command_id in ("rollback-1", "rollback-2"):
        front.receive("rollback", fields(command_id, age_s=700.0))
    assert [order.id for order in given] == ["rollback-1"]
    known, unknown = front.disk.said()[2:]
    assert (known["command_id"], known["state"], known["words"]) == ("rollback-1", "succeeded", "it counts again")
    assert (unknown["command_id"], unknown["state"], unknown["reason"]) == ("rollback-2", "refused", "expired")


def test_repeat_of_a_command_with_a_long_result_is_answered_without_its_detail() -> None:
    given: list[Order] = []
    front = Front(given.append)
    front.receive("snapshot", fields("snapshot-1"))
    front.desk.stored(front.disk.put_so_far)
    front.desk.end(given[0], Done("the picture is in detail.jpeg_base64", {"jpeg_base64": "A" * 40_000}), lambda: False)
    front.desk.stored(front.disk.put_so_far[-1:])
    front.receive("snapshot", fields("snapshot-1"))
    first, again = front.disk.said()[1:]
    assert len(first["detail"]["jpeg_base64"]) == 40_000
    assert again == {**first, "detail": {"left_out_bytes": len(json.dumps(first["detail"]))}}


def test_commands_for_which_there_was_no_room_are_taken_in_their_order_when_there_is() -> None:
    given: list[Order] = []
    front = Front(given.append)
    front.disk.has_room = False
    arrived = [delivery("ping", fields(f"ping-{number:04d}"), mid=number) for number in range(40)]
    acknowledged: list[int] = []
    link: Any = SimpleNamespace(received=lambda: [arrived.pop(0)] if arrived else [], acknowledge=acknowledged.append)
    intake = Intake(link, front.desk.receive, lambda: None, clock=front.clock.mono_s)
    for _ in range(100):  # as often as the connection turns; no try costs one of the ten commands a second
        intake.turn()
        front.clock.passed_s += 0.1
    assert (front.disk.put_so_far, given, acknowledged) == ([], [], [])
    front.disk.has_room = True
    front.clock.passed_s += 1.0
    intake.turn()
    front.desk.stored(front.disk.put_so_far)
    intake.turn()
    assert [order.id for order in given] == [f"ping-{number:04d}" for number in range(40)]
    assert acknowledged == list(range(40))
