"""What the journal file notes beside pushes and groups: idempotency keys, and what became of the rows at each target.

Owns the SQL of these tables and their bounds. Transactions and errors are the `Journal`'s business.
"""

import sqlite3
from itertools import takewhile

from bridge.journal.rows import Batch, DeliveryRow, KeyRow

MOST_KEYS = 200_000
"""Keys kept at the most; the oldest go first."""


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


def find_key(connection: sqlite3.Connection, group: bytes, key: str) -> KeyRow | None:
    """Give the push that came with a key. Raise sqlite3.Error."""
    row = connection.execute("SELECT * FROM keys WHERE grp = ? AND key = ?", (group, key)).fetchone()
    return None if row is None else KeyRow(*row)


def find_deliveries(connection: sqlite3.Connection, target: str, first_seq: int, last_seq: int) -> list[DeliveryRow]:
    """Give what became of these rows at a target, newest first. Raise sqlite3.Error."""
    rows = connection.execute(
        "SELECT * FROM deliveries WHERE target = ? AND first_seq <= ? ORDER BY first_seq DESC", (target, last_seq)
    )
    return list(takewhile(lambda row: row.last_seq >= first_seq, (DeliveryRow(*row) for row in rows)))


def trim(connection: sqlite3.Connection, keys_before_ms: int, deliveries_before_ms: int) -> None:
    """Delete what is older, and the oldest keys over the bound. Raise sqlite3.Error."""
    connection.execute("DELETE FROM keys WHERE at_ms < ?", (keys_before_ms,))
    connection.execute(
        "DELETE FROM keys WHERE rowid IN (SELECT rowid FROM keys ORDER BY at_ms DESC LIMIT -1 OFFSET ?)", (MOST_KEYS,)
    )
    connection.execute("DELETE FROM deliveries WHERE at_ms < ?", (deliveries_before_ms,))
