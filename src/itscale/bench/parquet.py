"""Rows as Parquet, for DuckDB and data frames. Needs pyarrow (extra `bench`)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itscale.bench.log import full_disk
from itscale.bench.rows import SCHEMA, SCHEMA_VERSION, Row

__all__ = ["write_parquet"]


def write_parquet(rows: Sequence[Row], file: Path) -> Path | None:
    """Write every row to `file` in one move; None if pyarrow is not installed.

    Raises:
        StoreError: the file cannot be written; an earlier one is left as it was.
    """
    try:
        pa: Any = importlib.import_module("pyarrow")  # untyped, and perhaps not there
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        return None
    schema = pa.schema(
        [(name, getattr(pa, {"bool": "bool_"}.get(kind, kind))()) for name, kind in SCHEMA.items()],
        metadata={"itscale_schema": str(SCHEMA_VERSION)},
    )
    table = pa.Table.from_pylist([row.to_json() for row in rows], schema=schema)
    beside = file.with_name(file.name + ".tmp")
    try:
        parquet.write_table(table, beside, compression="zstd")
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise full_disk(file, error) from error
    return file
