"""The table of cursors: how far each target has confirmed, and its account.

Owns its SQL and the form of its columns. Transactions and errors are their owners' business.
"""

import json
import sqlite3
from collections.abc import Iterable

from bridge.journal import schema
from bridge.journal.rows import CursorRow


def write(connection: sqlite3.Connection, cursors: Iterable[CursorRow]) -> None:
    """Replace what was stored of these targets. Raise sqlite3.Error."""
    connection.executemany("INSERT OR REPLACE INTO cursors VALUES (?, ?, ?, ?, ?, ?)", map(_values, cursors))


def read(connection: sqlite3.Connection) -> list[CursorRow]:
    """Give every target's cursor, by name. Raise sqlite3.Error."""
    return [
        CursorRow(
            target.decode(errors="replace"), seq, start_total, delivered, _totals(dropped), _totals(dead_lettered)
        )
        for target, seq, start_total, delivered, dropped, dead_lettered in connection.execute(
            schema.READ_CURSORS
        ).fetchall()
    ]


def delete(connection: sqlite3.Connection, target: str) -> None:
    """Forget a target. Raise sqlite3.Error."""
    connection.execute("DELETE FROM cursors WHERE target = ?", (target,))


def _values(cursor: CursorRow) -> tuple[str, int, int, int, str, str]:
    totals = json.dumps(cursor.dropped), json.dumps(cursor.dead_lettered)
    return cursor.target, cursor.seq, cursor.start_total, cursor.delivered, *totals


def _totals(text: bytes) -> tuple[tuple[str, int], ...]:
    try:
        return tuple((str(reason), int(samples)) for reason, samples in json.loads(text))
    except (ValueError, TypeError):
        return ()  # Damaged: what the account lacks then is booked as lost.
