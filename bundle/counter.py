"""Frames in, an honest count out.

The pure half (`posterior_from_logits`, `fuse`, `count_from_posterior`) holds every decision; `Counter` only joins it to
the preprocessing and an engine. An open class ("6+") never comes out as an exact number: `at_least` is then true.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from bundle.engines.choose import open_engine
from bundle.errors import EngineError, InputError
from bundle.interval import interval_from_posterior
from bundle.manifest import class_value
from bundle.preprocess import normalize_into, resize
from bundle.verify import Bundle, load_bundle

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.engines.base import Engine
    from bundle.interval import Interval
    from bundle.manifest import CountClasses, IntervalRule

PromiseState = Literal["proven", "inherited", "none"]


@dataclass(frozen=True, slots=True)
class Count:
    """What one visit says about one bin.

    Attributes:
        count: Number of items, or the least number when `at_least`.
        at_least: The class is open: "6+" means six or more, not six.
        label: The count class, "3" or "6+".
        confidence: Calibrated probability of the class, 0..1.
        confident: `confidence` reaches the bundle's threshold; never when that is 1.
        posterior: Probability per count class, in the order of the classes, summing to 1.
        interval: Counts that the visit cannot tell apart, None when the bundle has no rule for it.
        proven: The bundle's promise about confident counts is proven for the model that counted: `Counter.promise`.
    """

    count: int
    at_least: bool
    label: str
    confidence: float
    confident: bool
    posterior: tuple[float, ...]
    interval: Interval | None = None
    proven: bool = False


def posterior_from_logits(
    logits: NDArray[np.float32], temperature: float, ordinal: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """Softmax of logits / temperature + tilt * u + curvature * u^2, without overflow; u runs from -1 to 1.

    Args:
        logits: float32, (N, K), finite.
        temperature: Above 0; above 1 flattens.
        ordinal: Tilt (above 0 favours high counts) and curvature (above 0 favours both ends), or None.

    Returns:
        float64, (N, K), rows sum to 1.
    """
    scaled = logits.astype(np.float64) / temperature
    if ordinal is not None:
        along = np.linspace(-1, 1, logits.shape[1])
        scaled += ordinal[0] * along + ordinal[1] * along**2
    scaled -= scaled.max(axis=1, keepdims=True)
    exponential = np.exp(scaled)
    return np.asarray(exponential / exponential.sum(axis=1, keepdims=True))


def fuse(posteriors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Join the frames of one visit into one posterior by averaging.

    Frames of one visit show the same bin under the same light, so their errors are shared: the product of posteriors
    would count the same evidence many times and grow confident without reason. The mean cannot be more certain than
    its frames.

    Args:
        posteriors: float64, (N, K), N at least 1.

    Returns:
        float64, (K,), sums to 1.
    """
    return np.asarray(posteriors.mean(axis=0))


def count_from_posterior(
    posterior: NDArray[np.float64], classes: CountClasses, threshold: float, interval: IntervalRule | None = None
) -> Count:
    """Decide the count: the most probable class, confident at or above the threshold.

    Args:
        posterior: float64, (K,), sums to 1.
        classes: K count classes.
        threshold: Calibrated, 0..1. At 1 nothing is confident, not even a probability that rounds to 1.
        interval: How wide the reported interval is.

    Returns:
        The count.
    """
    best = int(posterior.argmax())
    label = classes[best]
    confidence = float(posterior[best])
    return Count(
        count=class_value(label),
        at_least=label.endswith("+"),
        label=label,
        confidence=confidence,
        confident=confidence >= threshold and threshold < 1,
        posterior=tuple(float(share) for share in posterior),
        interval=None if interval is None else interval_from_posterior(posterior, classes, interval),
    )


class Counter:
    """Counts the items on images with one bundle and one engine. Not thread-safe.

    Args:
        bundle: A verified bundle.
        engine: An engine that runs one of its models; the counter closes it.

    Raises:
        EngineError: The engine has another number of classes than the bundle.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        manifest = bundle.manifest
        if engine.classes != len(manifest.count_classes):
            raise EngineError(
                f"engine {engine.name} does not fit bundle {bundle.label}",
                got=f"{engine.classes} classes",
                expected=len(manifest.count_classes),
            )
        self.bundle = bundle
        self.engine = engine
        self.classes = manifest.count_classes
        self.threshold = manifest.calibration.threshold
        self._tensor = np.empty((0, *engine.input_chw), np.float32)

    @property
    def promise(self) -> PromiseState:
        """What the promise about confident counts is worth here.

        Returns:
            "proven"; "inherited" when models were re-fitted without labels, or when another model counts than the one
            whose outputs the threshold was fitted on; "none" when the bundle promises nothing.
        """
        calibration = self.bundle.manifest.calibration
        if calibration.promise is None:
            return "none"
        return "proven" if calibration.promise.verified and self.engine.role == calibration.fitted_on else "inherited"

    @classmethod
    def open(cls, path: Path, *, engine: str = "auto", threads: int | None = None) -> Counter:
        """Verify a bundle and load it.

        Args:
            path: The bundle's folder.
            engine: See `bundle.engines.choose.ENGINES`.
            threads: Threads for the runtime.

        Returns:
            A counter that is ready.

        Raises:
            BundleError: The bundle does not verify.
            ConfigError: No such engine.
            EngineError: The runtime refuses the model or misses the golden frames.
        """
        bundle = load_bundle(path)
        return cls(bundle, open_engine(bundle, engine=engine, threads=threads))

    def posteriors(self, images_bgr: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Posterior of each image on its own.

        Args:
            images_bgr: Images, each uint8, (H, W, 3), BGR, 0..255; sizes may differ.

        Returns:
            float64, (N, K), rows sum to 1.

        Raises:
            InputError: There is no image, or one is no colour image.
            EngineError: The engine failed.
        """
        return self.posteriors_from(self.logits(images_bgr))

    def logits(self, images_bgr: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """What the network says of each image, before calibration.

        Args:
            images_bgr: As in `posteriors`.

        Returns:
            float32, (N, K).

        Raises:
            InputError: There is no image, or one is no colour image.
            EngineError: The engine failed.
        """
        return self.engine.infer(self._fill(images_bgr, self._room_for(len(images_bgr))))

    def posteriors_from(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Apply the bundle's calibration.

        Args:
            logits: float32, (N, K), of `logits`.

        Returns:
            float64, (N, K), rows sum to 1.
        """
        calibration = self.bundle.manifest.calibration
        return posterior_from_logits(logits, calibration.temperature, calibration.ordinal)

    def _room_for(self, frames: int) -> NDArray[np.float32]:
        """The same memory for every call: asking the system for fresh pages takes longer than filling them."""
        if len(self._tensor) < frames:
            self._tensor = np.empty((frames, *self.engine.input_chw), np.float32)
        return self._tensor[:frames]

    def _fill(self, images_bgr: Sequence[NDArray[np.uint8]], tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        if not images_bgr:
            raise InputError("nothing to count", got="no frames", expected="at least one")
        spec = self.bundle.manifest.preprocessing
        for image, planes in zip(images_bgr, tensor, strict=True):
            normalize_into(planes, resize(image, spec), spec)
        return tensor

    def count(self, images_bgr: Sequence[NDArray[np.uint8]]) -> Count:
        """Count one bin from the frames of one visit.

        Args:
            images_bgr: Frames of the same bin, as in `posteriors`.

        Returns:
            The count with its confidence.

        Raises:
            InputError: There is no frame, or one is no colour image.
            EngineError: The engine failed.
        """
        return self.decide(self.posteriors(images_bgr))

    def tensor(self, images_bgr: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """The first half of `posteriors`: preprocessing alone, safe from any thread.

        Args:
            images_bgr: As in `posteriors`.

        Returns:
            float32, (N, 3, h, w).

        Raises:
            InputError: There is no image, or one is no colour image.
        """
        return self._fill(images_bgr, np.empty((len(images_bgr), *self.engine.input_chw), np.float32))

    def posteriors_of(self, tensor_nchw: NDArray[np.float32]) -> NDArray[np.float64]:
        """The second half of `posteriors`: the network and the calibration.

        Args:
            tensor_nchw: float32, (N, 3, h, w), of `tensor`.

        Returns:
            float64, (N, K), rows sum to 1.

        Raises:
            EngineError: The engine failed.
        """
        return self.posteriors_from(self.engine.infer(tensor_nchw))

    def decide(self, posteriors: NDArray[np.float64]) -> Count:
        """Count from the posteriors of the frames of one visit; safe from any thread.

        Args:
            posteriors: float64, (N, K), N at least 1, rows sum to 1.

        Returns:
            The count with its confidence.
        """
        rule = self.bundle.manifest.calibration.interval
        count = count_from_posterior(fuse(posteriors), self.classes, self.threshold, rule)
        return replace(count, proven=self.promise == "proven")

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()
