"""Scores and failures as Parquet files, one column per field of their record."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

import pyarrow as pa
import pyarrow.parquet as pq

from dllm_agents.errors import StageError
from dllm_agents.files import write_aside
from dllm_agents.records import Record

if TYPE_CHECKING:
    import pandas as pd

_ARROW: dict[Any, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}

ROWS_AT_ONCE = 20_000


def arrow_schema(record: type[Record]) -> pa.Schema:
    """The Parquet schema of a flat record; optional fields and literals take their plain type, mappings hold numbers by name."""
    return pa.schema([(name, _arrow_type(field.annotation)) for name, field in record.model_fields.items()])


def write_frame(path: str | Path, records: Iterable[Record], record: type[Record]) -> int:
    """Write flat records as Parquet as they come, aside and then renamed; returns how many. No records make a file with columns and no
    rows."""
    schema, count, waiting = arrow_schema(record), 0, iter(records)
    with write_aside(path, "wb") as handle, pq.ParquetWriter(handle, schema) as writer:
        while rows := list(islice(waiting, ROWS_AT_ONCE)):
            columns = [pa.array([getattr(row, field.name) for row in rows], field.type) for field in schema]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            count += len(rows)
    return count


def read_table(path: str | Path, record: type[Record]) -> pa.Table:
    """The columns of a record from a Parquet file. Raises StageError naming the file when it is not one, or lacks a column."""
    try:
        table = pq.ParquetFile(str(path)).read()
    except OSError as error:
        raise StageError(f"{path}: {error.strerror or 'cannot be read'}; run the score stage that writes it") from None
    except pa.ArrowInvalid:
        raise StageError(f"{path}: not a Parquet file, or truncated; delete it to make it again") from None
    missing = [name for name in record.model_fields if name not in table.column_names]
    if missing:
        raise StageError(f"{path}: no column {missing[0]!r}; it was written by another version: delete it to make it again")
    return table.select(list(record.model_fields))


def read_frame(path: str | Path, record: type[Record]) -> pd.DataFrame:
    """`read_table` as a data frame, with mappings as dictionaries and absent text as None."""
    table = read_table(path, record)
    frame = table.to_pandas()
    for name in frame.columns:
        if pa.types.is_map(table.schema.field(name).type):
            frame[name] = frame[name].map(dict)
    for name in frame.columns[frame.isna().any()]:
        # Absent text stays None: pandas would make it a float that is not a number.
        if pa.types.is_string(table.schema.field(name).type):
            frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
    return frame


def _arrow_type(annotation: Any) -> pa.DataType:
    if get_origin(annotation) is dict:
        return pa.map_(pa.string(), pa.float64())
    for kind in (annotation, *get_args(annotation)):
        if kind in _ARROW:
            return _ARROW[kind]
    return pa.string()
