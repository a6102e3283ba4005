"""From the count of a visit to what the outbox stores: the bin's name, the verdict, the message, the entry. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from bundle.verdict import judge_record
from edge_agent.delivery.uploads import image_key
from edge_agent.messages import CountMessage, IntervalField, SidecarMessage, utc
from edge_agent.outbox.rows import Entry, ImageEntry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bundle.counter import Count, Counter
    from bundle.interval import Interval
    from bundle.verdict import VerdictWord
    from edge_agent.capture.frames import FrameMessage
    from edge_agent.messages import Topics
    from edge_agent.outbox.quota import Spent
    from edge_agent.visits.decide import UploadReason
    from edge_agent.visits.view import Seen, View

_MAX_BIN_ID = 255


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a count is marked with.

    Attributes:
        event_id: For the consumer, to drop repeats.
        robot: Name of the robot.
        now_mono_s: Monotonic time, for the latency.
        clock_synchronised: Whether the wall clock can be believed; None when nobody knows.
    """

    event_id: str
    robot: str
    now_mono_s: float
    clock_synchronised: bool | None


def name_bin(view: View, seen: Seen, first: FrameMessage) -> str:
    """Name the bin that a visit looked at.

    Args:
        view: Of the camera.
        seen: The visit.
        first: Its first usable frame.

    Returns:
        What the visit was asked for, or what the camera's template makes of the picture and its label.
    """
    if seen.request is not None:
        return seen.request.bin_id
    bin_id = view.template.format(
        stem=PurePath(first.name).stem,
        camera=view.settings.name,
        visit=seen.number,
        marker=seen.marker,
    )[:_MAX_BIN_ID]
    return bin_id or view.settings.name


def _flags(view: View, seen: Seen) -> tuple[str, ...]:
    """What is to be said of a visit; without its label nobody knows which bin it was."""
    nameless = seen.request is None and not seen.marker and "{marker" in view.template
    return tuple(sorted(seen.flags | ({"unlabelled"} if nameless else set())))


def count_message(  # noqa: PLR0913 - everything that a count says comes together here
    view: View,
    seen: Seen,
    first: FrameMessage,
    *,
    counter: Counter,
    count: Count,
    records: Mapping[str, int],
    stamp: Stamp,
) -> CountMessage:
    """Write the message of a count.

    Args:
        view: Of the camera.
        seen: The visit.
        first: Its first usable frame.
        counter: What it was counted with.
        count: Of the visit.
        records: Expected quantity per bin.
        stamp: What it is marked with.

    Returns:
        The message, not yet late and without an image.
    """
    bin_id, request = name_bin(view, seen, first), seen.request
    record = records.get(bin_id) if request is None or request.record is None else request.record
    return CountMessage(
        event_id=stamp.event_id,
        robot=stamp.robot,
        camera=view.settings.name,
        bin_id=bin_id,
        count=count.count,
        at_least=count.at_least,
        label=count.label,
        confidence=round(count.confidence, 6),
        confident=count.confident,
        posterior=tuple(round(share, 6) for share in count.posterior),
        interval=_interval_field(count.interval),
        verdict=_verdict(counter, count, record),
        record=record,
        frames=len(seen.posteriors),
        flags=_flags(view, seen),
        bundle=counter.bundle.label,
        captured_at=utc(first.captured_s),
        latency_ms=round(max(0.0, stamp.now_mono_s - first.captured_mono_s) * 1e3, 3),
        is_historical=False,
        clock_synchronised=stamp.clock_synchronised,
        image_key=None,
    )


def _interval_field(interval: Interval | None) -> IntervalField | None:
    if interval is None:
        return None
    return IntervalField(low=interval.low, high=interval.high, at_least=interval.at_least, coverage=interval.coverage)


def _verdict(counter: Counter, count: Count, record: int | None) -> VerdictWord | None:
    if record is None:
        return None
    calibration = counter.bundle.manifest.calibration
    return judge_record(np.asarray(count.posterior), counter.classes, record, calibration).word


def count_entry(
    message: CountMessage, topics: Topics, captured_mono_s: float, image: ImageEntry | None = None
) -> Entry:
    """Hand a message over to the outbox.

    Args:
        message: From `count_message`, or `with_image`.
        topics: Of the robot.
        captured_mono_s: Monotonic time of its first frame.
        image: Stored with it.

    Returns:
        The entry.
    """
    return Entry(
        event_id=message.event_id,
        kind="count",
        topic=topics.count,
        payload=message.to_bytes(),
        retained_topic=topics.bin(message.bin_id),
        image=image,
        captured_mono_s=captured_mono_s,
    )


def with_image(
    message: CountMessage, prefix: str, why: UploadReason, image: bytes, spent: Spent
) -> tuple[CountMessage, ImageEntry]:
    """Join a picture to a message.

    Args:
        message: Without an image.
        prefix: Of object keys.
        why: What the picture is for.
        image: The image file.
        spent: What it takes from the quotas.

    Returns:
        The message that names the picture, and the picture with what is stored beside it.
    """
    key = image_key(prefix, image)
    message = message.model_copy(update={"image_key": key})
    sidecar = SidecarMessage(image_key=key, sha256=PurePath(key).stem, bytes=len(image), why=why, count=message)
    return message, ImageEntry(key, image, sidecar.to_bytes(), spent)
