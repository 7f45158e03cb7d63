"""Looks back: which push stands where in the journal, and what became of its rows at each target.

A reader of its own that never changes the file. Bodies are not read; what the answers look like is not known here.
"""

import sqlite3
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

from bridge.errors import JournalUnavailableError
from bridge.journal import notes
from bridge.journal.recovery import connect_read_only
from bridge.journal.rows import DeliveryRow

_PUSHES = frozenset({"put", "post", "delete"})
_COLUMNS = "seq, arrival_ms, grp, operation, samples"


@dataclass(frozen=True, slots=True)
class PushRows:
    """The rows of one push: they have its time and its group, which no two pushes share."""

    first_seq: int
    last_seq: int
    arrival_ms: int
    group: bytes
    operation: str
    samples: int


class History:
    """Questions about the journal, answered from what is committed; use it from one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open the journal file `path`. Raise JournalUnavailableError if it cannot be opened."""
        try:
            self._connection = connect_read_only(path)
        except sqlite3.Error as error:
            raise JournalUnavailableError("io_error", f"cannot open the journal {path}: {error}") from error
        self._path = path

    def push_at(self, seq: int) -> PushRows | None:
        """Give the push whose first row is `seq`, None when the journal no longer has it."""
        rows = self._pushes(f"SELECT {_COLUMNS} FROM journal WHERE seq >= ? ORDER BY seq", seq)  # noqa: S608
        push = next(rows, None)
        return push if push is not None and push.first_seq == seq else None

    def pushes_before(self, seq: int) -> Generator[PushRows, None, None]:
        """Give the pushes whose rows come before `seq`, newest first."""
        return self._pushes(f"SELECT {_COLUMNS} FROM journal WHERE seq < ? ORDER BY seq DESC", seq)  # noqa: S608

    def deliveries(self, target: str, first_seq: int, last_seq: int) -> list[DeliveryRow]:
        """Give what is known of these rows at a target. Raise JournalUnavailableError."""
        try:
            return notes.find_deliveries(self._connection, target, first_seq, last_seq)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def close(self) -> None:
        """Close the connection; the history must not be asked afterwards."""
        self._connection.close()

    def _pushes(self, select: str, seq: int) -> Generator[PushRows, None, None]:
        push: PushRows | None = None
        try:
            rows = self._connection.execute(select, (seq,))
            try:
                for at, arrival_ms, group, operation, samples in rows:
                    if push is not None and (push.arrival_ms, push.group) == (arrival_ms, group):
                        first_seq, last_seq = min(push.first_seq, at), max(push.last_seq, at)
                        push = replace(push, first_seq=first_seq, last_seq=last_seq, samples=push.samples + samples)
                        continue
                    if push is not None:
                        yield push
                    push = PushRows(at, at, arrival_ms, group, operation, samples) if operation in _PUSHES else None
            finally:
                # An open cursor is an open read transaction, which would keep the WAL from being reset.
                rows.close()
        except sqlite3.Error as error:
            raise self._unreadable(error) from error
        if push is not None:
            yield push

    def _unreadable(self, error: sqlite3.Error) -> JournalUnavailableError:
        return JournalUnavailableError("io_error", f"cannot read the journal {self._path}: {error}")
