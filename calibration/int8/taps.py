# ruff: noqa: TID253 - the tapped model is an ONNX graph
"""Runs a network and hands out tensors from inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


class Taps:
    """Executes a network with ONNX Runtime and hands out inner tensors, one frame at a time.

    Args:
        model: Any; not altered.
        names: Tensors of it.
    """

    def __init__(self, model: onnx.ModelProto, names: Sequence[str]) -> None:
        import onnxruntime as ort

        tapped = onnx.ModelProto()
        tapped.CopyFrom(model)
        self._input = model.graph.input[0].name
        present = {value.name for value in tapped.graph.output}
        taps = [name for name in names if name != self._input and name not in present]
        tapped.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in taps)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = ort.InferenceSession(
            tapped.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._names = list(names)

    def __call__(self, tensors_nchw: NDArray[np.float32]) -> Iterator[list[NDArray[np.float32]]]:
        """Run frames.

        Args:
            tensors_nchw: float32, (N, 3, H, W), preprocessed.

        Yields:
            The tensors of each frame in turn, in the order of their names.
        """
        asked = [name for name in self._names if name != self._input]
        for tensor in tensors_nchw:
            found = dict(zip(asked, self._session.run(asked, {self._input: tensor[np.newaxis]}), strict=True))
            found[self._input] = tensor[np.newaxis]
            yield [found[name] for name in self._names]
