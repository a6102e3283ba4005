# ruff: noqa: TID253 - this file owns torch.onnx
"""A torch network to one ONNX file, and the proof that the file computes the same.

The exporter that torch calls legacy is used on purpose: it writes operator set 17, which TensorRT 8.6 still reads,
while the newer exporter cannot go below 18 and says so only in a log. What was written is read back and checked.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch

from bundle.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from bundle.manifest import Preprocessing

OPSET = 17
INPUT, OUTPUT, BATCH = "image", "logits", "batch"


def export_onnx(model: nn.Module, preprocessing: Preprocessing) -> bytes:
    """Write a network as ONNX.

    Args:
        model: Float32 network, (N, 3, H, W) -> (N, K) logits; put into evaluation mode.
        preprocessing: Says H and W.

    Returns:
        A single-file model: input "image" float32 (batch, 3, H, W), output "logits" float32 (batch, K), opset 17.

    Raises:
        EngineError: The exporter wrote something else.
    """
    width, height = preprocessing.size_wh
    with tempfile.TemporaryDirectory(prefix="bintally-onnx-") as folder, warnings.catch_warnings():
        file = Path(folder) / "model.onnx"
        # The exporter warns that it is the old one; why it is used stands above.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (torch.zeros(1, 3, height, width),),
            file,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: BATCH}, OUTPUT: {0: BATCH}},
            opset_version=OPSET,
            do_constant_folding=True,
            dynamo=False,
        )
        return _checked(file.read_bytes())


def _checked(data: bytes) -> bytes:
    model = onnx.load_model_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": OPSET}:
        raise EngineError("the exporter wrote another operator set", got=opsets, expected={"": OPSET})
    external = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if external:
        raise EngineError("the exporter put weights outside the file", got=external[:3])
    return data


def infer_torch(model: nn.Module, tensors_nchw: NDArray[np.float32], batch: int = 32) -> NDArray[np.float32]:
    """Run the trained network itself.

    Args:
        model: The network.
        tensors_nchw: float32, (N, 3, H, W), preprocessed.
        batch: Images per call.

    Returns:
        float32, (N, K) logits.
    """
    model.eval()
    with torch.inference_mode():
        parts = [model(torch.from_numpy(part)).numpy() for part in _batches(tensors_nchw, batch)]
    return np.concatenate(parts).astype(np.float32)


def _batches(tensors: NDArray[np.float32], batch: int) -> list[NDArray[np.float32]]:
    return [tensors[start : start + batch] for start in range(0, len(tensors), batch)]
