"""The JSON that the public dataset keeps beside each photo."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from bundle.errors import InputError

MAX_COUNT = 10_000
"""Above any bin (the largest of the public dataset is 209): a larger label is a typing error."""

Quantity = Annotated[StrictInt, Field(ge=0, le=MAX_COUNT)]


class _Item(BaseModel):
    # A foreign format: keys that we do not use may come and go.
    model_config = ConfigDict(extra="ignore", frozen=True)

    quantity: Quantity


class _Sidecar(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    expected_quantity: Quantity = Field(alias="EXPECTED_QUANTITY")
    contents: dict[str, _Item] = Field(alias="BIN_FCSKU_DATA")


class BinRecord(BaseModel):
    """What the inventory system says of one bin.

    Attributes:
        count: The label: EXPECTED_QUANTITY.
        asins: The articles in it, in alphabetical order.
        quantities_sum: Sum over the articles; equals `count` but for a few damaged records.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int
    asins: tuple[str, ...]
    quantities_sum: int


def parse_sidecar(data: bytes, *, name: str) -> BinRecord:
    """Read one JSON sidecar.

    Args:
        data: The file's bytes.
        name: What to call it in an error.

    Returns:
        The record.

    Raises:
        InputError: Not JSON, or without a usable EXPECTED_QUANTITY and BIN_FCSKU_DATA.
    """
    try:
        sidecar = _Sidecar.model_validate_json(data)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise InputError(
            f"{name} is not a bin record", got=f"{where}: {first['msg']}", expected="EXPECTED_QUANTITY 0 or more"
        ) from exc
    return BinRecord(
        count=sidecar.expected_quantity,
        asins=tuple(sorted(sidecar.contents)),
        quantities_sum=sum(item.quantity for item in sidecar.contents.values()),
    )
