from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from bundle.manifest import CountClasses, Preprocessing, class_index


class _Holder(BaseModel):
    classes: CountClasses


@pytest.mark.parametrize(
    "classes", [("0", "1"), ("1", "2", "3", "4", "5"), ("0", "1", "2", "3+"), ("9", "10", "11+")], ids=str
)
def test_count_classes_consecutive_are_accepted(classes: tuple[str, ...]) -> None:
    assert _Holder(classes=classes).classes == classes


@pytest.mark.parametrize(
    "classes",
    [("0",), ("0", "2"), ("1", "0"), ("0+", "1"), ("0", "01"), ("0", "one"), ("0", "1", "1+"), ("-1", "0")],
    ids=str,
)
def test_count_classes_malformed_are_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        _Holder(classes=classes)


@pytest.mark.parametrize(
    ("classes", "count", "expected"),
    [
        (("0", "1", "2+"), 0, 0),
        (("0", "1", "2+"), 2, 2),
        (("0", "1", "2+"), 40, 2),
        (("1", "2", "3"), 0, None),
        (("1", "2", "3"), 3, 2),
        (("1", "2", "3"), 4, None),
    ],
)
def test_class_index_places_a_count(classes: tuple[str, ...], count: int, expected: int | None) -> None:
    assert class_index(classes, count) == expected


def test_preprocessing_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="sise"):
        Preprocessing.model_validate({"sise": [224, 224]})


def test_preprocessing_zero_std_is_refused() -> None:
    with pytest.raises(ValidationError, match="std must be positive"):
        Preprocessing(std=(0.2, 0.0, 0.2))
