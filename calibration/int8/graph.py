# ruff: noqa: TID253 - this file reads and writes ONNX graphs
"""A network's graph, made easy to ask: what makes a tensor, who reads it, which numbers are constant.

`normal_form` is the shape that everything else in this package works on: every constant is an initialiser, every
convolution owns its weight and has a bias of its own, every node has a unique name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bundle.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ACTIVATIONS = frozenset({"Relu", "Clip"})
"""Functions that runtimes compute inside the convolution before them."""


class Graph:
    """An index over a model in normal form.

    Args:
        model: In normal form; not altered.

    Attributes:
        nodes: In the order of execution.
        constants: Initialisers by name.
        makers: Node by the name of each of its outputs.
        readers: Nodes by the name of each tensor that they read.
        input: Name of the image input.
        output: Name of the logits output.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        self.input = model.graph.input[0].name
        self.output = model.graph.output[0].name

    def convolutions(self) -> list[onnx.NodeProto]:
        """Convolutions in the order of execution.

        Returns:
            Their nodes.
        """
        return [node for node in self.nodes if node.op_type == "Conv"]

    def products(self) -> list[onnx.NodeProto]:
        """Matrix products in the order of execution: the classifier, in most networks.

        Returns:
            Their nodes.
        """
        return [node for node in self.nodes if node.op_type in {"Gemm", "MatMul"}]

    def after_activation(self, tensor: str) -> str:
        """Where a convolution's result appears once its activation function is applied.

        Args:
            tensor: Output of a convolution or an addition.

        Returns:
            The output of the Relu or Clip that alone reads it, else the tensor itself.
        """
        readers = self.readers.get(tensor, [])
        if len(readers) == 1 and readers[0].op_type in ACTIVATIONS and readers[0].input[0] == tensor:
            return str(readers[0].output[0])
        return tensor


def normal_form(data: bytes) -> onnx.ModelProto:
    """Parse a model and bring it into normal form.

    Args:
        data: A single-file ONNX model.

    Returns:
        The model; it computes what it computed before.

    Raises:
        InputError: A convolution's weight is not constant, so nothing can be quantised.
    """
    model = onnx.load_model_from_string(data)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    aliases: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = aliases.get(name, name)
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Identity" and node.output[0] != model.graph.output[0].name:
            aliases[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    _name_nodes(kept)
    for node in kept:
        if node.op_type == "Conv":
            _own_constants(node, constants)
    used = {name for node in kept for name in node.input}
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in constants.items() if name in used
    )
    return model


def _name_nodes(nodes: list[onnx.NodeProto]) -> None:
    taken: set[str] = set()
    for position, node in enumerate(nodes):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{position}"
        taken.add(node.name)


def _own_constants(conv: onnx.NodeProto, constants: dict[str, NDArray[np.generic]]) -> None:
    weight = constants.get(conv.input[1])
    if weight is None:
        raise InputError(f"convolution {conv.name} has no constant weight", fix="Such a network cannot be quantised.")
    bias = constants.get(conv.input[2]) if len(conv.input) > 2 else None  # noqa: PLR2004 - input, weight, bias
    names = [f"{conv.name}.weight", f"{conv.name}.bias"]
    constants[names[0]] = weight
    constants[names[1]] = np.zeros(len(weight), weight.dtype) if bias is None else bias
    del conv.input[1:]
    conv.input.extend(names)


def attribute(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    """An attribute of integers.

    Args:
        node: The node.
        name: Of the attribute; a single integer becomes a list of one.
        default: What its absence means.

    Returns:
        The integers.
    """
    found = next((entry for entry in node.attribute if entry.name == name), None)
    if found is None:
        return default
    value = helper.get_attribute_value(found)
    return list(value) if isinstance(value, (list, tuple)) else [int(value)]
