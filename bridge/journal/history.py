"""Looks back: which push stands where in the journal, and what became of its rows at each target.

A reader of its own that never changes the file. Bodies are not read; what the answers look like is not known here.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bridge.errors import JournalUnavailableError
from bridge.journal import letter_table, notes, run_table
from bridge.journal.letter_table import LetterQuestion
from bridge.journal.recovery import connect_read_only
from bridge.journal.rows import NEVER_MS, DeadLetter, DeliveryRow, RunRow
from bridge.journal.run_table import KnownRun, RunQuestion

PUSHES = frozenset({"put", "post", "delete"})
"""Operations that are pushes."""
_SELECT = "SELECT seq, arrival_ms, grp, operation, samples FROM journal"
_STRETCH_ROWS = 500
_Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class PushRows:
    """The rows of one push: they have its time and its group, which no two pushes share."""

    first_seq: int
    last_seq: int
    arrival_ms: int
    group: bytes
    operation: str
    samples: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row comes from."""

    group: bytes
    push_seq: int | None
    """First row of its push; None for what came by itself, such as the end of a TTL."""


class History:
    """Questions about the journal, answered from what is committed; use it from one thread at a time."""

    def __init__(self, path: Path, connect: Callable[[Path], sqlite3.Connection] = connect_read_only) -> None:
        """Open the journal file `path`. Raise JournalUnavailableError if it cannot be opened."""
        try:
            self._connection = connect(path)
        except sqlite3.Error as error:
            raise JournalUnavailableError("io_error", f"cannot open the journal {path}: {error}") from error
        self._path = path

    def push_at(self, seq: int) -> PushRows | None:
        """Give the push whose first row is `seq`, None when the journal no longer has it.

        Raise JournalUnavailableError.
        """
        try:
            rows = self._connection.execute(f"{_SELECT} WHERE seq >= ? ORDER BY seq", (seq - 1,))
            try:
                # The row before tells whether this one is the first of its push.
                push = next((push for push in _join(rows) if push.last_seq >= seq), None)
            finally:
                # An open cursor is an open read transaction, which would keep the WAL from being reset.
                rows.close()
        except sqlite3.Error as error:
            raise self._unreadable(error) from error
        return push if push is not None and push.first_seq == seq else None

    def pushes_before(self, seq: int, part_of_group: bytes = b"") -> Iterator[PushRows | None]:
        """Give the pushes whose rows come before `seq` and whose group contains these bytes, newest first.

        None comes after each stretch of the journal, so that whoever asks can let others run: few pushes of one
        group may lie among very many others. Raise JournalUnavailableError.
        """
        oldest, newest = self._all("SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM journal")[0]
        return self._stretches(oldest, min(seq, newest + 1), part_of_group)

    def _stretches(self, oldest: int, end: int, part: bytes) -> Iterator[PushRows | None]:
        select = f"{_SELECT} WHERE seq < ? AND seq >= ? AND instr(grp, ?) ORDER BY seq DESC"
        last: PushRows | None = None
        while end > oldest:
            # The oldest push of a stretch may go on in the next one.
            found = list(_join(self._all(select, end, end - _STRETCH_ROWS, part), last))
            last = found.pop() if found else None
            yield from found
            yield None
            end -= _STRETCH_ROWS
        if last is not None:
            yield last

    def deliveries(self, target: str, first_seq: int, last_seq: int) -> list[DeliveryRow]:
        """Give what is known of these rows at a target. Raise JournalUnavailableError."""
        try:
            return notes.find_deliveries(self._connection, target, first_seq, last_seq)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def origin(self, seq: int) -> Origin | None:
        """Tell where a row comes from, None when the journal no longer has it. Raise JournalUnavailableError."""
        found = self._all("SELECT grp, operation FROM journal WHERE seq = ?", seq)
        if not found:
            return None
        ((group, operation),) = found
        if operation not in PUSHES:
            return Origin(group, None)
        try:
            with closing(self._connection.execute(f"{_SELECT} WHERE seq <= ? ORDER BY seq DESC", (seq,))) as rows:
                push = next(_join(rows), None)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error
        return Origin(group, push.first_seq if push is not None else None)

    def dead_letters(self, wanted: LetterQuestion, limit: int, *, bodies_up_to: int = NEVER_MS) -> list[DeadLetter]:
        """Give the newest dead letters; the body is empty where there are more samples.

        Raise JournalUnavailableError.
        """
        try:
            return letter_table.find(self._connection, wanted, limit, bodies_up_to=bodies_up_to)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def oldest_letters(self, wanted: LetterQuestion, limit: int) -> list[DeadLetter]:
        """Give the oldest dead letters. Raise JournalUnavailableError."""
        try:
            return letter_table.find(self._connection, wanted, limit, oldest_first=True)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def measure_letters(self, wanted: LetterQuestion) -> tuple[int, int]:
        """Count dead letters, and their samples. Raise JournalUnavailableError."""
        try:
            return letter_table.measure(self._connection, wanted)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def dead_letters_kept(self) -> dict[str, int]:
        """Samples in the dead letters that are kept, by target. Raise JournalUnavailableError."""
        try:
            return letter_table.count(self._connection)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def newest_runs(self) -> list[RunRow]:
        """Give the newest run of each group that has not ended since. Raise JournalUnavailableError."""
        try:
            return run_table.newest(self._connection)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def runs(self, question: RunQuestion) -> list[KnownRun]:
        """Give the runs that are asked for, newest first. Raise JournalUnavailableError."""
        try:
            return run_table.find(self._connection, question)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def close(self) -> None:
        """Close the connection; the history must not be asked afterwards."""
        self._connection.close()

    def _all(self, select: str, *values: object) -> list[_Row]:
        try:
            return self._connection.execute(select, values).fetchall()
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: sqlite3.Error) -> JournalUnavailableError:
        return JournalUnavailableError("io_error", f"cannot read the journal {self._path}: {error}")


def _join(rows: Iterable[_Row], push: PushRows | None = None) -> Iterator[PushRows]:
    """Put neighbouring rows together to pushes, in the order of the rows; `push` is one that they may go on with."""
    for seq, arrival_ms, group, operation, samples in rows:
        if push is not None and (push.arrival_ms, push.group) == (arrival_ms, group):
            first_seq, last_seq = min(push.first_seq, seq), max(push.last_seq, seq)
            push = replace(push, first_seq=first_seq, last_seq=last_seq, samples=push.samples + samples)
            continue
        if push is not None:
            yield push
        push = PushRows(seq, seq, arrival_ms, group, operation, samples) if operation in PUSHES else None
    if push is not None:
        yield push
