"""What a bundle is: the typed form of manifest.json (normative text: docs/bundle-format.md).

Unknown keys are refused everywhere, so that a typo or a newer format never passes in silence. Nothing about an image's
range, layout or colour order is guessed from data: it stands here.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
BundleName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="1 to 64 of a-z, 0-9 and '-'")]
BundleVersion = Annotated[
    str,
    Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+([-+][0-9A-Za-z.-]+)?$", description="a semantic version such as 1.0.0"),
]
Words = Annotated[str, Field(pattern=r"\S", description="words")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Triple = tuple[float, float, float]
Tilt = Annotated[float, Field(ge=-50.0, le=50.0)]

_COUNT_CLASS = re.compile(r"^(0|[1-9][0-9]{0,3})(\+?)$")


def _check_count_classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    if len(classes) < 2:  # noqa: PLR2004 - one class leaves nothing to count
        msg = f"at least two count classes are needed, got {list(classes)}"
        raise ValueError(msg)
    for position, name in enumerate(classes):
        match = _COUNT_CLASS.match(name)
        if match is None or (match[2] and position != len(classes) - 1):
            msg = f"{name!r} is not a count class: use '0', '1', ..., and '+' on the last alone"
            raise ValueError(msg)
        if int(match[1]) != class_value(classes[0]) + position:
            msg = f"count classes must be consecutive, got {list(classes)}"
            raise ValueError(msg)
    return classes


CountClasses = Annotated[tuple[str, ...], AfterValidator(_check_count_classes)]
"""Ordered names such as ("0", "1", "2", "3+"): consecutive, and only the last may be open."""


def class_value(name: str) -> int:
    """Lowest count that a class stands for.

    Args:
        name: A count class, "3" or "6+".

    Returns:
        3 for "3", 6 for "6+".
    """
    return int(name.removesuffix("+"))


def class_index(classes: tuple[str, ...], count: int) -> int | None:
    """Where a true count belongs.

    Args:
        classes: Valid count classes.
        count: Number of items.

    Returns:
        Index into `classes`, or None when no class covers `count`.
    """
    first, last = class_value(classes[0]), class_value(classes[-1])
    if first <= count <= last:
        return count - first
    return len(classes) - 1 if count > last and classes[-1].endswith("+") else None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Preprocessing(_Strict):
    """How a camera image becomes the network's input: x = (pixel / 255 - mean) / std, float32, NCHW.

    Attributes:
        size_wh: Input width and height, pixels.
        resize: "squash" ignores the aspect ratio; "letterbox" keeps it and pads with `pad`.
        interpolation: "area" averages when shrinking; "linear" is the cheap one.
        color: Channel order that the network wants; cameras and OpenCV give BGR.
        mean: Per channel, in the order of `color`, on the 0..1 scale.
        std: Per channel, likewise.
        pad: Grey value of letterbox borders, 0..255.
    """

    size_wh: tuple[Annotated[int, Field(ge=8, le=4096)], Annotated[int, Field(ge=8, le=4096)]] = (224, 224)
    resize: Literal["squash", "letterbox"] = "squash"
    interpolation: Literal["area", "linear"] = "area"
    color: Literal["RGB", "BGR"] = "RGB"
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)
    pad: Annotated[int, Field(ge=0, le=255)] = 114

    @model_validator(mode="after")
    def _std_is_positive(self) -> Preprocessing:
        if min(self.std) <= 0:
            msg = f"std must be positive, got {self.std}"
            raise ValueError(msg)
        return self


class FileEntry(_Strict):
    """Size and hash of one file of the bundle."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0, le=4 << 30)]


class ModelEntry(_Strict):
    """One network of the bundle.

    Attributes:
        role: "reference" (FP32), "cpu" (INT8 Q/DQ for ONNX Runtime and OpenVINO) or "tensorrt" (INT8 Q/DQ for
            TensorRT).
        file: Name within the bundle.
        precision: Numbers it computes in.
        opset: ONNX operator set of the default domain.
        input: Name of the image input, float32 (N, 3, H, W).
        output: Name of the logits output, float32 (N, K).
        float_nodes: Convolution and matrix nodes left in floating point by quantisation.
    """

    role: Literal["reference", "cpu", "tensorrt"]
    file: FileName
    precision: Literal["fp32", "fp16", "int8"]
    opset: Annotated[int, Field(ge=7, le=30)]
    input: str = "image"
    output: str = "logits"
    float_nodes: tuple[str, ...] = ()


class Promise(_Strict):
    """With `confidence`, at most `risk` of the confident counts are wrong (finite-sample bound).

    Attributes:
        risk: Highest accepted share of wrong counts among the confident ones.
        confidence: Of the bound itself.
        coverage: Share of the calibration visits that are confident.
        frames: Calibration frames that the bound rests on.
        verified: False after the models were re-fitted on frames without labels: the promise is then inherited, not
            proven.
    """

    risk: Share
    confidence: Share
    coverage: Share
    frames: Annotated[int, Field(ge=1)]
    verified: bool = True


class IntervalRule(_Strict):
    """Which counts are reported beside the point: in `coverage` of all visits the true count is among them.

    Attributes:
        coverage: Share of visits whose true count lies in the interval (split conformal, finite-sample).
        mass: The interval grows from the most probable class until its posterior mass exceeds this.
        frames: Calibration frames that it was fitted on.
    """

    coverage: Share
    mass: Share
    frames: Annotated[int, Field(ge=1)]


class MismatchRule(_Strict):
    """When a visit contradicts its record: at most `false_alarm` of the right records are contradicted.

    Attributes:
        false_alarm: Share of right records that are called short or over (split conformal, finite-sample).
        tail: A record is contradicted when the posterior mass on one side of it exceeds this.
        frames: Calibration frames that it was fitted on.
    """

    false_alarm: Share
    tail: Share
    frames: Annotated[int, Field(ge=1)]


class Calibration(_Strict):
    """What turns logits into honest confidence; fitted on the outputs of `fitted_on`.

    Attributes:
        temperature: Logits are divided by it before the softmax.
        ordinal: Tilt and curvature: what is added to the divided logits along the order of the classes, or None.
        threshold: A count is confident when its probability is at least this.
        fitted_on: Role of the model whose outputs were used.
        promise: What the threshold guarantees, or None when the data could not support a promise.
        interval: How wide the reported interval of counts is, None when it was not fitted.
        mismatch: When a record is contradicted, None when it was not fitted.
    """

    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    ordinal: tuple[Tilt, Tilt] | None = None
    threshold: Share = 0.5
    fitted_on: Literal["reference", "cpu", "tensorrt"] = "reference"
    promise: Promise | None = None
    interval: IntervalRule | None = None
    mismatch: MismatchRule | None = None


class ParityBudget(_Strict):
    """How far a model may be from the reference before the bundle is refused.

    Attributes:
        min_agreement: Lowest share of frames with the same most probable class.
        max_mean_tv: Highest mean total-variation distance between the posteriors, 0..1.
        max_accuracy_drop: Highest loss of exact accuracy, as a share, where labels are known; one frame may always be
            lost, because a share below one frame cannot be told from none.
        min_sure_agreement: As `min_agreement`, of the frames that the reference gives 0.6 or more; one may differ.
    """

    min_agreement: Share
    max_mean_tv: Share
    max_accuracy_drop: Share
    min_sure_agreement: Share = 0.0


class ParityResult(_Strict):
    """How far one model was from the reference when the bundle was packed.

    Attributes:
        role: Of the model.
        frames: Frames that both ran on.
        agreement: Share of frames with the same most probable class.
        mean_tv: Mean total-variation distance between the posteriors.
        max_abs_logit: Largest difference of a logit.
        reference_accuracy: Of the reference, where labels are known.
        accuracy: Of the model, where labels are known.
        sure_frames: Frames that the reference gives 0.6 or more.
        sure_agreement: Share of those with the same most probable class; 1 when there are none.
        accuracy_drop_ci: Paired 95 % interval of reference accuracy minus accuracy.
    """

    role: Literal["cpu", "tensorrt"]
    frames: Annotated[int, Field(ge=1)]
    agreement: Share
    mean_tv: Share
    max_abs_logit: Annotated[float, Field(ge=0)]
    reference_accuracy: Share | None = None
    accuracy: Share | None = None
    sure_frames: Annotated[int, Field(ge=0)] = 0
    sure_agreement: Share = 1.0
    accuracy_drop_ci: tuple[float, float] | None = None


class Parity(_Strict):
    """The budget and every result that was held against it."""

    budget: ParityBudget
    results: tuple[ParityResult, ...]


class Provenance(_Strict):
    """Where a bundle comes from.

    Attributes:
        dataset_sha256: Of the dataset manifest.
        dataset: What the photos are, in words.
        config_sha256: Of the resolved training configuration.
        code_version: bintally's version.
        model: Name of the architecture, of an ensemble those of all members.
        initial_weights: Where training started from.
        calibrated_from: Digest of the bundle whose numbers were fitted anew; None as exported.
    """

    dataset_sha256: Sha256
    dataset: Words
    config_sha256: Sha256
    code_version: str
    model: str
    initial_weights: str
    calibrated_from: Sha256 | None = None


class Manifest(_Strict):
    """The whole of manifest.json; see docs/bundle-format.md for what each key means to a reader."""

    format_version: Literal[1]
    name: BundleName
    version: BundleVersion
    created: AwareDatetime
    count_classes: CountClasses
    preprocessing: Preprocessing
    models: Annotated[tuple[ModelEntry, ...], Field(min_length=1)]
    calibration: Calibration
    parity: Parity
    metrics: dict[str, float]
    provenance: Provenance
    licence: Words
    minimum_agent: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]
    drift: FileName | None = None
    files: dict[FileName, FileEntry]

    @model_validator(mode="after")
    def _models_are_listed_once(self) -> Manifest:
        roles = [model.role for model in self.models]
        if len(set(roles)) != len(roles) or "reference" not in roles:
            msg = f"models need one 'reference' and each role once, got {roles}"
            raise ValueError(msg)
        named = [model.file for model in self.models] + ([self.drift] if self.drift else [])
        unlisted = [file for file in named if file not in self.files]
        if unlisted:
            msg = f"models and drift name files that `files` does not list: {unlisted}"
            raise ValueError(msg)
        return self

    def model(self, role: str) -> ModelEntry | None:
        """The model with a role.

        Args:
            role: "reference", "cpu" or "tensorrt".

        Returns:
            Its entry, or None when this bundle has none.
        """
        return next((entry for entry in self.models if entry.role == role), None)
