from __future__ import annotations

import importlib.util
from typing import cast

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from bundle.engines.ort import OrtEngine
from bundle.errors import EngineError
from bundle.manifest import ModelEntry, Preprocessing
from export import to_onnx
from export.to_onnx import ROUTES, Target, export_onnx, infer_torch
from train.heads import CornHead
from train.mean import Mirrored

_SPEC = Preprocessing(size_wh=(24, 16))
_DYNAMO = pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None, reason="onnxscript is not installed, the newer exporter needs it"
)


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).eval()


def _computes_the_same(network: nn.Module, frames: int) -> onnx.ModelProto:
    data = export_onnx(network, _SPEC)
    pictures = np.random.default_rng(0).normal(size=(frames, 3, 16, 24)).astype(np.float32)
    entry = ModelEntry(role="reference", file="m.onnx", precision="fp32", opset=17)
    with OrtEngine(data, entry, _SPEC, classes=3) as engine:
        np.testing.assert_allclose(engine.infer(pictures), infer_torch(network, pictures), atol=1e-5)
    model: onnx.ModelProto = onnx.load_model_from_string(data)
    return model


@pytest.mark.parametrize("frames", [1, 3])
def test_export_onnx_mirrored_network_holds_every_layer_once(frames: int) -> None:
    network = _network()
    model = _computes_the_same(Mirrored(network), frames)
    assert [node.op_type for node in model.graph.node].count("Conv") == 1
    pictures = np.random.default_rng(0).normal(size=(2, 3, 16, 24)).astype(np.float32)
    both = [infer_torch(network, pictures), infer_torch(network, np.ascontiguousarray(pictures[..., ::-1]))]
    np.testing.assert_allclose(infer_torch(Mirrored(network), pictures), np.mean(both, axis=0), atol=1e-5)


def test_export_onnx_corn_head_leaves_int8_one_product_to_quantise() -> None:
    network = _network()
    network[-1] = CornHead(nn.Linear(8, 3), torch.tensor([1.0, 1.0, 0.0]))
    model = _computes_the_same(network.eval(), 3)
    assert [node.op_type for node in model.graph.node if node.op_type in ("Gemm", "MatMul")] == ["Gemm"]


@pytest.mark.parametrize(
    "target", [pytest.param(target, marks=_DYNAMO if ROUTES[target].exporter == "dynamo" else ()) for target in ROUTES]
)
def test_export_onnx_every_target_has_its_operator_set_and_computes_the_same(target: Target) -> None:
    network = _network()
    data = export_onnx(network, _SPEC, target=target)
    model = onnx.load_model_from_string(data)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": ROUTES[target].opset}
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 3, 16, 24]
    frames = np.random.default_rng(0).normal(size=(3, 3, 16, 24)).astype(np.float32)
    entry = ModelEntry(role="reference", file="m.onnx", precision="fp32", opset=ROUTES[target].opset)
    with OrtEngine(data, entry, _SPEC, classes=3) as engine:
        np.testing.assert_allclose(engine.infer(frames), infer_torch(network, frames), atol=1e-5)


def test_export_onnx_tensorrt_8_reads_no_newer_set_than_17() -> None:
    assert ROUTES["tensorrt-8"].opset <= 17
    assert ROUTES["any"] == ROUTES["tensorrt-8"]


def test_export_onnx_exporter_that_keeps_its_own_operator_set_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch's newer exporter does when it is asked for 17: it writes 18 and returns."""
    route = to_onnx.Route("legacy", 16)
    written = to_onnx._write_legacy
    monkeypatch.setitem(cast("dict[str, to_onnx.Route]", ROUTES), "any", route)
    monkeypatch.setattr(to_onnx, "_write_legacy", lambda model, example, file, _: written(model, example, file, 17))
    with pytest.raises(EngineError, match=r"another operator set: got \{'': 17\}, expected \{'': 16\}"):
        export_onnx(_network(), _SPEC)
