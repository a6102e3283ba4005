from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.capture.devices import find_device, plugged_in, stable_names

if TYPE_CHECKING:
    from pathlib import Path


def _udev(root: Path) -> None:
    """Two cameras as udev shows them; the first also has a second node, for its metadata."""
    for number in range(3):
        (root / f"video{number}").touch()
    for kind, name, number in (
        ("by-id", "usb-acme-video-index0", 0),
        ("by-id", "usb-acme-video-index1", 1),
        ("by-path", "pci-0-usb-1-video-index0", 0),
        ("by-path", "pci-0-usb-2-video-index0", 2),
    ):
        (root / kind).mkdir(exist_ok=True)
        (root / kind / name).symlink_to(root / f"video{number}")


def test_stable_names_by_id_comes_before_by_path(tmp_path: Path) -> None:
    _udev(tmp_path)
    names = stable_names(str(tmp_path / "video0"), tmp_path)
    assert names == (
        str(tmp_path / "by-id" / "usb-acme-video-index0"),
        str(tmp_path / "by-path" / "pci-0-usb-1-video-index0"),
    )


def test_stable_names_of_a_link_include_itself(tmp_path: Path) -> None:
    _udev(tmp_path)
    link = str(tmp_path / "by-path" / "pci-0-usb-2-video-index0")
    assert stable_names(link, tmp_path) == (link,)


def test_stable_names_of_what_is_not_there_are_none(tmp_path: Path) -> None:
    assert stable_names(str(tmp_path / "video9"), tmp_path) == ()


def test_find_device_follows_the_link_to_another_number(tmp_path: Path) -> None:
    _udev(tmp_path)
    source = str(tmp_path / "video0")
    names = stable_names(source, tmp_path)
    (tmp_path / "by-id" / "usb-acme-video-index0").unlink()
    (tmp_path / "by-path" / "pci-0-usb-1-video-index0").unlink()
    # Another camera may have the old number by now: it must not be opened.
    assert find_device(source, names) == names[0]
    (tmp_path / "by-path" / "pci-0-usb-1-video-index0").symlink_to(tmp_path / "video2")
    assert find_device(source, names) == str(tmp_path / "video2")


def test_find_device_without_names_is_the_source() -> None:
    assert find_device(3, ()) == 3


def test_plugged_in_lists_what_could_be_meant(tmp_path: Path) -> None:
    assert plugged_in(tmp_path) == "none"
    _udev(tmp_path)
    assert plugged_in(tmp_path).count("usb-acme") == 2
