# ruff: noqa: TID253 - this file owns torch.onnx
"""A torch network to one ONNX file, and the proof that the file computes the same.

torch has two exporters and TensorRT reads different operator sets, so there is a table. The exporter that torch calls
legacy writes operator set 17, which every TensorRT since 8.5 reads, and is the default; the newer one cannot go below
18, and keeps 18 when it is asked for less, saying so only in a log. Whatever wrote it, the file is read back and
checked.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
import torch

from bundle.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from bundle.manifest import Preprocessing

INPUT, OUTPUT, BATCH = "image", "logits", "batch"
_LARGEST_BATCH = 64
Target = Literal["any", "tensorrt-8", "tensorrt-10", "tensorrt-11"]


@dataclass(frozen=True, slots=True)
class Route:
    """How a network is written for a target.

    Attributes:
        exporter: Of torch's two.
        opset: Operator set of the default domain that the file must have.
    """

    exporter: Literal["legacy", "dynamo"]
    opset: int


ROUTES: dict[Target, Route] = {
    "any": Route("legacy", 17),
    "tensorrt-8": Route("legacy", 17),
    "tensorrt-10": Route("dynamo", 20),
    "tensorrt-11": Route("dynamo", 20),
}
"""TensorRT 8.5 and 8.6 read up to operator set 17, 10.x up to 20 and more, 11.x likewise."""


def export_onnx(model: nn.Module, preprocessing: Preprocessing, *, target: Target = "any") -> bytes:
    """Write a network as ONNX.

    Args:
        model: Float32 network, (N, 3, H, W) -> (N, K) logits; put into evaluation mode.
        preprocessing: Says H and W.
        target: Who shall read it; "any" suits all.

    Returns:
        A single-file model: input "image" float32 (batch, 3, H, W), output "logits" float32 (batch, K).

    Raises:
        EngineError: The exporter wrote something else.
        ConfigError: The newer exporter is asked for and its package is missing.
    """
    width, height = preprocessing.size_wh
    route = ROUTES[target]
    with tempfile.TemporaryDirectory(prefix="bintally-onnx-") as folder, warnings.catch_warnings():
        file = Path(folder) / "model.onnx"
        # The exporter warns that it is the old one; why it is used stands above.
        warnings.simplefilter("ignore")
        write = _write_legacy if route.exporter == "legacy" else _write_dynamo
        write(model.eval(), torch.zeros(1, 3, height, width), file, route.opset)
        return _checked(file.read_bytes(), route.opset)


def _write_legacy(model: nn.Module, example: torch.Tensor, file: Path, opset: int) -> None:
    torch.onnx.export(
        model,
        (example,),
        file,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: BATCH}, OUTPUT: {0: BATCH}},
        opset_version=opset,
        do_constant_folding=True,
        dynamo=False,
    )


def _write_dynamo(model: nn.Module, example: torch.Tensor, file: Path, opset: int) -> None:
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        torch.onnx.export(
            model,
            (example,),
            file,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim(BATCH, min=1, max=_LARGEST_BATCH)},),
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except ModuleNotFoundError as exc:
        raise ConfigError(
            "torch's newer exporter is not complete here",
            got=f"no package {exc.name}",
            fix="Install it with: pip install onnxscript, or export for the target 'any'.",
        ) from exc
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def _checked(data: bytes, opset: int) -> bytes:
    model = onnx.load_model_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    opsets = {entry.domain: entry.version for entry in kept}
    if opsets != {"": opset} or len(model.functions):
        raise EngineError("the exporter wrote another operator set", got=opsets, expected={"": opset})
    external = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if external:
        raise EngineError("the exporter put weights outside the file", got=external[:3])
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    if batch != BATCH:
        raise EngineError("the exporter lost the name of the batch dimension", got=batch, expected=BATCH)
    if len(kept) == len(model.opset_import):
        return data
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return bytes(model.SerializeToString())


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
