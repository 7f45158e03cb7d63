"""Journals as an agent leaves them, written without one, for the commands that read them."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from bridge.groups import key_of
from bridge.journal.rows import Batch, CursorRow, DeliveryRow, GroupRow, Operation, Record
from bridge.journal.store import Journal
from bridge.wire import snappy_block
from bridge.wire.remote_write import STALE_NAN, encode_point, label_bytes
from tests.made import encode_series

AT_MS = 1_700_000_000_000
MAX_BYTES = 1 << 30
Series = tuple[str, float | None]
"""Metric name and value, None for a marker."""


def body(at_ms: int, job: str, series: Iterable[Series]) -> bytes:
    """A row's body: each series once, with the label job."""
    fields = [
        encode_point(label_bytes(labels), STALE_NAN, at_ms) if value is None else encode_series(labels, value, at_ms)
        for name, value in series
        for labels in [(("__name__", name), ("job", job))]
    ]
    return snappy_block.compress(b"".join(fields))


def record(at_ms: int, job: str, *series: Series, operation: Operation = "put") -> Record:
    """A row of a push."""
    return Record(at_ms, key_of((("job", job),)), operation, len(series), body(at_ms, job, series))


def write(
    directory: Path,
    *records: Record,
    cursors: tuple[CursorRow, ...] = (),
    deliveries: tuple[DeliveryRow, ...] = (),
    groups: tuple[GroupRow, ...] = (),
) -> None:
    """Add to the journal in `directory`, which is made if need be, and close it."""
    journal = Journal.open(directory, max_bytes=MAX_BYTES, now_ms=AT_MS)
    journal.write(Batch(records, groups, cursors=cursors, deliveries=deliveries))
    journal.commit()
    journal.close()


def change(directory: Path, statement: str, *values: object) -> None:
    """Change the file behind the journal's back."""
    with closing(sqlite3.connect(directory / "journal.db")) as connection, connection:
        connection.execute(statement, values)
