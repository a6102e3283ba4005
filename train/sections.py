"""The sections of a training configuration, each frozen, bounded and without unknown keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bundle.manifest import Triple  # noqa: TC001 - pydantic resolves it at run time

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Strict(BaseModel):
    """Refuses unknown keys, NaN and later changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Strict):
    """Which network, from which weights, on which input.

    Attributes:
        name: Any torchvision classifier.
        options: Keyword arguments of its builder, such as `width_mult`.
        weights: "none" starts from scratch, "hub" takes torchvision's own, "file" a file that is given with the run.
        weights_sha256: Hash of that file; filled in when the run starts.
        size: Input width and height, pixels; photos that are smaller are enlarged.
        resize: See `bundle.manifest.Preprocessing`.
        mean: Input normalisation, RGB on the 0..1 scale; None takes what the weights were trained with.
        std: Likewise.
        frozen: Train the new head alone, as the published student pipelines did.
        head: "softmax", or "corn": a chain of "is it more than this?" (see `train.heads`).
    """

    name: str = "mobilenet_v2"
    options: dict[str, bool | int | float | str] = {}
    weights: Literal["none", "hub", "file"] = "none"
    weights_sha256: str | None = None
    size: Annotated[int, Field(ge=32, le=1024)] = 224
    resize: Literal["squash", "letterbox"] = "squash"
    mean: Triple | None = None
    std: Triple | None = None
    frozen: bool = False
    head: Literal["softmax", "corn"] = "softmax"


class OptimizerConfig(Strict):
    """How weights move.

    Attributes:
        name: Update rule.
        lr: Highest learning rate of the head; deeper layers get `layer_decay` less per block.
        momentum: SGD's momentum; AdamW's first moment.
        weight_decay: On matrices and kernels alone, never on biases and normalisation.
        layer_decay: Factor on the learning rate from one block to the block before it; 1 trains all alike.
        warmup: Share of all steps in which the rate climbs from zero.
        schedule: After the warm-up, "cosine" down to `floor`; "restarts", `cycles` such cosines in a row; "constant".
            Or "onecycle": a cosine up from a 25th of `lr` over `warmup`, and one down to a ten-thousandth of that.
        floor: Share of `lr` that a cosine ends at.
        cycles: Cosines of "restarts", all of one length.
        clip: Highest gradient norm; 0 never clips.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.05
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    warmup: Share = 0.1
    schedule: Literal["cosine", "constant", "onecycle", "restarts"] = "cosine"
    floor: Share = 0.01
    cycles: Annotated[int, Field(ge=1, le=1000)] = 3
    clip: Annotated[float, Field(ge=0)] = 5.0


class LossConfig(Strict):
    """Cross entropy plus a term that knows that 3 is nearer to 4 than to 1.

    Attributes:
        neighbour: "none"; "soft" = cross entropy to a bell around the true count; "ranked" = ranked probability score;
            "multilabel" = the neighbours k-1, k, k+1 as one multi-label target (Tezcan and Konrad, 2017).
        weight: Share of the neighbour term; the cross entropy has the rest.
        sigma: Width of the bell in items.
    """

    neighbour: Literal["none", "soft", "ranked", "multilabel"] = "soft"
    weight: Share = 0.5
    sigma: Annotated[float, Field(gt=0, le=10)] = 0.7


class PairsConfig(Strict):
    """Photos of one bin before and after a pick: their counts always differ, by what only the item explains.

    Attributes:
        weight: Of the squared-then-linear (Huber) error of the difference of their posterior means; 0 leaves pairs
            apart. Above 0, photos of one group stand side by side in an epoch, so that most pairs meet in a batch.
    """

    weight: Annotated[float, Field(ge=0, le=100)] = 0.0


class MixupConfig(Strict):
    """Learning from blends of two photos and of their losses (Zhang and others, 2018).

    A blend shows the items of both photos faintly, so no label is corrupted: the network learns to doubt in proportion.

    Attributes:
        alpha: The share of the first photo is drawn from Beta(alpha, alpha), one share per step; 0 blends nothing.
    """

    alpha: Annotated[float, Field(ge=0, le=10)] = 0.0


class DistillConfig(Strict):
    """Learning from finished runs, the teachers, which look at the very same augmented pictures.

    Attributes:
        weight: Share of the distance to the teachers' mean posterior; the labels have the rest.
        temperature: Flattens both posteriors before they are compared.
        teachers_sha256: Hashes of the teachers' weights; filled in when the run starts.
    """

    weight: Share = 0.5
    temperature: Annotated[float, Field(gt=0, le=100)] = 2.0
    teachers_sha256: tuple[str, ...] = ()


class AugmentConfig(Strict):
    """Changes that cannot remove an item from the picture, `crop` aside; see `train.augment`.

    Attributes:
        crop: Smallest share of the picture that a random resized crop keeps; 1 never crops. A crop cuts items out and
            so corrupts the label: it is here to reproduce pipelines that did it, and for nothing else.
        flip: Chance of a left-right flip.
        geometry: Chance of a small rotation, shift and shrink; the whole picture stays inside the frame.
        rotate_deg: Largest rotation, degrees.
        shrink: Largest share by which the picture shrinks; the shift uses the room that this makes.
        brightness: Largest change of exposure, share of full scale.
        contrast: Largest change of contrast, share.
        colour: Largest change of the balance of one colour channel, share.
        grey: Chance that colour is dropped.
        blur: Chance of a mild Gaussian or motion blur.
        noise: Chance of sensor noise.
    """

    crop: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    flip: Share = 0.5
    geometry: Share = 0.5
    rotate_deg: Annotated[float, Field(ge=0, le=15)] = 4.0
    shrink: Annotated[float, Field(ge=0, le=0.4)] = 0.12
    brightness: Annotated[float, Field(ge=0, le=0.5)] = 0.15
    contrast: Annotated[float, Field(ge=0, le=0.6)] = 0.25
    colour: Annotated[float, Field(ge=0, le=0.5)] = 0.08
    grey: Share = 0.05
    blur: Share = 0.15
    noise: Share = 0.1


class Stage(Strict):
    """From `epoch` on, train on pictures of `size` x `size` pixels: smaller than `model.size`, or larger.

    Photos are kept in memory at `model.size` and judged at it; a larger stage enlarges those.
    """

    epoch: Annotated[int, Field(ge=0)]
    size: Annotated[int, Field(ge=32, le=1024)]
