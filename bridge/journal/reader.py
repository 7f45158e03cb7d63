"""Reads committed journal rows in order, for delivery; it never changes the file.

Owns the checksum test of what comes back. Writing, trimming and cursors must not live here.
"""

import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Self

from bridge.errors import JournalUnavailableError
from bridge.journal import schema
from bridge.journal.recovery import connect_read_only
from bridge.journal.rows import Entry

_ALL = (1 << 63) - 1


class JournalReader:
    """A read-only connection of its own; usable from any thread, but from one at a time.

    The file must exist: open the `Journal` first. Each `read` sees what was committed before it began.
    """

    def __init__(self, path: Path, through_seq: Callable[[], int] = lambda: _ALL) -> None:
        """Open the journal file `path`; `read` gives rows up to `through_seq`. Raise JournalUnavailableError."""
        try:
            self._connection = connect_read_only(path)
        except sqlite3.Error as error:
            raise JournalUnavailableError("io_error", f"cannot open the journal {path}: {error}") from error
        self._path = path
        self._through_seq = through_seq

    def read(self, after_seq: int, max_samples: int, max_bytes: int) -> list[Entry]:
        """Give rows with `seq > after_seq` in order until the next would exceed either limit.

        The limits are sums over the rows' samples and stored body bytes. The first row is given whatever its
        size, so that a large push cannot stop delivery. Raise JournalUnavailableError.
        """
        entries: list[Entry] = []
        samples_left, bytes_left = max_samples, max_bytes
        try:
            rows = self._connection.execute(schema.READ_ROWS, (after_seq, self._through_seq()))
            try:
                for seq, samples, arrival_ms, crc, group, kinds, body in rows:
                    samples_left -= samples
                    bytes_left -= len(body)
                    if entries and (samples_left < 0 or bytes_left < 0):
                        break
                    damaged = zlib.crc32(body) != crc
                    entries.append(Entry(seq, samples, b"" if damaged else body, arrival_ms, damaged, group, kinds))
            finally:
                # An open cursor is an open read transaction, which would keep the WAL from being reset.
                rows.close()
        except sqlite3.Error as error:
            raise JournalUnavailableError("io_error", f"cannot read the journal {self._path}: {error}") from error
        return entries

    def oldest_ms(self, after_seq: int) -> int | None:
        """Give the arrival (ms since the epoch) of the first row after `after_seq`, None when there is none.

        Raise JournalUnavailableError.
        """
        return self._one("SELECT arrival_ms FROM journal WHERE seq > ? ORDER BY seq LIMIT 1", after_seq)

    def first_seq(self, since_ms: int) -> int | None:
        """Give the first row that arrived then or later, None when there is none. Raise JournalUnavailableError."""
        return self._one("SELECT min(seq) FROM journal WHERE arrival_ms >= ?", since_ms)

    def close(self) -> None:
        """Close the connection; the reader must not be used afterwards."""
        self._connection.close()

    def _one(self, select: str, *values: int) -> int | None:
        try:
            row = self._connection.execute(select, values).fetchone()
        except sqlite3.Error as error:
            raise JournalUnavailableError("io_error", f"cannot read the journal {self._path}: {error}") from error
        return None if row is None or row[0] is None else int(row[0])

    def __enter__(self) -> Self:
        """Give the reader itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()
