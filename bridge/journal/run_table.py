"""The table of runs: what is written, what is kept, and how it is asked.

Owns its SQL and its bound. Transactions and errors are their owners' business, `Journal` and `History`.
"""

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from bridge.journal.rows import RunNote, RunRow

MOST_RUNS = 100_000
"""Runs kept at the most, but for the newest of each group: about 20 MB."""
_BYTES_OF_A_RUN = 4096
_AT_ONCE = 1000
_COLUMNS = "grp, start_ms, end_ms, success, exit_code, duration_ms, max_rss_bytes, every_ms, grace_ms"
_PUT = """INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT (grp, start_ms) DO UPDATE SET
    end_ms = excluded.end_ms, success = excluded.success, exit_code = excluded.exit_code,
    duration_ms = excluded.duration_ms, max_rss_bytes = excluded.max_rss_bytes, every_ms = excluded.every_ms,
    grace_ms = excluded.grace_ms, closed = 0 WHERE excluded.end_ms != 0"""
_CLOSE = "UPDATE runs SET closed = 1 WHERE grp = ? AND closed = 0"
_OUTLIVED = """(closed = 1 OR EXISTS (SELECT 1 FROM runs AS other
    WHERE other.grp = runs.grp AND other.start_ms > runs.start_ms AND other.closed = 0))"""
_IS_NEWEST = (
    """NOT EXISTS (SELECT 1 FROM runs AS other WHERE other.grp = runs.grp AND other.start_ms > runs.start_ms)"""
)


@dataclass(frozen=True, slots=True)
class RunQuestion:
    """Which runs are asked for."""

    since_ms: int
    """Those that began then or later."""
    limit: int
    part_of_group: bytes = b""
    """The grouping key contains this; quick, so that few are put to `wanted`."""
    wanted: Callable[[bytes], bool] = lambda _: True
    """Of the grouping key."""


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run, and whether no other run of its group began later."""

    run: RunRow
    is_newest: bool


def write(connection: sqlite3.Connection, notes: Iterable[RunNote]) -> None:
    """Add what is new, in its order; a start changes no run that is known already. Raise sqlite3.Error."""
    for note in notes:
        if isinstance(note, bytes):
            connection.execute(_CLOSE, (note,))
        else:
            connection.execute(_PUT, _values(note))


def trim(connection: sqlite3.Connection, before_ms: int, most: int) -> None:
    """Delete runs that began before this, a limited number, then the oldest over the bound, finished ones first.

    The newest run of a group stays until the group ends. Raise sqlite3.Error.
    """
    connection.execute(
        f"DELETE FROM runs WHERE rowid IN (SELECT rowid FROM runs WHERE start_ms < ? AND {_OUTLIVED} LIMIT ?)",  # noqa: S608
        (before_ms, _AT_ONCE),
    )
    ((count,),) = connection.execute("SELECT count(*) FROM runs").fetchall()
    if count > most:
        # All of them are looked at, so some more go than must: then it is not to be done again soon.
        connection.execute(
            f"DELETE FROM runs WHERE rowid IN (SELECT rowid FROM runs WHERE {_OUTLIVED}"  # noqa: S608
            " ORDER BY end_ms = 0, start_ms LIMIT ?)",
            (count - most + most // 100,),
        )


def most_runs(max_bytes: int) -> int:
    """So many runs are kept in a file of this size: a small one must have room for pushes."""
    return min(MOST_RUNS, max_bytes // _BYTES_OF_A_RUN)


def newest(connection: sqlite3.Connection) -> list[RunRow]:
    """Give the newest run of each group that has not ended since. Raise sqlite3.Error."""
    rows = connection.execute(f"SELECT {_COLUMNS}, max(start_ms) FROM runs WHERE closed = 0 GROUP BY grp")  # noqa: S608
    return [_run(row[:-1]) for row in rows.fetchall()]


def find(connection: sqlite3.Connection, question: RunQuestion) -> list[KnownRun]:
    """Give the runs that are asked for, newest first. Raise sqlite3.Error."""
    select = (
        f"SELECT {_COLUMNS}, end_ms != 0 OR {_IS_NEWEST} FROM runs"  # noqa: S608
        " WHERE start_ms >= ? AND instr(grp, ?) ORDER BY start_ms DESC, grp"
    )
    # An open cursor is an open read transaction, which would keep the WAL from being reset.
    with closing(connection.execute(select, (question.since_ms, question.part_of_group))) as rows:
        wanted = (KnownRun(_run(row[:-1]), bool(row[-1])) for row in rows if question.wanted(row[0]))
        return list(islice(wanted, question.limit))


def _values(run: RunRow) -> tuple[object, ...]:
    return (
        run.group,
        run.start_ms,
        run.end_ms,
        run.success,
        run.exit_code,
        run.duration_ms,
        run.max_rss_bytes,
        run.every_ms,
        run.grace_ms,
    )


def _run(row: tuple[object, ...]) -> RunRow:
    group, start_ms, end_ms, success, *rest = row
    return RunRow(group, start_ms, end_ms, bool(success), *rest)  # type: ignore[arg-type]
