"""Archived events in Parquet, for programs that analyse them. Needs pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pyarrow
import pyarrow.csv
import pyarrow.parquet

INTEGER = pyarrow.int64()
TEXT = pyarrow.string()
COLUMNS = {
    "seal_id": INTEGER,
    "id": INTEGER,
    "event_type": TEXT,
    "event_source": TEXT,
    "serial_id": INTEGER,
    "serial_number": TEXT,
    "part_id": TEXT,
    "site_id": TEXT,
    "performed_by": TEXT,
    "db_user": TEXT,
    "performed_at": pyarrow.timestamp("us", tz="UTC"),
    "reason": TEXT,
    "details": TEXT,
    "transaction_id": INTEGER,
}

# More than the longest event, as one must lie within a block; and what is in memory at a time.
BLOCK = 32 << 20


def write(events: Path, target: BinaryIO) -> int:
    """Writes the events of an archive's gzipped CSV to target; how many."""
    schema = pyarrow.schema(COLUMNS)
    rows = 0
    with (
        pyarrow.input_stream(str(events), compression="gzip") as stream,
        pyarrow.csv.open_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(block_size=BLOCK, use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=schema,
                # Null is empty without quotes, and nothing else.
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        ) as batches,
        pyarrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def count(path: Path) -> int:
    """How many events a file holds, all of which are read."""
    with pyarrow.parquet.ParquetFile(path) as file:
        return sum(batch.num_rows for batch in file.iter_batches())
