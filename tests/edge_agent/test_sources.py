from __future__ import annotations

import os
import struct
import zlib
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from bundle.camera import CameraProfile
from bundle.errors import InputError
from bundle.images import encode_jpeg
from edge_agent.capture.order import CaptureOrder, open_source
from edge_agent.capture.sources import (
    FolderSource,
    Picture,
    Unusable,
    VideoSource,
    check_video,
    photo_names,
    source_kind,
)
from tests.edge_agent.running import write_photos
from tests.simulators.bundle_factory import grey

if TYPE_CHECKING:
    from pathlib import Path


def _mark(_: int) -> None:
    """Nobody wants to know."""


def huge_png(side: int = 30_000) -> bytes:
    """A valid PNG of side x side pixels that is about a hundred kilobytes long."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def write_video(file: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(frames):
        writer.write(grey(number % 6))
    writer.release()
    return file


def test_source_kind_tells_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.avi").write_bytes(b"")
    assert source_kind(str(tmp_path)) == "folder"
    assert source_kind(str(tmp_path / "a.avi")) == "video"
    assert source_kind(0) == source_kind("/dev/video9") == source_kind("rtsp://host/x") == "camera"
    with pytest.raises(InputError, match="does not exist"):
        source_kind(str(tmp_path / "none"))


def test_photo_names_are_sorted_strings_of_photos_alone(tmp_path: Path) -> None:
    for name in ("10.jpg", "9.JPG", "1044.png", "01044.jpeg", "notes.txt", "x.json"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    assert photo_names(tmp_path) == ["01044.jpeg", "10.jpg", "1044.png", "9.JPG"]


def test_photo_names_leave_out_what_is_no_file_and_follow_links(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "itself.jpg").symlink_to("itself.jpg")
    (tmp_path / "nowhere.jpg").symlink_to("gone")
    assert photo_names(tmp_path) == ["a.jpg", "b.jpg"]


def test_photo_names_of_an_empty_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no photos"):
        photo_names(tmp_path)


def test_folder_source_bad_photos_are_named_and_the_others_read(tmp_path: Path) -> None:
    write_photos(tmp_path, [1, 2])
    whole = encode_jpeg(grey(3))
    (tmp_path / "0000a.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "0000b.jpg").write_text("this is no photo", encoding="utf-8")
    (tmp_path / "0000c.png").write_bytes(huge_png())
    (tmp_path / "0000d.jpg").write_bytes(b"")
    items = list(FolderSource(tmp_path, max_pixels=1_000_000).read(0, _mark))
    assert [item.name for item in items] == [
        "0000.jpg",
        "0000a.jpg",
        "0000b.jpg",
        "0000c.png",
        "0000d.jpg",
        "0001.jpg",
    ]
    problems = [item.problem for item in items if isinstance(item, Unusable)]
    assert ["truncated" in problems[0], "not a photo" in problems[1], "too large" in problems[2]] == [True] * 3
    good = [item for item in items if isinstance(item, Picture)]
    assert [picture.index for picture in good] == [0, 5]
    assert good[0].encoded == (tmp_path / "0000.jpg").read_bytes()


def test_folder_source_name_that_is_no_utf8_can_be_sent(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"bin-\xff.jpg")).write_bytes(encode_jpeg(grey(1)))
    (item,) = FolderSource(tmp_path, max_pixels=10_000).read(0, _mark)
    assert item.name == "bin-\ufffd.jpg"
    item.name.encode()


def test_folder_source_repeat_names_a_bad_photo_once_and_ends_without_a_good_one(tmp_path: Path) -> None:
    write_photos(tmp_path, [1])
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    reader = FolderSource(tmp_path, max_pixels=10_000, repeat=True).read(0, _mark)
    assert [next(reader).name for _ in range(4)] == ["0000.jpg", "bad.jpg", "0000.jpg", "0000.jpg"]
    (tmp_path / "0000.jpg").unlink()
    assert isinstance(next(reader), Unusable)
    with pytest.raises(InputError, match="no usable photo"):
        next(reader)


def test_folder_source_photo_that_does_not_fit_the_profile_is_named_and_the_others_read(tmp_path: Path) -> None:
    write_photos(tmp_path, [1, 2])
    (tmp_path / "0000a.jpg").write_bytes(encode_jpeg(np.zeros((60, 80, 3), np.uint8)))
    profile = CameraProfile(camera="camera", created=datetime(2026, 3, 4, tzinfo=timezone.utc), frame_wh=(64, 48))
    order = CaptureOrder(
        source=str(tmp_path),
        start=0,
        slots=1,
        max_pixels=10_000,
        preprocessing={},
        profile=profile.model_dump(mode="json"),
    )
    items = list(open_source(order).read(0, _mark))
    assert [item.name for item in items] == ["0000.jpg", "0000a.jpg", "0001.jpg"]
    (refused,) = [item for item in items if isinstance(item, Unusable)]
    assert "80x60" in refused.problem


def test_folder_source_starts_where_it_is_told_and_repeats(tmp_path: Path) -> None:
    write_photos(tmp_path, [0, 1, 2])
    marks: list[int] = []
    reader = FolderSource(tmp_path, max_pixels=10_000, repeat=True).read(2, marks.append)
    assert [next(reader).name for _ in range(3)] == ["0002.jpg", "0000.jpg", "0001.jpg"]
    assert marks == [2, 3, 4]


def test_video_source_reads_every_frame_with_its_time(tmp_path: Path) -> None:
    video = VideoSource(write_video(tmp_path / "v.avi", 12))
    items = [item for item in video.read(0, _mark) if isinstance(item, Picture)]
    assert [item.index for item in items] == list(range(12))
    assert items[5].position_s == pytest.approx(0.5, abs=0.11)
    assert [item.index for item in video.read(9, _mark)] == [9, 10, 11]


def test_video_source_that_is_no_video_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"not a video")
    with pytest.raises(InputError, match="no readable frame"):
        list(VideoSource(tmp_path / "v.mp4").read(0, _mark))


def test_video_source_that_breaks_off_says_so_once(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "v.avi", 40).read_bytes()
    file = tmp_path / "cut.avi"
    file.write_bytes(whole[: len(whole) // 2])
    *frames, last = VideoSource(file).read(0, _mark)
    assert all(isinstance(frame, Picture) for frame in frames)
    assert isinstance(last, Unusable)
    assert f"breaks off after {len(frames)} of about 40 frames" in last.problem
    again = VideoSource(file, repeat=True).read(0, _mark)
    passes = [next(again) for _ in range(3 * len(frames))]
    assert sum(isinstance(item, Unusable) for item in passes) == 1
    assert [item.index for item in passes] == list(range(len(passes)))
    resumed = VideoSource(file, repeat=True).read(len(frames) + 5, _mark)
    assert next(resumed).index == len(frames) + 5


@pytest.mark.parametrize(("name", "data"), [("notes.txt", b"shelf 4 is empty\n" * 50), ("v.mp4", b"not a video")])
def test_check_video_that_cannot_be_played_is_an_input_error(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match="no readable frame"):
        check_video(tmp_path / name)
    check_video(write_video(tmp_path / "good.avi", 2))
