"""What the journal file notes beside pushes and groups: idempotency keys, and what became of the rows at each target.

Owns the SQL of these tables and their bounds; that of runs is `run_table`'s. Transactions and errors are the
`Journal`'s business.
"""

import sqlite3
from contextlib import closing
from itertools import takewhile

from bridge.journal import run_table
from bridge.journal.rows import Batch, DeliveryRow, KeyRow

MOST_KEYS = 200_000
"""Keys kept at the most; the oldest go first."""
_BYTES_OF_A_LARGE_KEY = 4096
# Row numbers count up with time, so the oldest are found without looking at all.
_DELETE_OLD_KEYS = "DELETE FROM keys WHERE rowid IN (SELECT rowid FROM keys WHERE at_ms < ?1 LIMIT ?2)"
_DELETE_SURPLUS_KEYS = """DELETE FROM keys
    WHERE rowid <= (SELECT max(rowid) FROM keys) - ?1 AND rowid < (SELECT min(rowid) FROM keys) + ?2"""
_DELETE_OLD_DELIVERIES = """DELETE FROM deliveries
    WHERE rowid < (SELECT min(rowid) FROM deliveries) + ?2 AND at_ms < ?1
    AND last_seq < (SELECT coalesce(min(seq), last_seq + 1) FROM journal)"""


def write(connection: sqlite3.Connection, batch: Batch) -> None:
    """Add a batch's notes. Raise sqlite3.Error."""
    if batch.keys:
        connection.executemany(
            "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?)",
            [(row.group, row.key, row.digest, row.first_seq, row.last_seq, row.at_ms) for row in batch.keys],
        )
    if batch.deliveries:
        connection.executemany(
            "INSERT OR REPLACE INTO deliveries VALUES (?, ?, ?, ?, ?, ?)",
            [(row.target, row.first_seq, row.last_seq, row.at_ms, row.reason, row.words) for row in batch.deliveries],
        )
    run_table.write(connection, batch.runs)


def find_key(connection: sqlite3.Connection, group: bytes, key: str) -> KeyRow | None:
    """Give the push that came with a key. Raise sqlite3.Error."""
    row = connection.execute("SELECT * FROM keys WHERE grp = ? AND key = ?", (group, key)).fetchone()
    return None if row is None else KeyRow(*row)


def find_deliveries(connection: sqlite3.Connection, target: str, first_seq: int, last_seq: int) -> list[DeliveryRow]:
    """Give what became of these rows at a target, newest first. Raise sqlite3.Error."""
    select = "SELECT * FROM deliveries WHERE target = ? AND first_seq <= ? ORDER BY first_seq DESC"
    # An open cursor is an open read transaction, which would keep the WAL from being reset.
    with closing(connection.execute(select, (target, last_seq))) as rows:
        return list(takewhile(lambda row: row.last_seq >= first_seq, (DeliveryRow(*row) for row in rows)))


def trim(connection: sqlite3.Connection, before_ms: tuple[int, int], most_keys: int, limit: int) -> int:
    """Delete keys that are older or too many, and deliveries that are older and of rows that are gone.

    `before_ms` is for keys and for deliveries; at most `limit` rows of a kind go. Give their number. Raise
    sqlite3.Error.
    """
    keys_before_ms, deliveries_before_ms = before_ms
    return sum(
        connection.execute(statement, (bound, limit)).rowcount
        for statement, bound in (
            (_DELETE_OLD_KEYS, keys_before_ms),
            (_DELETE_SURPLUS_KEYS, most_keys),
            (_DELETE_OLD_DELIVERIES, deliveries_before_ms),
        )
    )


def most_keys(max_bytes: int) -> int:
    """So many keys are kept in a file of this size: a small one must have room for pushes."""
    return min(MOST_KEYS, max_bytes // _BYTES_OF_A_LARGE_KEY)
