"""What golden.npz may hold: a file that proves nothing must not open the gate."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from bundle.cli import bundle as bundle_command
from bundle.engines.choose import open_engine
from bundle.engines.cli import engine as engine_command
from bundle.engines.ort import OrtEngine
from bundle.errors import EngineError, IntegrityError
from bundle.golden import GOLDEN_NAME, Golden, check_golden, read_golden
from bundle.verify import load_bundle
from tests.simulators.bundle_factory import write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.engines.ort import Device

    Change = Callable[[dict[str, NDArray[Any]]], object]


def _rewrite(folder: Path, change: Change) -> None:
    """Change golden.npz and hash it anew, as a publisher with a wrong exporter would."""
    with np.load(folder / GOLDEN_NAME) as found:
        arrays = dict(found)
    change(arrays)
    np.savez(folder / GOLDEN_NAME, **arrays)
    _sign(folder)


def _sign(folder: Path) -> None:
    write_manifest(folder, json.loads((folder / "manifest.json").read_text()))


def _logits(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Change:
    return lambda arrays: arrays.update(logits_cpu=change(arrays["logits_cpu"]))


def _tolerance(value: object, dtype: type = np.float32) -> Change:
    return lambda arrays: arrays.update(tolerance_cpu=np.array(value, dtype))


def _frames(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Change:
    return lambda arrays: arrays.update(frames=change(arrays["frames"]))


_NAN_LOGITS = _logits(lambda found: np.full_like(found, np.nan))
_FLAWS: dict[str, tuple[Change, str]] = {
    "nan logits": (_NAN_LOGITS, "28 logits that are not finite"),
    "one infinite logit": (_logits(lambda found: np.where(found == found.max(), np.inf, found)), "not finite"),
    "nan tolerance": (_tolerance(np.nan), "a tolerance of nan"),
    "infinite tolerance": (_tolerance(np.inf), "a tolerance of inf"),
    "no tolerance": (_tolerance(0), "a tolerance of 0"),
    "negative tolerance": (_tolerance(-1), "a tolerance of -1"),
    "two tolerances": (_tolerance([0.01, 0.01]), "a tolerance of"),
    "integer tolerance": (_tolerance(1, np.int64), "a tolerance of 1"),
    "3 of 4 rows": (_logits(lambda found: found[:3]), r"logits float32 \(3, 7\)"),
    "other classes": (_logits(lambda found: found[:, :6]), r"logits float32 \(4, 6\)"),
    "one row for all": (_logits(lambda found: found[:1]), r"logits float32 \(1, 7\)"),
    "logits as text": (_logits(lambda found: found.astype(str)), "logits <U"),
    "no frames": (lambda arrays: arrays.update(frames=arrays["frames"][:0], logits_cpu=arrays["logits_cpu"][:0]), "0,"),
    "frames in float": (_frames(lambda found: found.astype(np.float32)), "frames float32"),
    "grey frames": (_frames(lambda found: found[..., :1]), "frames uint8"),
    "one frame without N": (_frames(lambda found: found[0]), "frames uint8"),
}


@pytest.mark.parametrize(("change", "message"), _FLAWS.values(), ids=_FLAWS)
def test_golden_arrays_that_prove_nothing_are_refused(tiny_bundle: Path, change: Change, message: str) -> None:
    _rewrite(tiny_bundle, change)
    with pytest.raises(IntegrityError, match=message):
        open_engine(load_bundle(tiny_bundle), engine="onnxruntime")
    with pytest.raises(IntegrityError, match=message):
        open_engine(load_bundle(tiny_bundle))


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"text", _npy()], ids=["empty", "cut", "text", "npy"])
def test_golden_file_that_is_no_npz_is_refused(tiny_bundle: Path, content: bytes) -> None:
    (tiny_bundle / GOLDEN_NAME).write_bytes(content)
    _sign(tiny_bundle)
    with pytest.raises(IntegrityError, match=r"golden\.npz"):
        read_golden(load_bundle(tiny_bundle), "cpu")


def test_golden_file_with_flipped_bits_is_read_or_refused(tiny_bundle: Path) -> None:
    rng = np.random.default_rng(5)
    whole = (tiny_bundle / GOLDEN_NAME).read_bytes()
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        (tiny_bundle / GOLDEN_NAME).write_bytes(data)
        _sign(tiny_bundle)
        try:
            read_golden(load_bundle(tiny_bundle), "cpu")
        except IntegrityError:
            refused += 1
    assert refused > 20


def test_check_golden_difference_that_is_no_number_is_refused(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison itself refuses too, whatever was read."""
    bundle = load_bundle(tiny_bundle)
    found = read_golden(bundle, "cpu")
    entry = bundle.manifest.model("cpu")
    assert entry is not None
    monkeypatch.setattr("bundle.golden.read_golden", lambda *_: Golden(found.frames, found.logits * np.nan, 0.01))
    with (
        OrtEngine(bundle.read(entry.file), entry, bundle.manifest.preprocessing, classes=7) as engine,
        pytest.raises(EngineError, match="misses the golden frames"),
    ):
        check_golden(bundle, engine)


def test_commands_refuse_nan_and_print_none(tiny_bundle: Path) -> None:
    _rewrite(tiny_bundle, _NAN_LOGITS)
    verified = CliRunner().invoke(bundle_command, ["verify", str(tiny_bundle), "--json"])
    assert isinstance(verified.exception, IntegrityError)
    measured = CliRunner().invoke(
        engine_command, ["bench", str(tiny_bundle), "--engine", "onnxruntime", "--seconds", "0.1", "--json"]
    )
    assert measured.exit_code != 0
    assert "NaN" not in measured.stdout
    assert "not finite" in json.loads(measured.stdout)["engines"][0]["error"]


@pytest.mark.parametrize(("device", "role", "slack"), [("tensorrt", "tensorrt", 1.0), ("cuda", "reference", 20.0)])
def test_ort_engine_on_a_device_gets_slack_for_float_files_alone(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, device: Device, role: str, slack: float
) -> None:
    bundle = load_bundle(tiny_bundle)
    entry = bundle.manifest.models[0].model_copy(update={"role": role})
    from bundle.engines import ort

    real = ort._open_session
    monkeypatch.setattr(ort, "_open_session", lambda model, file, threads, _: real(model, file, threads, "cpu"))
    with OrtEngine(bundle.read(entry.file), entry, bundle.manifest.preprocessing, classes=7, device=device) as engine:
        assert engine.golden_slack == slack
