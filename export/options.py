"""What a person decides about an export, and which models follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import TypeAdapter, ValidationError

from bundle.errors import ConfigError
from bundle.manifest import Manifest, ModelEntry, ParityBudget, Provenance

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from export.to_onnx import Target

BUDGET = ParityBudget(min_agreement=0.95, max_mean_tv=0.02, max_accuracy_drop=0.005, min_sure_agreement=0.995)
"""How far INT8 may be from the network unless a person decides otherwise."""
RANGE_FRAMES = 256
"""Training frames that INT8 is fitted on unless a caller decides otherwise."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a person decides about an export.

    Attributes:
        name: Of the bundle.
        version: Of the bundle, semantic.
        licence: SPDX expression or words; the photos' licence binds the model.
        data: The photos, in words.
        risk: Highest accepted share of wrong counts among the confident ones.
        budget: How far INT8 may be from the reference.
        float_convs: Most sensitive convolutions left in float; None takes as few as the budget allows.
        tensorrt: Also write the model for TensorRT.
        target: What the ONNX files must be readable by.
        tta: Look at every frame and its mirror image; takes twice as long on the robot.
        qat: Epochs of fine-tuning where INT8 is beyond the budget; 0 leaves more layers in float instead.
        min_frames: Fewest validation frames that parity may be judged on.
        range_frames: Training frames that INT8 is fitted on: three quarters for ranges, one to compare methods.
        judge_frames: Most frames of the validation and of the test split that are used.
        tune_frames: Most training frames that fine-tuning learns from.

    Raises:
        ConfigError: No manifest may hold the name, the version, the licence or the words for the photos. Said here,
            because the manifest is written last, after minutes of work.
    """

    name: str
    version: str
    licence: str
    data: str
    risk: float
    budget: ParityBudget
    float_convs: int | None = None
    tensorrt: bool = True
    target: Target = "any"
    tta: bool = False
    qat: float = 0.0
    min_frames: int = 200
    range_frames: int = RANGE_FRAMES
    judge_frames: int = 2000
    tune_frames: int = 4000

    def __post_init__(self) -> None:
        for key in ("name", "version", "licence"):
            _require(f"--{key}", getattr(self, key), Manifest.model_fields[key])
        _require("--data", self.data, Provenance.model_fields["dataset"])


def _require(flag: str, value: str, field: FieldInfo) -> None:
    """Hold a value against its key in the manifest."""
    try:
        TypeAdapter(Annotated[str, field]).validate_python(value)
    except ValidationError as exc:
        raise ConfigError(
            f"{flag} does not fit into a bundle's manifest",
            got=repr(value),
            expected=field.description,
            fix=f"Call the export again with another {flag}.",
        ) from exc


def entries_of(options: Options) -> dict[str, ModelEntry]:
    """The models that an export writes.

    Args:
        options: What a person decided.

    Returns:
        Entries by role, the reference first.
    """
    from export.to_onnx import ROUTES

    opset = ROUTES[options.target].opset
    entries = [
        ModelEntry(role="reference", file="model.fp32.onnx", precision="fp32", opset=opset),
        ModelEntry(role="cpu", file="model.cpu.onnx", precision="int8", opset=opset),
    ]
    if options.tensorrt:
        entries.append(ModelEntry(role="tensorrt", file="model.trt.onnx", precision="int8", opset=opset))
    return {entry.role: entry for entry in entries}
