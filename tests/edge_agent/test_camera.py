from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.errors import CameraError
from bundle.images import read
from bundle.manifest import Preprocessing
from bundle.preprocess import resize
from edge_agent.capture.attempts import Attempts
from edge_agent.capture.camera import Camera
from edge_agent.capture.child import CaptureProcess, is_readable
from edge_agent.capture.devices import Device, stable_names
from edge_agent.capture.frames import (
    EndMessage,
    Frame,
    FrameMessage,
    FrameStats,
    Notice,
    RefusedMessage,
    decode_message,
    encode_message,
)
from edge_agent.capture.ring import FrameRing, RingShape
from edge_agent.config import CameraSection
from edge_agent.machine import slept_s
from tests.edge_agent.running import write_photos
from tests.edge_agent.test_sources import write_video
from tests.edge_agent.waiting import wait_until
from tests.simulators.camera import COMMAND, source_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_SPEC = Preprocessing(size_wh=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
_Item = Frame | Notice


@contextmanager
def camera_for(section: CameraSection, **options: object) -> Iterator[Camera]:
    camera = Camera(section, _SPEC, **options)  # type: ignore[arg-type]  # passed through
    try:
        yield camera
    finally:
        camera.close()


def items(camera: Camera) -> Iterator[_Item]:
    """Everything a camera says, frames released as soon as the next item is asked for."""
    while True:
        yield from camera.tick()
        if camera.connection is None:
            if camera.ended:
                return
            time.sleep(0.01)
        elif is_readable(camera.connection, 0.05):
            item = camera.receive()
            if isinstance(item, Frame):
                yield item
                camera.release(item)
            else:
                yield from item


def names(found: list[_Item]) -> list[str]:
    return [item.message.name if isinstance(item, Frame) else item.kind for item in found]


def first(camera: Camera, wanted: Callable[[_Item], bool], *, timeout_s: float = 60.0) -> _Item:
    deadline = time.monotonic() + timeout_s
    for item in items(camera):
        if wanted(item):
            if isinstance(item, Frame):
                camera.release(item)
            return item
        assert time.monotonic() < deadline, "what was waited for did not come"
    raise AssertionError("the source ended first")


def test_camera_folder_hands_over_every_photo_once_with_the_right_pixels(tmp_path: Path) -> None:
    write_photos(tmp_path, [0, 1, 2, 3, 4, 5])
    with camera_for(CameraSection(source=str(tmp_path))) as camera:
        seen = []
        for item in items(camera):
            if isinstance(item, Frame):
                image = read(tmp_path / item.message.name)
                assert np.array_equal(item.image_bgr, image)
                assert np.array_equal(item.network_bgr, resize(image, _SPEC))
                assert camera.encoded(item) == (tmp_path / item.message.name).read_bytes()
                seen.append(item.message.name)
            else:
                seen.append(item.kind)
    assert seen == [f"000{n}.jpg" for n in range(6)] + ["ended"]


def test_camera_folder_killed_process_continues_without_loss_or_repeat(tmp_path: Path) -> None:
    write_photos(tmp_path, [n % 6 for n in range(40)])
    with camera_for(CameraSection(source=str(tmp_path), restart_max_s=0.1)) as camera:
        seen, killed = [], 0
        for item in items(camera):
            seen.append(item)
            if isinstance(item, Frame) and item.message.index in (7, 20) and killed < 2:
                process = camera._capture.process
                assert process is not None
                process.kill()
                process.wait(5)
                killed += 1
    photos = [item.message.name for item in seen if isinstance(item, Frame)]
    assert photos == [f"{n:04d}.jpg" for n in range(40)]
    assert names(seen).count("lost") == 2


_GREEDY = """
import sys, threading, time
import numpy as np
from edge_agent.capture import process
from edge_agent.capture.sources import Picture

class Greedy:
    live = False
    wanted_s = 0.0

    def read(self, start, mark):
        for index in range(start, 10):
            mark(index)
            if index == 6:
                kept = np.ones(256 << 20, np.uint8)
                threading.Event().wait()
            yield Picture(index, str(index), np.full((8, 8, 3), index, np.uint8), b"", time.time(), time.monotonic())

process.run(sys.argv[1:], lambda _: Greedy())
"""


def test_camera_picture_over_the_memory_limit_is_refused_alone_and_what_was_read_before_it_is_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path, [0])
    section = CameraSection(source=str(tmp_path), restart_max_s=0.1, max_memory_bytes=192 << 20)
    with camera_for(section, command=(sys.executable, "-c", _GREEDY)) as camera:
        capture, tick = camera._capture, camera.tick

        def late() -> list[Notice]:
            """Look only when two pictures wait unread and the third has taken its memory."""
            if capture.process is not None and camera._attempts.next_index in range(4, 7):
                process = capture.process
                wait_until(lambda: capture.memory_bytes > 192 << 20 or process.poll() is not None, what="its memory")
                camera._weigh_at_s = 0.0
            return tick()

        monkeypatch.setattr(camera, "tick", late)
        found = list(items(camera))
    assert names(found) == ["0", "1", "2", "3", "4", "5", "lost", "refused", "7", "8", "9", "ended"]
    (refused,) = (item for item in found if isinstance(item, Notice) and item.kind == "refused")
    assert refused.subject.startswith("picture 6 ")
    assert "MiB of memory twice" in refused.problem


def test_attempts_picture_before_which_others_were_not_handed_over_is_not_left_out() -> None:
    attempts = Attempts()
    attempts.arrived(3)
    assert [attempts.lost(6, heard=True) for _ in range(2)] == ["again", "again"]
    assert attempts.next_index == 4
    attempts.arrived(5)
    assert [attempts.lost(6, heard=True) for _ in range(2)] == ["again", "poisoned"]
    assert attempts.next_index == 7


def test_capture_process_that_died_with_slots_unread_has_its_messages_read() -> None:
    capture = CaptureProcess((), "c")
    sent: list[RefusedMessage | EndMessage] = [RefusedMessage(0, "a", "b"), EndMessage()]
    capture.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        for message in sent:
            theirs.send(encode_message(message))
        capture.give(0)
    assert [capture.receive() for _ in range(3)] == [*sent, None]
    capture.stop()


def test_camera_whose_process_does_not_die_starts_no_other_before_it_is_gone(
    control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (sys.executable, "-c", "import time; time.sleep(600)")
    with camera_for(_live(control, open_timeout_s=0.5), command=command) as camera:
        camera.tick()
        stuck = camera._capture.process
        assert stuck is not None
        with monkeypatch.context() as patch:  # as in a driver that never returns, where SIGKILL waits
            patch.setattr(subprocess.Popen, "kill", lambda _: None)
            for words in ("no frame within", "the process before does not die", "the process before does not die"):
                lost = first(camera, lambda item: isinstance(item, Notice))
                assert isinstance(lost, Notice)
                assert (lost.kind, words in lost.problem) == ("lost", True)
                assert camera._capture.process is None
        stuck.kill()
        first(camera, lambda item: isinstance(item, Notice) and "no frame within" in item.problem)


def test_camera_whose_frame_was_held_for_long_is_not_taken_for_stalled(control: Path) -> None:
    now_s = [0.0]
    with camera_for(_live(control, stall_s=0.5), command=COMMAND, clock=lambda: now_s[0]) as camera:
        camera.tick()
        assert camera.connection is not None
        assert is_readable(camera.connection, 60)
        frame = camera.receive()
        assert isinstance(frame, Frame)
        process = camera._capture.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)  # it has not come to fill the slot yet
        now_s[0] = 60.0
        camera.release(frame)
        assert camera.tick() == []


def test_camera_empty_folder_fails_for_good(tmp_path: Path) -> None:
    with camera_for(CameraSection(source=str(tmp_path))) as camera:
        (notice,) = list(items(camera))
        assert isinstance(notice, Notice)
        assert notice.kind == "failed"
        assert "holds no photos" in notice.problem


def test_camera_video_ends(tmp_path: Path) -> None:
    with camera_for(CameraSection(source=str(write_video(tmp_path / "v.avi", 5)))) as camera:
        assert names(list(items(camera))) == [f"frame-{n:06d}" for n in range(5)] + ["ended"]


@pytest.fixture
def control(tmp_path: Path) -> Path:
    file = tmp_path / "control"
    file.write_text("1", encoding="utf-8")
    return file


def _live(control: Path, **settings: object) -> CameraSection:
    return CameraSection.model_validate({"source": source_for(control), "restart_max_s": 0.1, **settings})


def test_camera_live_slow_reader_gets_the_newest_and_drops_are_counted(control: Path) -> None:
    with camera_for(_live(control), command=COMMAND) as camera:
        frames: list[FrameMessage] = []
        for item in items(camera):
            if isinstance(item, Frame):
                frames.append(item.message)
                time.sleep(0.1)  # a slow reader is what this test is about
            if len(frames) >= 5 and frames[-1].dropped:
                break
        indices = [frame.index for frame in frames]
        assert indices == sorted(set(indices))
        assert indices[-1] - indices[0] == len(frames) - 1 + frames[-1].dropped - frames[0].dropped
        assert camera.dropped == frames[-1].dropped


@pytest.mark.parametrize("order", ["stall", "die", "close", "resize"])
def test_camera_live_lost_is_noticed_and_comes_back(control: Path, order: str) -> None:
    with camera_for(_live(control, stall_s=0.5), command=COMMAND) as camera:
        first(camera, lambda item: isinstance(item, Frame))
        control.write_text(order, encoding="utf-8")
        lost = first(camera, lambda item: isinstance(item, Notice) and item.kind == "lost")
        assert isinstance(lost, Notice)
        assert {"stall": "no frame for", "die": "died", "close": "unplugged", "resize": "80x60"}[order] in lost.problem
        control.write_text("2", encoding="utf-8")
        first(camera, lambda item: isinstance(item, Frame))
        assert [notice.kind for notice in camera.came_back()] == ["back"]


def test_camera_device_is_found_again_under_another_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = tmp_path / "by-id"
    links.mkdir()
    for number in (0, 2):
        (tmp_path / f"video{number}").touch()
    (links / "usb-a").symlink_to(tmp_path / "video0")
    monkeypatch.setattr("edge_agent.capture.devices.stable_names", lambda source: stable_names(source, tmp_path))
    monkeypatch.setattr("edge_agent.capture.devices.is_local", lambda _: True)
    device = Device(str(tmp_path / "video0"))
    assert device.now() == str(tmp_path / "video0")
    (links / "usb-a").unlink()
    (tmp_path / "video0").unlink()
    assert device.now() == str(links / "usb-a")
    (links / "usb-a").symlink_to(tmp_path / "video2")
    assert device.now() == str(tmp_path / "video2")


def test_camera_that_never_opens_is_lost_again_and_again(control: Path) -> None:
    control.write_text("stall", encoding="utf-8")
    with camera_for(_live(control, open_timeout_s=0.5), command=COMMAND) as camera:
        for _ in range(2):
            lost = first(camera, lambda item: isinstance(item, Notice))
            assert isinstance(lost, Notice)
            assert "no frame within" in lost.problem


def test_camera_source_does_not_stand_on_the_command_line(control: Path) -> None:
    with camera_for(_live(control), command=COMMAND) as camera:
        camera.tick()
        assert camera._capture.process is not None
        assert source_for(control) not in str(camera._capture.process.args)


def test_camera_process_ends_with_its_agent(control: Path) -> None:
    control.write_text("stall", encoding="utf-8")  # hangs in read(), as a dead camera does
    with camera_for(_live(control, open_timeout_s=60), command=COMMAND) as camera:
        camera.tick()
        process, connection = camera._capture.process, camera.connection
        assert process is not None
        assert connection is not None
        connection.close()  # what the kernel does when the agent is killed
        camera._capture.connection = None
        wait_until(lambda: process.poll() is not None, what="the end of the capture process")


def test_ring_refuses_a_picture_above_its_size() -> None:
    ring = FrameRing.create(RingShape(1, 100, (2, 2), 10))
    small = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(CameraError, match="max_pixels"):
        ring.write(0, np.zeros((11, 10, 3), np.uint8), small, b"")
    with pytest.raises(CameraError, match="max_pixels"):
        ring.write(0, small, small, b"x" * 11)
    ring.close()


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"kind": "frame"}', b'{"kind": "x"}', b"\xff", b"F", b"Fshort"])
def test_decode_message_garbage_is_a_camera_error(data: bytes) -> None:
    with pytest.raises(CameraError):
        decode_message(data)


def test_camera_of_a_machine_that_was_suspended_has_jumped_once(control: Path) -> None:
    # The frames lie 0.1 s apart by the monotonic clock, which stands still over a suspend.
    slept = [0.0, 5.0, 5.0, 5.5, 3600.0, 3600.0]
    frames = [
        FrameMessage(0, n, f"frame-{n}", 4, 4, 0, 0.0, 100 + n / 10, None, 0, FrameStats(0, 0, 0, 0), slept_s=slept_s)
        for n, slept_s in enumerate(slept)
    ]
    jumped = []
    with camera_for(_live(control), command=COMMAND) as camera:
        for frame in frames:
            message = decode_message(encode_message(frame))
            assert isinstance(message, FrameMessage)
            camera._accept(message)
            jumped.append(camera.jumped)
    assert jumped[1:] == [True, False, False, True, False]


def test_camera_frames_say_how_long_the_machine_was_suspended(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with camera_for(_live(control), command=COMMAND) as camera:
        frame = first(camera, lambda item: isinstance(item, Frame))
    assert isinstance(frame, Frame)
    assert abs(frame.message.slept_s - slept_s()) < 1.0
    clocks = {time.CLOCK_BOOTTIME: 160.0, time.CLOCK_MONOTONIC: 100.0}
    assert slept_s(lambda clock: clocks[clock]) == 60.0
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert slept_s() == 0.0
