from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bundle.engines.choose import open_engine
from bundle.engines.single_file import require_single_file
from bundle.errors import IntegrityError
from bundle.verify import load_bundle
from tests.simulators.bundle_factory import make_model, write_manifest

if TYPE_CHECKING:
    from pathlib import Path


def _external_tensor(location: str) -> TensorProto:
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[3, 7], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def _with_external_weight(location: str) -> bytes:
    model = onnx.load_model_from_string(make_model())
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "weight"]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, _external_tensor(location)])
    return bytes(model.SerializeToString())


def _with_external_constant_in_a_branch() -> bytes:
    """The tensor hides in an attribute of a node of a sub-graph."""
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 7])
    constant = helper.make_node("Constant", [], ["y"], value=_external_tensor("weights.bin"))
    branch = helper.make_graph([constant], "branch", [], [out])
    choice = helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)
    flag = numpy_helper.from_array(np.array(1, np.bool_), "flag")
    return bytes(helper.make_model(helper.make_graph([choice], "g", [], [out], [flag])).SerializeToString())


def test_require_single_file_self_contained_model_passes() -> None:
    require_single_file(make_model(), "model.onnx")


@pytest.mark.parametrize("location", ["../secret.bin", "weights.bin", "/etc/passwd"])
def test_require_single_file_external_weight_is_refused(location: str) -> None:
    with pytest.raises(IntegrityError, match="keeps weights outside the file"):
        require_single_file(_with_external_weight(location), "model.onnx")


def test_require_single_file_external_tensor_in_a_branch_is_refused() -> None:
    with pytest.raises(IntegrityError, match="keeps weights outside the file"):
        require_single_file(_with_external_constant_in_a_branch(), "model.onnx")


@pytest.mark.parametrize("kept", [0.3, 0.9], ids=["early", "late"])
def test_require_single_file_truncated_model_is_refused(kept: float) -> None:
    model = make_model()
    with pytest.raises(IntegrityError, match="no ONNX model"):
        require_single_file(model[: int(len(model) * kept)], "model.onnx")


def test_require_single_file_endless_number_is_refused() -> None:
    with pytest.raises(IntegrityError, match="more than 64 bits"):
        require_single_file(b"\xff" * 64, "model.onnx")


def test_open_engine_external_data_in_a_published_bundle_is_refused(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The publisher's hashes are right, and the file it points to is where runtimes would follow it."""
    (tmp_path / "weights.bin").write_bytes(np.ones(21, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    content = load_bundle(tiny_bundle).manifest.model_dump(mode="json")
    for entry in content["models"]:
        (tiny_bundle / entry["file"]).write_bytes(_with_external_weight("weights.bin"))
    write_manifest(tiny_bundle, content)
    with pytest.raises(IntegrityError, match="keeps weights outside the file"):
        open_engine(load_bundle(tiny_bundle))
