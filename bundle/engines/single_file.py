"""A model that reaches outside its own bytes is refused before a runtime sees it.

ONNX lets a tensor live in another file, named by a path. Current runtimes confine such a path to the working directory,
older ones follow it anywhere; a bundle's model has no business outside its hashed bytes at all. The check walks the
protocol buffer itself (onnx.proto, field numbers are stable by contract), because a robot has no onnx package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bundle.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MORE = 0x80
_MAX_DEPTH = 32

# message: {field number: message of that field}; what is not listed holds no tensor.
_FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


def require_single_file(model: bytes, file: str) -> None:
    """Refuse a model with external data, or one that is no protocol buffer.

    Args:
        model: Serialised ONNX.
        file: What to call it in an error.

    Raises:
        IntegrityError: A tensor lives outside the file, or the bytes are damaged.
    """
    try:
        external = any(_external(memoryview(model), "model", 0))
    except (IndexError, ValueError) as exc:
        raise IntegrityError(f"{file} is no ONNX model", got=str(exc), fix="Export the bundle again.") from exc
    if external:
        raise IntegrityError(
            f"{file} keeps weights outside the file",
            got="a tensor with external data",
            expected="one self-contained file",
            fix="Export the bundle again; do not run this one.",
        )


def _external(data: memoryview, message: str, depth: int) -> Iterator[bool]:
    if depth > _MAX_DEPTH:
        raise ValueError("graphs nested too deep")
    inner = _FIELDS[message]
    for number, wire, value in _fields(data):
        if message == "tensor" and (
            number == _EXTERNAL_DATA or (number == _DATA_LOCATION and not isinstance(value, memoryview) and value)
        ):
            yield True
        elif number in inner:
            if wire != _BYTES or not isinstance(value, memoryview):
                raise ValueError(f"field {number} of a {message} has wire type {wire}")
            yield from _external(value, inner[number], depth + 1)


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        value: int | memoryview
        if wire == _VARINT:
            value, position = _varint(data, position)
        elif wire == _BYTES:
            size, position = _varint(data, position)
            value, position = data[position : position + size], position + size
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
            value, position = data[position : position + size], position + size
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position > len(data):
            raise ValueError("cut short")
        yield number, wire, value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & ~_MORE) << shift
        position += 1
        if not byte & _MORE:
            return value, position
        shift += 7
        if shift > 63:  # noqa: PLR2004 - a varint has at most ten bytes
            raise ValueError("a number of more than 64 bits")
