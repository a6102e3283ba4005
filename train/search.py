"""What a tuning may change: dotted keys of the training configuration, each with a range or a list of choices."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bundle.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Choice = bool | int | float | str
_RANGE = re.compile(r"^([^.{}:]+(?:\.\d+)?[^.{}:]*)\.\.([^{}:]+?)(:log)?$")
_FORMS = "KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY={A,B,C}"


class Suggests(Protocol):
    """Draws values; an Optuna trial is one."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Draw a number."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Draw a whole number."""

    def suggest_categorical(self, name: str, choices: Sequence[Choice | None]) -> Choice | None:
        """Draw one of some values."""


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers between two ends, both included; whole numbers when both ends are.

    Attributes:
        low: Lower end.
        high: Upper end.
        log: Equal chances per factor instead of per difference.
    """

    low: float
    high: float
    log: bool = False

    def suggest(self, name: str, trial: Suggests) -> Choice:
        """Draw from the range.

        Args:
            name: The dotted key.
            trial: What draws.

        Returns:
            A number.
        """
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True, slots=True)
class Choices:
    """One of some values.

    Attributes:
        values: Two or more.
    """

    values: tuple[Choice, ...]

    def suggest(self, name: str, trial: Suggests) -> Choice:
        """Draw one of the values.

        Args:
            name: The dotted key.
            trial: What draws.

        Returns:
            The value.
        """
        drawn = trial.suggest_categorical(name, self.values)
        # The protocol follows Optuna's, whose choices may be None; ours never are.
        return drawn if drawn is not None else self.values[0]


Space = dict[str, Range | Choices]
DEFAULT_SPACE: Space = {
    "optimizer.lr": Range(1e-4, 1e-2, log=True),
    "optimizer.weight_decay": Range(1e-3, 0.2, log=True),
    "batch_size": Choices((32, 64)),
}


def parse_space(texts: Iterable[str]) -> Space:
    """Read a search space from flags.

    Args:
        texts: Such as "optimizer.lr=1e-5..1e-2:log", "epochs=10..20", "batch_size={32,64}".

    Returns:
        Ranges and choices by dotted key; the default space when there are no texts.

    Raises:
        ConfigError: One of them has another form, or its ends do not fit.
    """
    space: Space = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise ConfigError("this is no part of a search space", got=repr(text), expected=_FORMS)
        space[key.strip()] = _dimension(text, value.strip())
    return space or DEFAULT_SPACE


def draw(space: Space, trial: Suggests) -> dict[str, Choice]:
    """Draw one point of a space.

    Args:
        space: Ranges and choices.
        trial: What draws.

    Returns:
        Values by dotted key.
    """
    return {key: dimension.suggest(key, trial) for key, dimension in space.items()}


def _dimension(text: str, value: str) -> Range | Choices:
    if value.startswith("{") and value.endswith("}"):
        values = tuple(_value(part.strip()) for part in value[1:-1].split(",") if part.strip())
        if len(values) < 2:  # noqa: PLR2004 - one choice is none
            raise ConfigError("a search needs two choices or more", got=repr(text), expected=_FORMS)
        return Choices(values)
    match = _RANGE.match(value)
    low, high = (_value(match[1]), _value(match[2])) if match else (None, None)
    if match is None or not isinstance(low, int | float) or not isinstance(high, int | float):
        raise ConfigError("this is no part of a search space", got=repr(text), expected=_FORMS)
    if not low < high or (match[3] and low <= 0):
        raise ConfigError(
            "the ends of a search range do not fit", got=repr(text), expected="LOW < HIGH, and above 0 for log"
        )
    return Range(low, high, log=bool(match[3]))


def _value(text: str) -> Choice:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, bool | int | float | str) else text
