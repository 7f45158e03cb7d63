"""The table of dead letters: what targets refused for good, with their words.

Owns its SQL and its bounds. Transactions and errors are their owners' business; what becomes of a dead letter is
decided elsewhere.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile

from bridge.journal.rows import NEVER_MS, DeadLetter

_COLUMNS = "seq, samples, status, words, maybe_stored, body, tenant, target, at_ms, id"
_BODY_UP_TO = "CASE WHEN samples <= ? THEN body ELSE x'' END AS body"
_TRIM_ROWS = 1000
_OLDEST = """SELECT id, at_ms, samples, length(body) + length(words) FROM dead_letters ORDER BY id LIMIT ?"""


@dataclass(frozen=True, slots=True)
class LetterQuestion:
    """Which dead letters are meant."""

    target: str | None = None
    ids: tuple[int, ...] | None = None
    """These alone."""
    after_id: int = 0
    before_id: int = NEVER_MS
    before_ms: int = NEVER_MS
    """Refused before that time."""
    without_tenants: tuple[str, ...] = ()
    """Not those of these tenants; "" is the letters that have none."""

    def where(self) -> tuple[str, tuple[object, ...]]:
        """Give the condition and its values."""
        terms: list[tuple[str, object]] = [("id > ?", self.after_id), ("id < ?", self.before_id)]
        if self.before_ms < NEVER_MS:
            terms.append(("at_ms < ?", self.before_ms))
        if self.target is not None:
            terms.append(("target = ?", self.target))
        if self.ids is not None:
            terms.append(("id IN (SELECT value FROM json_each(?))", json.dumps(self.ids)))
        if self.without_tenants:
            terms.append(("tenant NOT IN (SELECT value FROM json_each(?))", json.dumps(self.without_tenants)))
        return " AND ".join(term for term, _ in terms), tuple(value for _, value in terms)


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


def find(
    connection: sqlite3.Connection,
    wanted: LetterQuestion,
    limit: int,
    *,
    oldest_first: bool = False,
    bodies_up_to: int = NEVER_MS,
) -> list[DeadLetter]:
    """Give dead letters, the newest first; the body is empty where there are more samples. Raise sqlite3.Error."""
    where, values = wanted.where()
    columns = _COLUMNS.replace("body", _BODY_UP_TO)
    order = "ASC" if oldest_first else "DESC"
    select = f"SELECT {columns} FROM dead_letters WHERE {where} ORDER BY id {order} LIMIT ?"  # noqa: S608
    # An open cursor is an open read transaction, which would keep the WAL from being reset.
    with closing(connection.execute(select, (bodies_up_to, *values, limit))) as rows:
        return [_letter(row) for row in rows]


def measure(connection: sqlite3.Connection, wanted: LetterQuestion) -> tuple[int, int]:
    """Count dead letters, and their samples. Raise sqlite3.Error."""
    where, values = wanted.where()
    select = f"SELECT count(*), coalesce(sum(samples), 0) FROM dead_letters WHERE {where}"  # noqa: S608
    letters, samples = connection.execute(select, values).fetchone()
    return int(letters), int(samples)


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


def delete(connection: sqlite3.Connection, wanted: LetterQuestion) -> int:
    """Delete some; give how many there were. Raise sqlite3.Error."""
    where, values = wanted.where()
    return connection.execute(f"DELETE FROM dead_letters WHERE {where}", values).rowcount  # noqa: S608


def settle(connection: sqlite3.Connection, taken: Sequence[int], left: Iterable[DeadLetter]) -> int:
    """Delete what its target has taken after all, and note what is left of others. Raise sqlite3.Error."""
    connection.executemany(
        "UPDATE dead_letters SET samples = ?, status = ?, words = ?, maybe_stored = ?, body = ? WHERE id = ?",
        [(letter.samples, letter.status, letter.words, letter.maybe_stored, letter.body, letter.id) for letter in left],
    )
    return delete(connection, LetterQuestion(ids=tuple(taken)))


def _letter(row: tuple[int, int, int, str, int, bytes, str, str, int, int]) -> DeadLetter:
    seq, samples, status, words, maybe_stored, body, tenant, target, at_ms, letter_id = row
    return DeadLetter(seq, samples, status, words, bool(maybe_stored), body, tenant, target, at_ms, letter_id)
