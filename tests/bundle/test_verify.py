from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bundle.errors import IntegrityError, ManifestError
from bundle.verify import load_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((bundle / "manifest.json").read_text())
    change(content)
    (bundle / "manifest.json").write_text(json.dumps(content))


def test_load_bundle_whole_gives_classes_and_bytes(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    assert bundle.manifest.count_classes[-1] == "6+"
    assert bundle.read("card.md") == b"# A test bundle\n"
    assert bundle.label.startswith("tiny-1.0.0+")


def test_load_bundle_any_flipped_bit_is_refused_by_file_name(tiny_bundle: Path) -> None:
    rng = np.random.default_rng(3)
    model = tiny_bundle / "model.cpu.onnx"
    original = model.read_bytes()
    for _ in range(100):
        data = bytearray(original)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        model.write_bytes(data)
        with pytest.raises(IntegrityError, match=r"model\.cpu\.onnx is not the published file"):
            load_bundle(tiny_bundle)


def test_load_bundle_truncated_file_is_refused(tiny_bundle: Path) -> None:
    golden = tiny_bundle / "golden.npz"
    golden.write_bytes(golden.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="bytes"):
        load_bundle(tiny_bundle)


def test_load_bundle_missing_file_is_named(tiny_bundle: Path) -> None:
    (tiny_bundle / "golden.npz").unlink()
    with pytest.raises(IntegrityError, match=r"golden\.npz is missing"):
        load_bundle(tiny_bundle)


def test_load_bundle_unlisted_file_is_refused(tiny_bundle: Path) -> None:
    (tiny_bundle / "model.onnx.data").write_bytes(b"external weights")
    with pytest.raises(IntegrityError, match=r"model\.onnx\.data"):
        load_bundle(tiny_bundle)


def test_load_bundle_link_instead_of_file_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    card = tiny_bundle / "card.md"
    elsewhere = tmp_path / "card.md"
    card.rename(elsewhere)
    card.symlink_to(elsewhere)
    with pytest.raises(IntegrityError, match=r"card\.md"):
        load_bundle(tiny_bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format_version=2), "expected 1"),
        (lambda c: c.update(colour="blue"), "colour"),
        (lambda c: c.pop("models"), "models"),
        (lambda c: c.update(count_classes=["0", "2"]), "consecutive"),
        (lambda c: c["files"].update({"../escape": c["files"]["card.md"]}), "escape"),
        (lambda c: c["calibration"].update(threshold=1.5), "threshold"),
        (lambda c: c["models"].pop(0), "reference"),
        (lambda c: c.update(minimum_agent="99.0.0"), "needs a newer bintally"),
    ],
    ids=["version", "unknown key", "no models", "classes", "path", "threshold", "no reference", "minimum agent"],
)
def test_load_bundle_wrong_manifest_names_the_key(
    tiny_bundle: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    _edit(tiny_bundle, change)
    with pytest.raises(ManifestError, match=message):
        load_bundle(tiny_bundle)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "list", "binary", "deep"]
)
def test_load_bundle_manifest_that_is_no_json_is_refused(tiny_bundle: Path, data: bytes) -> None:
    (tiny_bundle / "manifest.json").write_bytes(data)
    with pytest.raises(ManifestError, match="is not a manifest"):
        load_bundle(tiny_bundle)


def test_load_bundle_folder_without_manifest_says_so(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is not a bundle"):
        load_bundle(tmp_path)


def test_read_after_verification_notices_a_later_change(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    model = tiny_bundle / "model.cpu.onnx"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    with pytest.raises(IntegrityError):
        bundle.read("model.cpu.onnx")
