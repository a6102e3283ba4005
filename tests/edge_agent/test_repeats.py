from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from edge_agent.health.alarms import Alarms
from edge_agent.health.repeats import Repeats, TokenBucket
from edge_agent.machine import Heat
from edge_agent.messages import Topics

if TYPE_CHECKING:
    from edge_agent.outbox.rows import Entry


def test_token_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=10, burst=5, tokens=5, at_s=0.0)
    assert sum(bucket.take(0.0) for _ in range(20)) == 5
    assert sum(bucket.take(0.1 * n) for n in range(1, 11)) == 10
    assert not bucket.take(0.5)  # a clock that goes back gives nothing


def test_repeats_of_one_kind_are_held_back_and_counted_and_another_kind_passes() -> None:
    now_s = [0.0]
    repeats = Repeats(1 / 60, 3, clock=lambda: now_s[0])
    assert [repeats.admit("a") for _ in range(10)] == [0, 0, 0, *[None] * 7]
    assert repeats.admit("b") == 0
    now_s[0] = 61.0
    assert [repeats.admit("a") for _ in range(2)] == [7, None]
    now_s[0] = 122.0
    assert repeats.admit("a") == 1


class _Site:
    """Alarms whose events can be read, on a clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.now_s = 0.0
        self.lost = 0
        outbox: Any = SimpleNamespace(put=self._put)
        report: Any = SimpleNamespace(heat=Heat(None, None, None), losses=lambda: {"steps_failed": self.lost})
        unused: Any = SimpleNamespace()
        self.alarms = Alarms(
            robot="r1",
            topics=Topics("wh1", "r1"),
            outbox=outbox,
            publisher=unused,
            uploader=None,
            report=report,
            telemetry=unused,
            clock=lambda: self.now_s,
        )

    def _put(self, entry: Entry, *, timeout_s: float) -> bool:
        del timeout_s
        self.entries.append(entry)
        return True

    def problems(self, event: str) -> list[str]:
        events = [json.loads(entry.payload) for entry in self.entries]
        return [fields["problem"] for fields in events if fields["event"] == event]


def test_alarms_frames_that_fail_all_day_give_few_events_which_count_the_others() -> None:
    site = _Site()
    for second in range(86_400):
        site.now_s = float(second)
        site.alarms.event("frame_failed", "error", f"frame {second}", "logits are not finite")
    said = site.problems("frame_failed")
    assert 1400 < len(said) < 1500
    assert said[0] == "logits are not finite"
    held = sum(int(problem.partition("(")[2].split()[0]) for problem in said if "(" in problem)
    assert 86_400 - 60 <= len(said) + held <= 86_400


def test_alarms_event_about_a_camera_is_never_held_back() -> None:
    site = _Site()
    for _ in range(100):
        site.alarms.camera_lost("front", "no frame")
        site.alarms.camera_back("front")
    assert len(site.problems("camera_lost")) == 100


def test_alarms_drops_that_go_on_are_summed_up_in_fewer_events_and_none_is_left_out() -> None:
    site = _Site()
    for tens in range(1000):
        site.now_s, site.lost = 10.0 * tens, site.lost + 3
        site.alarms.report_drops()
    site.now_s += 60
    site.alarms.report_drops()
    said = site.problems("dropped")
    assert len(said) < 200
    assert sum(int(problem.split()[0]) for problem in said) == site.lost
