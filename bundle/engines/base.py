"""The contract of every engine: checked arrays in, checked logits out.

A runtime's file implements `_run` and `close`; the public `infer` stands here once, so that no runtime can hand on a
wrong shape, a wrong dtype or a NaN.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bundle.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from numpy.typing import NDArray
    from typing_extensions import Self

    from bundle.manifest import ModelEntry


CPP_ERRORS = (RuntimeError, ValueError, MemoryError, IndexError, OverflowError)
"""What a C++ exception becomes in Python (pybind11). A damaged model calls up any of them: its names, cited in a
message, may be no UTF-8, which is a ValueError; its sizes may ask for more memory than there is."""


class Port(NamedTuple):
    """An input or output as a runtime sees it: its name, its NumPy dtype, its sizes without the batch."""

    name: str
    dtype: str
    sizes: tuple[int | str, ...]


class Engine(ABC):
    """Executes one model. Not thread-safe: one engine belongs to one thread.

    Args:
        name: For messages and telemetry, for example "onnxruntime-int8".
        role: Role of the model in the manifest that this engine executes.
        input_chw: Channels, height and width of one input.
        classes: Number of logits per image.
        golden_slack: Factor on the bundle's golden tolerance, above 1 for an engine that by design computes in fewer
            digits than its file is written in.

    Attributes:
        reason: Why this engine was opened, in words; set by `bundle.engines.choose`.
        precision: What most of it computes in: "int8", "fp16" or "fp32"; the end of the name.
        built_s: Seconds that building it for this device took, whenever that was; None where nothing is built.
        golden_error: Largest |difference| of a logit on the golden frames; set by `bundle.engines.choose`.
    """

    def __init__(
        self,
        name: str,
        *,
        role: str,
        input_chw: tuple[int, int, int],
        classes: int,
        golden_slack: float = 1.0,
    ) -> None:
        self.name = name
        self.precision = name.rpartition("-")[2]
        self.role = role
        self.input_chw = input_chw
        self.classes = classes
        self.golden_slack = golden_slack
        self.reason = "opened directly"
        self.built_s: float | None = None
        self.golden_error: float | None = None

    def infer(self, tensor_nchw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network.

        Args:
            tensor_nchw: float32, (N, C, H, W), preprocessed; the caller keeps the buffer.

        Returns:
            float32, (N, K) logits, finite; a fresh array that the caller owns.

        Raises:
            EngineError: The input has the wrong shape or dtype, the runtime failed, or the logits are no logits.
        """
        batch_axes = tensor_nchw.ndim - len(self.input_chw)
        if tensor_nchw.dtype != np.float32 or batch_axes != 1 or tensor_nchw.shape[1:] != self.input_chw:
            raise EngineError(
                f"engine {self.name} was given the wrong input",
                got=f"{tensor_nchw.dtype} {tensor_nchw.shape}",
                expected=f"float32 (N, {', '.join(map(str, self.input_chw))})",
            )
        logits = self._run(np.ascontiguousarray(tensor_nchw))
        expected = (len(tensor_nchw), self.classes)
        if logits.shape != expected or logits.dtype != np.float32:
            raise EngineError(
                f"engine {self.name} returned the wrong output",
                got=f"{logits.dtype} {logits.shape}",
                expected=f"float32 {expected}",
            )
        if not np.isfinite(logits).all():
            raise EngineError(
                f"engine {self.name} returned logits that are not finite",
                got=f"{int((~np.isfinite(logits)).sum())} of {logits.size}",
                fix="The model or its cache is damaged: verify the bundle, then restart.",
            )
        return logits

    def _require_signature(self, entry: ModelEntry, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        """Refuse a model that takes or gives something else than its manifest says. Raises EngineError."""
        found: tuple[Port | str, ...] = (*inputs, "->", *outputs)
        takes, gives = Port(entry.input, "float32", self.input_chw), Port(entry.output, "float32", (self.classes,))
        expected = (takes, "->", gives)
        if found != expected:
            raise EngineError(
                f"{entry.file} has another signature than its manifest",
                got=_words(found),
                expected=_words(expected),
                fix="Export the bundle again.",
            )

    @abstractmethod
    def _run(self, tensor_nchw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Execute; input is checked and contiguous, output is checked by the caller. Raises EngineError."""

    @abstractmethod
    def close(self) -> None:
        """Free what the runtime holds; further calls are errors."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _words(signature: Sequence[Port | str]) -> str:
    return " ".join(part if isinstance(part, str) else f"{part.name}: {part.dtype} {part.sizes}" for part in signature)
