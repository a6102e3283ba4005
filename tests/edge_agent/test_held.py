from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from edge_agent.delivery.flight import Packet, Session
from edge_agent.delivery.held import Held, stream_of
from edge_agent.outbox.rows import StoredMessage
from tests.simulators.broker_link import SimulatedLink

if TYPE_CHECKING:
    from edge_agent.outbox.rows import MessageKind


class Clock:
    """Seconds that pass when they are told to."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def held(clock: Clock) -> Held:
    return Held(clock)


def row(number: int, bin_topic: str | None = None, topic: str = "count", kind: MessageKind = "count") -> StoredMessage:
    return StoredMessage(number, f"e{number}", kind, topic, bin_topic, b"", 0.0)


def taken(held: Held, clock: Clock, within_s: float = 1e3) -> StoredMessage:
    """What is tried next, however long its pause is."""
    until_s = clock.now_s + within_s
    while clock.now_s < until_s:
        if (message := held.take(())) is not None:
            return message
        clock.now_s += 0.5
    raise AssertionError("nothing is tried")


def test_held_refused_topic_is_tried_ever_more_rarely_and_never_given_up(held: Held, clock: Clock) -> None:
    assert held.admit(row(1, "b1"))
    held.refuse(row(1, "b1"), "no")
    moments = []
    for _ in range(50):
        held.refuse(taken(held, clock), "no")
        moments.append(clock.now_s)
    pauses = [after - before for before, after in itertools.pairwise(moments)]
    assert pauses[0] <= 4
    assert all(30 <= pause <= 61 for pause in pauses[10:])


def test_held_while_a_topic_is_refused_one_message_at_a_time_is_tried_and_each_bin_in_turn(
    held: Held, clock: Clock
) -> None:
    held.admit(row(1, "b1"))
    held.refuse(row(1, "b1"), "no")
    assert not any(held.admit(row(number, f"b{number}")) for number in (2, 3))
    tried: list[str | None] = []
    for _ in range(6):
        message = taken(held, clock)
        clock.now_s += 1e3
        assert held.take(()) is None
        assert not held.admit(row(100 + len(tried), "another"))
        held.refuse(message, "no")
        tried.append(message.retained_topic)
    assert set(tried[:3]) == {"b2", "b3", "another"}
    assert "b1" in tried


def test_held_message_that_is_never_taken_holds_up_its_own_bin_alone(held: Held, clock: Clock) -> None:
    held.admit(row(1, "bad"))
    held.refuse(row(1, "bad"), "no")
    for number in range(2, 40):
        held.admit(row(number, ("bad", "good", "better")[number % 3]))
    went: list[int] = []
    while len(went) < 25:
        message = taken(held, clock)
        if message.retained_topic == "bad":
            assert message.id == 1
            held.refuse(message, "no")
        else:
            held.settle(message)
            went.append(message.id)
    assert [number for number in went if number % 3 == 1] == list(range(4, 40, 3))
    assert [number for number in went if number % 3 == 2] == list(range(2, 40, 3))


def test_held_other_topics_pass(held: Held) -> None:
    held.admit(row(1, "b1"))
    held.refuse(row(1, "b1"), "no")
    assert held.admit(row(2, topic="event", kind="event"))


def test_held_bin_goes_on_in_order_once_its_first_is_taken(held: Held, clock: Clock) -> None:
    held.admit(row(1, "b1"))
    held.refuse(row(1, "b1"), "no")
    for number in (2, 3):
        assert not held.admit(row(number, "b1"))
    went = []
    for _ in range(3):
        message = taken(held, clock)
        assert not held.admit(row(10 + message.id, "b1"))
        held.settle(message)
        went.append(message.id)
    assert went == [1, 2, 3]


def test_held_busy_stream_waits(held: Held, clock: Clock) -> None:
    held.refuse(row(1, "b1"), "no")
    held.admit(row(2, "b1"))
    message = taken(held, clock)
    clock.now_s += 1e3
    assert held.take({stream_of(message)}) is None


def test_held_says_what_is_refused_again_and_again_until_it_is_taken(held: Held, clock: Clock) -> None:
    said = []
    held.refuse(row(1, "b1"), "Not authorized")
    for _ in range(3):
        said.append(held.words())
        held.refuse(taken(held, clock), "Not authorized")
    message = taken(held, clock)
    assert held.words() == ("broker: it refuses counts: Not authorized",)
    held.settle(message)
    assert [said[0], said[1], held.words()] == [(), (), ()]
    assert not held.holds(row(9, "b1"))


def test_held_is_bounded(held: Held) -> None:
    held.refuse(row(0, "b"), "no")
    number = 1
    while held.has_room:
        held.admit(row(number, f"b{number % 7}"))
        number += 1
    assert number == Held.MAX_ROWS


def test_held_messages_under_way_together_are_refused_once(held: Held, clock: Clock) -> None:
    rows = [row(number, f"b{number}") for number in range(4)]
    assert all(held.admit(message) for message in rows)
    for message in rows:
        held.refuse(message, "a quota")
    assert held.words() == ()  # a quota that is exceeded for a moment
    taken(held, clock, within_s=4)


def test_session_newest_status_alone_waits_in_front_of_the_counts() -> None:
    session = Session(SimulatedLink())
    count = Packet(7, "count", b"1", retain=False)
    session.packets.append(count)
    for payload in (b"lost", b"back"):
        session.put_first(Packet(None, "status", payload, retain=True))
    assert list(session.packets) == [Packet(None, "status", b"back", retain=True), count]
