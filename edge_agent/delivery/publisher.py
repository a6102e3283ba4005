"""Delivery to the broker: at least once, a bin in order, with a small window; what is refused waits or is set aside.

Runs in one thread over a `Link`; knows nothing of paho. What is in flight when a connection breaks is sent again first
on the next one, under the same event_id. A crash of the agent repeats what was sent and not yet acknowledged: at most
one message while delivery keeps up, and at most four while it catches up on hundreds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from bundle.errors import DeliveryError
from edge_agent.backoff import Backoff
from edge_agent.delivery.direct import Direct
from edge_agent.delivery.flight import Open, Packet, Session
from edge_agent.delivery.held import Held, stream_of
from edge_agent.delivery.intake import Intake
from edge_agent.delivery.link import VERSION_NAMES, VERSIONS, Ack, HandshakeError, VersionRefusedError
from edge_agent.messages import as_historical
from edge_agent.outbox.receipts import Receipts
from edge_agent.threads import Waker, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.config import MqttSection
    from edge_agent.delivery.direct import Wordings
    from edge_agent.delivery.link import Delivery, Link
    from edge_agent.messages import Topics
    from edge_agent.outbox.outbox import Outbox
    from edge_agent.outbox.rows import StoredMessage

_LOG = logging.getLogger(__name__)

_REPEATS = 1
_MAX_REPEATS = 4
_QUEUED_PER_REPEAT = 128
"""One more message may be under way for so many in the outbox: little is repeated, and a backlog goes out fast."""
_MAX_UNREMOVED = Receipts.SLOTS - _MAX_REPEATS
_FIRST_PAUSE_S = 0.25
_WAIT_S = 0.5
_STABLE_S = 10.0
_MAX_HANG_UPS = 3
"""So often in a row a broker may hang up on MQTT 5 until it is taken for one that knows only MQTT 3.1.1."""


class Publisher:
    """The delivery thread for messages.

    Args:
        settings: Of the broker.
        topics: Of this robot.
        outbox: What to deliver.
        connect: Opens a connection with a protocol version.
        clock: Monotonic seconds.

    Attributes:
        receive: Takes commands, see `Intake`; set before the thread is started. Without it, none are asked for.
        subscription_refused: Why the broker gives no commands.
        version: Of MQTT, on the present or last connection.
        speaks_newest: The broker is known to speak MQTT 5; may be set before the start.
        refusals: What the broker refuses again and again, in sentences.
        announcement: Topic and payload of a retained message that is sent at every connect; set before the start.
        direct: What the broker refuses of what is not in the outbox.
    """

    def __init__(
        self,
        settings: MqttSection,
        topics: Topics,
        outbox: Outbox,
        *,
        connect: Callable[[int], Link],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.connected = False
        self.counts_delivered = 0
        self.counts_refused = 0
        self.connects = 0
        self.subscription_refused: str | None = None
        self.version: int | None = None
        self.speaks_newest = False
        self.refusals: tuple[str, ...] = ()
        self.announcement: tuple[str, bytes] | None = None
        self.receive: Callable[[Delivery, Callable[[], None]], bool] | None = None
        self.direct = Direct()
        self._settings = settings
        self._topics = topics
        self._outbox = outbox
        self._connect = connect
        self._clock = clock
        self._hang_ups = 0
        self._waker = Waker()
        self._acknowledged = 0
        self._open: dict[int, Open] = {}
        self._resend: deque[Open] = deque()
        self._held = Held(clock)
        self._bin_refusal: str | None = None
        self._upcoming: StoredMessage | None = None
        self._telemetry: Wordings | None = None
        self._status: Wordings | None = None
        self._status_sent: Wordings | None = None
        self._last_words: Wordings | None = None
        self._stop = threading.Event()
        self.worker = Worker(
            "mqtt",
            self._session,
            backoff=Backoff(_FIRST_PAUSE_S, settings.reconnect_max_s),
            stop=self._stop,
            clock=clock,
        )
        outbox.messages.wake = self._waker.wake

    # The side of the other threads.

    def set_status(self, wordings: Wordings) -> None:
        """Replace the retained status; sent now, and again at every connect."""
        self._status = wordings
        self._waker.wake()

    def send_telemetry(self, wordings: Wordings) -> None:
        """Send telemetry if the broker is there; the newest replaces one that still waits."""
        self._telemetry = wordings
        self._waker.wake()

    def finish(self, last_words: Wordings, timeout_s: float) -> bool:
        """Publish the last status, say good-bye and end the thread.

        Args:
            last_words: The retained status that stays.
            timeout_s: How long that may take.

        Returns:
            Whether the thread ended in time.
        """
        self._last_words = last_words
        self._stop.set()
        self._waker.wake()
        ended = self.worker.join(timeout_s)
        if ended:
            self._waker.close()
        return ended

    # The side of the thread.

    def _session(self) -> None:
        if self._stop.is_set():
            return
        link = self._dial()
        session = Session(link)
        if self.announcement is not None:
            self._say(session, self.announcement[0], (self.announcement[1],))
        intake = None if self.receive is None else Intake(link, self.receive, self._waker.wake)
        if intake is not None:
            link.subscribe(self._topics.commands)
        self.connected = True
        self.connects += 1
        self.worker.recovered()
        since_s = self._clock()
        self._status_sent = None
        # What was in flight, and what the last connection did not even come to send again.
        unsettled = [*self._open.values(), *self._resend]
        self._resend = deque(sorted(unsettled, key=lambda entry: entry.message.id))
        self._open = {}
        try:
            while not self._stop.is_set() or not self._said_goodbye(session):
                self._pump(session)
                self._take_acks(session, link.wait(_WAIT_S, self._waker))
                self.subscription_refused = link.subscription_refused
                if intake is not None and not self._stop.is_set():
                    intake.turn()
                self.worker.tick()
            link.close()
        except BaseException:
            link.abort()
            raise
        finally:
            self.connected = False
            if self._clock() - since_s > _STABLE_S:
                # Not at the connect: two robots under one name would throw each other out in a tight circle.
                self.worker.succeeded()

    def _dial(self) -> Link:
        """Connect with MQTT 5; with 3.1.1 when the broker refuses 5, or hangs up on it and was never heard to speak it.

        A broker that is restarted behind a proxy hangs up as well, and 3.1.1 has no word for a refusal, and ends the
        session in which commands wait.
        """
        try:
            link = self._connect(VERSIONS[0])
        except VersionRefusedError as exc:
            return self._dial_older(exc)
        except HandshakeError as exc:
            self._hang_ups += 1
            if self.speaks_newest or self._hang_ups < _MAX_HANG_UPS:
                raise
            return self._dial_older(exc)
        self.version, self.speaks_newest, self._hang_ups = VERSIONS[0], True, 0
        return link

    def _dial_older(self, why: DeliveryError) -> Link:
        self.worker.tick()
        link = self._connect(VERSIONS[1])
        if self.version != VERSIONS[1]:
            _LOG.warning("%s; going on with MQTT %s", why, VERSION_NAMES[VERSIONS[1]])
        self.version = VERSIONS[1]
        return link

    def _said_goodbye(self, session: Session) -> bool:
        return self._status_sent == self._last_words and not session.in_flight

    def _pump(self, session: Session) -> None:
        """Fill the window: the status first, then what was in flight before, then the outbox in order."""
        status = self._last_words if self._stop.is_set() else self._status
        if status is not None and status != self._status_sent:
            self._say(session, self._topics.status, status)
            self._status_sent = status
        if self._telemetry is not None:
            wordings, self._telemetry, topic = self._telemetry, None, self._topics.telemetry
            if (payload := self.direct.choose(session.link, topic, wordings)) is not None:
                session.link.publish(topic, payload, qos=0, retain=False)
                self.direct.took(topic)
        while len(session.in_flight) < session.link.window:
            if not session.packets and not self._next_message(session):
                return
            packet = session.packets.popleft()
            mid = session.link.publish(packet.topic, packet.payload, qos=1, retain=packet.retain)
            session.in_flight[mid] = (packet, self._clock())

    def _say(self, session: Session, topic: str, wordings: Wordings) -> None:
        """Put something retained in front of what waits."""
        payload = self.direct.choose(session.link, topic, wordings)
        if payload is not None:
            session.put_first(Packet(None, topic, payload, retain=True))

    def _next_message(self, session: Session) -> bool:
        if self._stop.is_set():
            return False
        message: StoredMessage | None = None
        if self._resend:
            message = self._resend.popleft().message
        elif self._may_send_more():
            busy = {stream_of(entry.message) for entry in self._open.values()}
            message = self._held.take(busy) or self._take_fresh(busy)
        if message is None:
            return False
        self._enqueue(session, message)
        return True

    def _take_fresh(self, busy: set[str]) -> StoredMessage | None:
        """Take the next message of the outbox that does not wait behind a refused one.

        Two of a stream are never under way together: the first could be refused, and the second be taken.
        """
        while self._held.has_room:
            self._upcoming = self._upcoming or next(iter(self._outbox.messages.take(1)), None)
            message = self._upcoming
            if message is None or (stream_of(message) in busy and not self._held.holds(message)):
                return None
            self._upcoming = None
            if self._held.admit(message):
                return message
        return None

    def _may_send_more(self) -> bool:
        """Bound what a crash would repeat: sent, and not yet acknowledged. Receipts are bounded as well."""
        allowed = min(_MAX_REPEATS, _REPEATS + self._outbox.undelivered // _QUEUED_PER_REPEAT)
        unremoved = self._acknowledged - self._outbox.removed
        return len(self._open) < allowed and unremoved < _MAX_UNREMOVED

    def _enqueue(self, session: Session, message: StoredMessage) -> None:
        late = self._outbox.is_late(message, self._settings.historical_after_s)
        payload = as_historical(message.payload) if late and message.kind == "count" else message.payload
        session.packets.append(Packet(message.id, message.topic, payload, retain=False))
        # History does not pass over a bin's topic: only the newest count of the bin may stand there.
        for_bin = message.retained_topic is not None and (not late or self._outbox.is_newest(message))
        if message.retained_topic is not None and for_bin:
            session.packets.append(Packet(message.id, message.retained_topic, payload, retain=True))
        self._open[message.id] = Open(message, 1 + for_bin)

    def _take_acks(self, session: Session, acks: list[Ack]) -> None:
        done = [message for ack in acks if (message := self._settle(session, ack)) is not None]
        if done:
            self._acknowledged += len(done)
            self._outbox.delivered(done)
        if acks:
            bins = () if self._bin_refusal is None else (f"broker: it refuses bin topics: {self._bin_refusal}",)
            self.refusals = (*self._held.words(), *bins)
        if session.in_flight:
            _, sent_s = next(iter(session.in_flight.values()))
            if self._clock() - sent_s > self._settings.ack_timeout_s:
                raise DeliveryError(
                    "the broker does not acknowledge", got=f"nothing for {self._settings.ack_timeout_s:g} s"
                )

    def _settle(self, session: Session, ack: Ack) -> StoredMessage | None:
        """Note an acknowledgement.

        Returns:
            A message that is now wholly delivered.
        """
        packet, _ = session.in_flight.pop(ack.mid, (None, 0.0))
        if packet is None:
            return None
        if packet.row is None:
            if ack.refusal is None:
                self.direct.took(packet.topic)
            else:
                self.direct.refuse(packet.topic, ack.refusal)
            return None
        entry = self._open[packet.row]
        entry.unacked -= 1
        if packet.retain:
            self._note_bin(packet, ack)
        elif ack.refusal is not None:
            entry.refusal = ack
        if entry.unacked:
            return None
        del self._open[packet.row]
        if entry.refusal is not None:
            self._refuse(entry.message, entry.refusal)
            return None
        self._held.settle(entry.message)
        self.counts_delivered += entry.message.kind == "count"
        return entry.message

    def _note_bin(self, packet: Packet, ack: Ack) -> None:
        """The count was or will be delivered by itself; the bin's topic shows the bin's next one."""
        if ack.refusal is not None and ack.refusal != self._bin_refusal:
            _LOG.error("the broker refuses %s: %s", packet.topic, ack.refusal)
        self._bin_refusal = ack.refusal

    def _refuse(self, message: StoredMessage, ack: Ack) -> None:
        if ack.for_ever:
            _LOG.error("the broker refuses %s on %s: %s", message.event_id, message.topic, ack.refusal)
            self.counts_refused += message.kind == "count"
            self._outbox.refused(message.id, str(ack.refusal))
            self._held.settle(message)
        else:
            _LOG.warning("the broker does not take %s on %s now: %s", message.event_id, message.topic, ack.refusal)
            self._held.refuse(message, str(ack.refusal))
