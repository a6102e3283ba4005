"""The files of a dataset folder: names, columns, reading and writing them whole.

The manifest is Parquet, the rest JSON. Equal content gives equal bytes, for one version of pyarrow: no time stamp,
fixed encodings, one writer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from bundle import durable
from bundle.errors import InputError
from train.data.disk import writing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MANIFEST_NAME = "manifest.parquet"
LOCATION_NAME = "dataset.json"
REJECTED_NAME = "rejected.jsonl"
NOTICES_NAME = "notices.jsonl"
FORMAT_VERSION = 1
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("count", pa.int32(), nullable=False),
        pa.field("group", pa.int32(), nullable=False),
        pa.field("asins", pa.list_(pa.string())),
        pa.field("blur", pa.float32(), nullable=False),
        pa.field("brightness", pa.float32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)
_FORMAT_KEY = b"bintally.format"
_NOTE_KEY = b"bintally.note"
_ROW_GROUP_ROWS = 131_072


def column(table: pa.Table, name: str) -> pa.Array:
    """Take one column of a table as one array, without a copy when it already is one.

    Args:
        table: Any Arrow table.
        name: Name of the column.

    Returns:
        The Arrow array.
    """
    return one_chunk(table.column(name))


def one_chunk(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Make one array of what may be several.

    Args:
        values: Arrow values.

    Returns:
        The same as one Arrow array, without a copy when it already is one.
    """
    if isinstance(values, pa.Array):
        return values
    return values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()


def write_manifest(folder: Path, table: pa.Table, note: Mapping[str, Any]) -> str:
    """Write manifest.parquet, whole or not at all.

    Args:
        folder: An existing folder.
        table: Columns of `SCHEMA`; cast to it.
        note: Remembered in the file, and so part of the digest: options, never times or machine paths.

    Returns:
        sha256 of the file.

    Raises:
        ConfigError: The folder cannot be written.
        DiskError: The disk is full; the old manifest is then still there.
    """
    text = json.dumps(note, sort_keys=True, ensure_ascii=False)
    metadata = {_FORMAT_KEY: str(FORMAT_VERSION).encode(), _NOTE_KEY: text.encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(
        one_chunk_each(table.cast(SCHEMA)).replace_schema_metadata(metadata),
        sink,
        compression="zstd",
        compression_level=6,
        row_group_size=_ROW_GROUP_ROWS,
        # sha256 never repeats: a dictionary of it would only cost memory before the writer gives it up.
        use_dictionary=["split", "asins.list.element"],
        write_page_index=False,
    )
    with writing(folder):
        durable.write_bytes(folder / MANIFEST_NAME, sink.getvalue().to_pybytes())
        return durable.sha256_file(folder / MANIFEST_NAME)


def write_location(folder: Path, image_root: Path, *, layout: str) -> None:
    """Remember where the photos of a dataset lie.

    Args:
        folder: The dataset folder.
        image_root: Folder that the manifest's paths start from; inside `folder` it is remembered as relative.
        layout: How the photos were found, for people.

    Raises:
        ConfigError: The folder cannot be written.
        DiskError: The disk is full.
    """
    resolved, home = image_root.resolve(), folder.resolve()
    where = resolved.relative_to(home) if resolved.is_relative_to(home) else resolved
    with writing(folder):
        durable.write_json(folder / LOCATION_NAME, {"image_root": str(where), "layout": layout})


def read_location(folder: Path) -> Path:
    """Look up where the photos of a dataset lie.

    Args:
        folder: The dataset folder.

    Returns:
        Folder that the manifest's paths start from.

    Raises:
        InputError: dataset.json is missing or says nothing of it.
    """
    path = folder / LOCATION_NAME
    try:
        root = json.loads(path.read_text())["image_root"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise InputError(
            f"{path} does not say where the photos lie",
            got=str(exc),
            expected='{"image_root": "FOLDER", ...}',
            fix="Import again, or write the file by hand.",
        ) from exc
    return folder / str(root)


def read_manifest(folder: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Read manifest.parquet.

    Args:
        folder: The dataset folder.

    Returns:
        The columns of `SCHEMA`, each one contiguous array; and the note of `write_manifest`.

    Raises:
        InputError: It is missing, damaged, or of another format.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise InputError(
            f"{folder} is not a dataset folder",
            got=f"no {MANIFEST_NAME}",
            fix="Make one with `bintally data import SOURCE --out FOLDER`.",
        )
    try:
        table = pq.read_table(path, memory_map=False)
    except (pa.ArrowInvalid, OSError) as exc:
        raise InputError(f"{path} cannot be read", got=str(exc), fix="Import the dataset again.") from exc
    version = (table.schema.metadata or {}).get(_FORMAT_KEY, b"none").decode()
    if version != str(FORMAT_VERSION):
        raise InputError(
            f"{path} has another format",
            got=f"version {version}",
            expected=f"version {FORMAT_VERSION}",
            fix="Import the dataset again with this bintally.",
        )
    if not table.schema.equals(SCHEMA):
        raise InputError(f"{path} has other columns", got=str(table.schema.names), expected=str(SCHEMA.names))
    note: dict[str, Any] = json.loads(table.schema.metadata.get(_NOTE_KEY, b"{}"))
    return one_chunk_each(table), note


def one_chunk_each(table: pa.Table) -> pa.Table:
    """Make each column one contiguous array: that is what makes numpy views without copies possible.

    Args:
        table: Any Arrow table.

    Returns:
        The same rows and columns.
    """
    arrays = [column(table, name) for name in table.schema.names]
    return pa.Table.from_arrays(arrays, schema=table.schema)
