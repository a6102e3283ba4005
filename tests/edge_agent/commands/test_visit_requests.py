from __future__ import annotations

from edge_agent.commands.visit_requests import MAX_WAITING, VisitRequest, VisitRequests
from edge_agent.outbox.rows import Entry


def request(
    command_id: str = "c1", camera: str = "front", asked_s: float = 10.0, until_s: float = 20.0
) -> VisitRequest:
    return VisitRequest(command_id, camera, "bin-1", None, None, asked_s, until_s)


def desk(now_s: float = 15.0) -> VisitRequests:
    return VisitRequests(lambda asked, _count, _why: Entry(asked.command_id, "result", "t", b""), clock=lambda: now_s)


def test_take_gives_the_oldest_request_to_its_own_camera_and_to_newer_frames_alone() -> None:
    requests = desk()
    assert requests.put(request("c1"))
    assert requests.put(request("c2"))
    assert requests.take("side", 12.0) is None
    assert requests.take("front", 9.9) is None
    taken = [requests.take("front", 12.0), requests.take("front", 12.0), requests.take("front", 12.0)]
    assert [None if one is None else one.command_id for one in taken] == ["c1", "c2", None]


def test_overdue_takes_what_no_frame_may_begin_any_more() -> None:
    requests = desk(now_s=25.0)
    requests.put(request("late"))
    requests.put(request("in time", until_s=30.0))
    assert requests.take("front", 24.0) is not None
    assert [one.command_id for one in requests.overdue()] == ["late"]
    assert requests.overdue() == []


def test_put_refuses_when_too_many_wait() -> None:
    requests = desk()
    assert all(requests.put(request(f"c{number}")) for number in range(MAX_WAITING))
    assert not requests.put(request("one more"))
