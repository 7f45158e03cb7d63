"""The table of dead letters: what targets refused for good, with their words.

Owns its SQL and its bounds. Transactions and errors are their owners' business; what becomes of a dead letter is
decided elsewhere.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import takewhile

from bridge.journal.rows import DeadLetter

_COLUMNS = "seq, samples, status, words, maybe_stored, body, tenant, target, at_ms, id"
_TRIM_ROWS = 1000
_OLDEST = """SELECT id, at_ms, samples, length(body) + length(words) FROM dead_letters ORDER BY id LIMIT ?"""
_DELETED_AT_ONCE = 500


def write(connection: sqlite3.Connection, letters: Iterable[DeadLetter], most_samples: int, most_bytes: int) -> None:
    """Add dead letters; the oldest over the bounds go. Raise sqlite3.Error."""
    connection.executemany(
        f"INSERT INTO dead_letters ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",  # noqa: S608
        [
            (
                letter.seq,
                letter.samples,
                letter.status,
                letter.words,
                letter.maybe_stored,
                letter.body,
                letter.tenant,
                letter.target,
                letter.at_ms,
            )
            for letter in letters
        ],
    )
    _trim_surplus(connection, most_samples, most_bytes)


def find_newest(connection: sqlite3.Connection, target: str | None, before_id: int, limit: int) -> list[DeadLetter]:
    """Give the newest dead letters before an id, of one target if it is named. Raise sqlite3.Error."""
    where, values = ("target = ? AND ", (target,)) if target is not None else ("", ())
    select = f"SELECT {_COLUMNS} FROM dead_letters WHERE {where}id < ? ORDER BY id DESC LIMIT ?"  # noqa: S608
    # An open cursor is an open read transaction, which would keep the WAL from being reset.
    with closing(connection.execute(select, (*values, before_id, limit))) as rows:
        return [_letter(row) for row in rows]


def find(connection: sqlite3.Connection, letter_id: int) -> DeadLetter | None:
    """Give one dead letter. Raise sqlite3.Error."""
    found = find_newest(connection, None, letter_id + 1, 1)
    return found[0] if found and found[0].id == letter_id else None


def count(connection: sqlite3.Connection) -> dict[str, int]:
    """Samples in the dead letters that are kept, by target. Raise sqlite3.Error."""
    return dict(connection.execute("SELECT target, samples FROM dead_letter_totals").fetchall())


def trim(connection: sqlite3.Connection, before_ms: int) -> int:
    """Delete the oldest as far as they are older than this, not very many at a time; give how many.

    Raise sqlite3.Error.
    """
    oldest = connection.execute(_OLDEST, (_TRIM_ROWS,)).fetchall()
    ids = [letter_id for letter_id, *_ in takewhile(lambda row: row[1] < before_ms, oldest)]
    return _delete_through(connection, ids[-1]) if ids else 0


def _trim_surplus(connection: sqlite3.Connection, most_samples: int, most_bytes: int) -> None:
    totals = connection.execute("SELECT coalesce(sum(samples), 0), coalesce(sum(bytes), 0) FROM dead_letter_totals")
    samples, size = totals.fetchone()
    while samples > most_samples or size > most_bytes:
        oldest = connection.execute(_OLDEST, (_TRIM_ROWS,)).fetchall()
        if not oldest:
            return
        through = 0
        for letter_id, _, its_samples, its_bytes in oldest:
            if samples <= most_samples and size <= most_bytes:
                break
            through, samples, size = letter_id, samples - its_samples, size - its_bytes
        _delete_through(connection, through)


def _delete_through(connection: sqlite3.Connection, letter_id: int) -> int:
    return connection.execute("DELETE FROM dead_letters WHERE id <= ?", (letter_id,)).rowcount


def delete(connection: sqlite3.Connection, ids: Sequence[int]) -> int:
    """Delete these; give how many there were. Raise sqlite3.Error."""
    deleted = 0
    for start in range(0, len(ids), _DELETED_AT_ONCE):
        some = ids[start : start + _DELETED_AT_ONCE]
        marks = ", ".join("?" * len(some))
        deleted += connection.execute(f"DELETE FROM dead_letters WHERE id IN ({marks})", tuple(some)).rowcount  # noqa: S608
    return deleted


def _letter(row: tuple[int, int, int, str, int, bytes, str, str, int, int]) -> DeadLetter:
    seq, samples, status, words, maybe_stored, body, tenant, target, at_ms, letter_id = row
    return DeadLetter(seq, samples, status, words, bool(maybe_stored), body, tenant, target, at_ms, letter_id)
