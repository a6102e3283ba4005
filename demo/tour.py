"""The tour: everything that a warehouse has, on one machine, for a minute.

    rendered bins -> the real agent --MQTT--> broker --> an independent subscriber -> live table, summary
                                    `--S3---> object store (the images it was unsure of)

Invariants:
- What is shown comes from messages that went through the broker, never from the agent's insides.
- Nothing is left running and nothing is left on disk, however the tour ends: broker, store and subscriber are threads
  of this process, the agent hangs on a leash (`demo.leash`), and the files lie in one temporary folder.
"""

from __future__ import annotations

import secrets
import signal
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundle.errors import CameraError, ConfigError, DeliveryError
from bundle.verify import load_bundle
from demo.broker import EmbeddedBroker
from demo.extra import require
from demo.objects import EmbeddedStore
from demo.robot import Robot, RobotPlan
from demo.shelf import borrow_shelf, render_shelf
from demo.subscriber import Subscriber
from demo.table import LiveTable, progress
from demo.tally import Summary, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from demo.shelf import Shelf

SHIPPED_BUNDLE = Path(__file__).resolve().parent / "bundle"
DEFAULT_FRAMES = 60
_BUCKET = "bintally-review"
_NEEDED = ("amqtt", "moto", "flask", "rich")
_LAST_WORDS_S = 8.0
_TICK_S = 0.1
_NO_CAMERA = frozenset({"camera_lost", "camera_failed"})


@dataclass(frozen=True, slots=True)
class TourOptions:
    """What a tour shall do.

    Attributes:
        frames: Number of visits; None means all that the source has, and `DEFAULT_FRAMES` rendered bins.
        forever: Start again at the end, until stopped.
        seed: Which bins are rendered.
        source: Own folder, video, device or camera index instead of rendered bins.
        broker: Host and port of an own broker instead of the embedded one.
        bundle: Folder of the bundle.
        pause_s: Between two bins.
    """

    frames: int | None = None
    forever: bool = False
    seed: int = 7
    source: str | None = None
    broker: tuple[str, int] | None = None
    bundle: Path = SHIPPED_BUNDLE
    pause_s: float = 0.15


@dataclass(frozen=True, slots=True)
class Report:
    """What a tour found.

    Attributes:
        summary: The figures.
        verdicts: Visits per verdict against the records.
        stopped: It was asked to stop before its end.
    """

    summary: Summary
    verdicts: Mapping[str, int]
    stopped: bool


def run_tour(options: TourOptions) -> Report:
    """Run a tour.

    SIGINT (Ctrl-C) and SIGTERM end it early with a summary; a second one ends it at once.

    Args:
        options: What it shall do.

    Returns:
        What it found.

    Raises:
        ConfigError: A package of the `demo` extra is missing.
        BundleError: There is no such bundle, or it is not whole.
        InputError: The source does not exist.
        CameraError: The camera gives no picture at all.
        DeliveryError: The broker does not answer, or messages miss what was promised.
        BintallyError: The agent ended otherwise than well.
    """
    require(*_NEEDED)
    _require_bundle(options.bundle)
    with ExitStack() as stack:
        stop = stack.enter_context(_stop_signals())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bintally-demo-")))
        store = stack.enter_context(EmbeddedStore(_BUCKET))
        shelf = _shelf(options, folder)
        plan = _plan(options, shelf, store, options.broker or _embedded(stack))
        subscriber = stack.enter_context(Subscriber(*plan.broker, plan.topic))
        if options.broker is not None:
            stack.callback(subscriber.forget_robot)
        tally = Tally(shelf.truth)
        # A folder ends by itself; a camera or a video ends when enough was seen.
        limit = options.frames if shelf.frames is None and not options.forever else None
        totals = _drive(Robot(plan, folder), subscriber, tally, limit=limit, stop=stop)
        images = [entry for entry in store.objects() if not entry.key.endswith(".json")]
        summary = tally.summary(
            frames=_total(totals, "frames"),
            accepted=_total(totals, "accepted"),
            received=subscriber.received,
            uploaded=len(images),
        )
        return Report(summary, dict(tally.verdicts), stop.is_set())


def _drive(
    robot: Robot, subscriber: Subscriber, tally: Tally, *, limit: int | None, stop: threading.Event
) -> Mapping[str, Any]:
    """Let the robot drive to its end, and return the totals of its last words."""
    ear = _Ear(subscriber, tally)
    with LiveTable("bintally demo", _expected(robot.plan, limit)) as table, robot:
        while robot.is_running():
            ear.hear(table, _TICK_S)
            if stop.is_set() or (limit is not None and tally.visits >= limit):
                table.note("stopping the agent")
                robot.ask_to_stop()
                _wait_hearing(robot, ear, table)
        robot.check()
        deadline = time.monotonic() + _LAST_WORDS_S
        while not ear.is_complete(subscriber.received) and time.monotonic() < deadline:
            ear.hear(table, _TICK_S)
        table.note("done")
    if ear.totals is None:
        raise DeliveryError("the agent's last status message did not arrive", expected="a status with totals")
    return ear.totals


def _wait_hearing(robot: Robot, ear: _Ear, table: LiveTable) -> None:
    """Go on listening while the agent delivers what it has accepted."""
    waiting = threading.Thread(target=robot.wait, daemon=True)
    waiting.start()
    while waiting.is_alive():
        ear.hear(table, _TICK_S)


class _Ear:
    """Listens to the subscriber: counts go to the tally and the table, the newest totals are kept."""

    def __init__(self, subscriber: Subscriber, tally: Tally) -> None:
        self._subscriber, self._tally = subscriber, tally
        self.totals: Mapping[str, Any] | None = None
        self._ended = False

    def hear(self, table: LiveTable, timeout_s: float) -> None:
        message = self._subscriber.next(timeout_s)
        if message is None:
            return
        if message.name == "count":
            table.add(self._tally.add(message.content))
        elif message.name == "event":
            self._event(table, message.content)
        elif message.name in {"status", "telemetry"} and message.content.get("totals") is not None:
            self.totals = message.content["totals"]
            self._ended = message.content.get("state") == "offline"
        if message.name == "status":
            table.note(f"agent {message.content.get('state')}, engine {message.content.get('engine')}")

    def _event(self, table: LiveTable, content: Mapping[str, Any]) -> None:
        if content.get("severity") == "info":
            return
        table.warn(f"{content.get('event')} {content.get('subject')}: {content.get('problem')}")
        if content.get("event") in _NO_CAMERA and self._tally.visits == 0:
            # A robot would wait for its camera for ever; somebody who watches should not have to.
            raise CameraError(str(content.get("problem")))

    def is_complete(self, received: int) -> bool:
        return self._ended and self.totals is not None and received >= _total(self.totals, "accepted")


def _total(totals: Mapping[str, Any], name: str) -> int:
    try:
        return int(totals[name])
    except (KeyError, TypeError, ValueError) as exc:
        raise DeliveryError(f"the agent's last words have no number {name!r}", got=dict(totals)) from exc


def _plan(options: TourOptions, shelf: Shelf, store: EmbeddedStore, broker: tuple[str, int]) -> RobotPlan:
    return RobotPlan(
        name=f"tour-{secrets.token_hex(4)}",
        bundle=options.bundle.resolve(),
        shelf=shelf,
        broker=broker,
        bucket=store.bucket,
        endpoint_url=store.endpoint_url,
        pause_s=options.pause_s,
        repeat=options.forever,
    )


def _shelf(options: TourOptions, folder: Path) -> Shelf:
    if options.source is not None:
        return borrow_shelf(options.source, folder, None if options.forever else options.frames)
    frames = options.frames or DEFAULT_FRAMES
    with progress("Rendering bins", frames) as tick:
        return render_shelf(folder, frames=frames, seed=options.seed, tick=tick)


def _embedded(stack: ExitStack) -> tuple[str, int]:
    broker = stack.enter_context(EmbeddedBroker())
    return broker.host, broker.port


def _expected(plan: RobotPlan, limit: int | None) -> int | None:
    return None if plan.repeat else (plan.shelf.frames or limit)


def _require_bundle(path: Path) -> None:
    if not (path / "manifest.json").is_file():
        raise ConfigError(
            f"there is no bundle in {path}",
            expected="a folder with manifest.json",
            fix="Name one with --bundle PATH; demo/README.md says how the shipped one is made.",
        )
    load_bundle(path)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into an event, and the second into KeyboardInterrupt."""
    stop = threading.Event()
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: object) -> None:
        del number, frame
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in kept:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
