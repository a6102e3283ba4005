"""Small ONNX networks with every structure that INT8 cares about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 16
CLASSES = 4


def residual_network(seed: int = 0) -> bytes:
    """Stem, max pooling, a block that changes size, a depthwise block with an identity shortcut, and a classifier."""
    rng = np.random.default_rng(seed)
    weights: list[TensorProto] = []
    nodes = []

    def convolution(name: str, source: str, shape: tuple[int, ...], groups: int = 1) -> str:
        kernel = rng.normal(0, 0.4, shape).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"{name}.w"))
        weights.append(numpy_helper.from_array(rng.normal(0, 0.1, shape[0]).astype(np.float32), f"{name}.b"))
        pads = [shape[2] // 2] * 4
        inputs = [source, f"{name}.w", f"{name}.b"]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}.out"], name, pads=pads, group=groups))
        return f"{name}.out"

    def plain(kind: str, name: str, *sources: str) -> str:
        nodes.append(helper.make_node(kind, list(sources), [f"{name}.out"], name))
        return f"{name}.out"

    stem = plain("Relu", "stem.relu", convolution("stem", "image", (8, 3, 3, 3)))
    nodes.append(helper.make_node("MaxPool", [stem], ["pool.out"], "pool", kernel_shape=[2, 2], strides=[2, 2]))
    pooled = "pool.out"
    left = plain("Relu", "a1.relu", convolution("a1", pooled, (12, 8, 3, 3)))
    left = convolution("a2", left, (12, 12, 3, 3))
    joined = plain("Relu", "a.relu", plain("Add", "a.add", left, convolution("short", pooled, (12, 8, 1, 1))))
    weights.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
    weights.append(numpy_helper.from_array(np.array(6, np.float32), "six"))
    inner = plain("Clip", "b1.clip", convolution("b1", joined, (12, 12, 1, 1)), "zero", "six")
    inner = plain("Clip", "b2.clip", convolution("b2", inner, (12, 1, 3, 3), groups=12), "zero", "six")
    out = plain("Add", "b.add", joined, convolution("b3", inner, (12, 12, 1, 1)))
    weights.append(numpy_helper.from_array(rng.normal(0, 1, (12, CLASSES)).astype(np.float32), "fc.w"))
    flat = plain("Flatten", "flat", plain("GlobalAveragePool", "gap", out))
    nodes.append(helper.make_node("Gemm", [flat, "fc.w"], ["logits"], "fc"))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return bytes(model.SerializeToString())


CONVOLUTIONS = ("stem", "a1", "a2", "short", "b1", "b2", "b3")


def images(number: int = 24, seed: int = 1) -> NDArray[np.float32]:
    """Inputs with structure: smooth, coloured, off zero; float32 (N, 3, 16, 16)."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0.3, 0.6, (number, 3, 4, 4)).repeat(4, axis=2).repeat(4, axis=3)
    return (base + rng.normal(0, 0.1, (number, 3, SIZE, SIZE))).astype(np.float32)
