"""Where Q/DQ pairs stand in each dialect. Pure: a graph in, names out.

"cpu", for ONNX Runtime and OpenVINO: both sides of every integer convolution, because ONNX Runtime fuses
DQ -> Conv -> Q into one integer kernel.

"tensorrt": no Q between a convolution and the Relu, Clip or Add that follows it. TensorRT fuses those into the
convolution, and takes the other side of an Add as INT8: so exactly that side carries a Q/DQ pair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import onnx

    from calibration.int8.graph import Graph

Dialect = Literal["cpu", "tensorrt"]


class Placement:
    """Which activations are quantised, and who reads them as integers.

    Args:
        graph: Of the FP32 model.
        dialect: Who shall run it.
        integer: Names of the convolutions in INT8.

    Attributes:
        ranged_by: Quantised tensor -> tensor whose range it is quantised with, see `quantized_tensors`.
    """

    def __init__(self, graph: Graph, dialect: Dialect, integer: frozenset[str]) -> None:
        self._graph, self._dialect, self._integer = graph, dialect, integer
        self.ranged_by = quantized_tensors(graph, dialect, integer)

    def reads_integers(self, node: onnx.NodeProto, tensor: str) -> bool:
        """Whether a node reads the quantised form of a tensor.

        On the CPU a quantised tensor exists as integers alone; TensorRT keeps both where both are read.

        Args:
            node: Of the graph.
            tensor: One of its inputs.

        Returns:
            Whether a Q/DQ pair stands in between.
        """
        if tensor not in self.ranged_by:
            return False
        if self._dialect == "cpu" or node.op_type == "MaxPool":
            return True
        if node.op_type == "Add":
            return tensor in residual_side(self._graph, node, self._integer)
        return node.name in self._integer


def quantized_tensors(graph: Graph, dialect: Dialect, integer: frozenset[str]) -> dict[str, str]:
    """Which activations get a Q/DQ pair.

    Args:
        graph: Of the FP32 model.
        dialect: Who shall run it.
        integer: Names of the convolutions in INT8.

    Returns:
        Tensor -> tensor whose range it is quantised with: itself, but for poolings, which need one scale on both sides.
    """
    convolutions = [node for node in graph.convolutions() if node.name in integer]
    chosen = dict.fromkeys(node.input[0] for node in convolutions)
    if dialect == "cpu":
        chosen |= dict.fromkeys(graph.after_activation(node.output[0]) for node in convolutions)
    for node in graph.nodes:
        if node.op_type == "Add":
            if dialect == "tensorrt":
                chosen |= dict.fromkeys(residual_side(graph, node, integer))
            elif all(name in chosen for name in node.input):
                chosen[graph.after_activation(node.output[0])] = None
    ranged_by = {name: name for name in chosen}
    for node in reversed(graph.nodes):
        if node.op_type == "MaxPool" and node.output[0] in ranged_by:
            ranged_by[node.input[0]] = ranged_by[node.output[0]]
    return ranged_by


def residual_side(graph: Graph, add: onnx.NodeProto, integer: frozenset[str]) -> list[str]:
    """The side of an addition that TensorRT takes as INT8 while it fuses the other side's convolution.

    Args:
        graph: Of the FP32 model.
        add: The addition.
        integer: Names of the convolutions in INT8.

    Returns:
        One tensor, or none where no integer convolution ends in this addition alone.
    """
    fused = [
        name
        for name in add.input
        if (maker := graph.makers.get(name)) is not None and maker.name in integer and len(graph.readers[name]) == 1
    ]
    if not fused or any(name in graph.constants for name in add.input):
        return []
    # With a convolution on both sides (a block that changes size) the deeper one is fused: it comes last in execution.
    order = {node.name: position for position, node in enumerate(graph.nodes)}
    kept = max(fused, key=lambda name: (_depth(graph, name), order[graph.makers[name].name]))
    return [name for name in add.input if name != kept]


def _depth(graph: Graph, tensor: str) -> int:
    """Convolutions on the way back to the tensor where the two sides of a block part."""
    depth = 0
    while (maker := graph.makers.get(tensor)) is not None and maker.op_type != "Add":
        depth += maker.op_type == "Conv"
        tensor = maker.input[0]
        if len(graph.readers.get(tensor, [])) > 1:
            break
    return depth
