"""The journal as it lies on disk, for commands that look at it: beside a running agent, or without one.

Owns a read-only connection that waits for nobody and keeps nobody waiting: what is long is read in pieces, since an
open read would keep the write-ahead log from being reset. Nothing is changed, recovered or locked here.
"""

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self
from urllib.parse import quote

from bridge.errors import ConfigError
from bridge.journal import cursor_table, schema
from bridge.journal.history import History
from bridge.journal.recovery import connect_read_only
from bridge.journal.rows import NEVER_MS, CursorRow

_PIECE_SAMPLES, _PIECE_BYTES = 20_000, 1 << 22
_NOT_WRITABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
_SELECT = """SELECT seq, arrival_ms, grp, operation, samples, kinds, crc, body FROM journal
    WHERE seq > ? AND seq <= ? AND arrival_ms >= ? AND arrival_ms < ? ORDER BY seq"""


@dataclass(frozen=True, slots=True)
class Span:
    """The rows that arrived from one point in time on and before another."""

    since_ms: int
    until_ms: int
    first_seq: int
    """Of the first such row, one more than `last_seq` when there is none."""
    last_seq: int
    rows: int


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One row."""

    seq: int
    arrival_ms: int
    group: bytes
    operation: str
    samples: int
    body: bytes
    """Empty when `damaged`."""
    damaged: bool
    kinds: int = 0


@dataclass(frozen=True, slots=True)
class TargetRow:
    """One target's cursor, and when the oldest row arrived that it has not confirmed."""

    cursor: CursorRow
    oldest_pending_ms: int | None


@dataclass(frozen=True, slots=True)
class Overview:
    """What the journal holds, at one moment."""

    used_bytes: int
    """Of the file; free pages inside it do not count."""
    rows: int
    samples: int
    accepted_total: int
    oldest_ms: int | None
    newest_ms: int | None
    groups: int
    targets: tuple[TargetRow, ...]


class Archive:
    """An open journal; use it from one thread. Whatever cannot be read raises ConfigError."""

    def __init__(self, directory: Path) -> None:
        """Open the journal in `directory`; a missing one, or one of another schema, is refused."""
        self.path = directory / schema.FILE_NAME
        if not self.path.is_file():
            raise ConfigError(f"storage.path: {directory} has no journal ({schema.FILE_NAME})")
        try:
            self._connection = _connect(self.path)
            try:
                meta = dict(self._connection.execute("SELECT name, value FROM meta").fetchall())
                self._check_version(meta.get("schema_version"))
                self.id = f"{int(meta['journal_id']):08x}"
                """What the ids of its pushes begin with."""
            except BaseException:
                self._connection.close()
                raise
        except (sqlite3.Error, KeyError, ValueError) as error:
            self._refuse(error)

    def _check_version(self, version: object) -> None:
        if version != schema.VERSION:
            newer = isinstance(version, int) and version > schema.VERSION
            raise ConfigError(
                f"storage.path: {self.path} has schema version {version}, this program knows {schema.VERSION}; "
                + ("use the program of the newer agent" if newer else "let the agent start on it first")
            )

    def history(self) -> History:
        """Open what answers about pushes."""
        return History(self.path, _connect)

    def overview(self) -> Overview:
        """Count everything, in one view."""
        try:
            self._connection.execute("BEGIN")
            try:
                return self._overview()
            finally:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._refuse(error)

    def _overview(self) -> Overview:
        pages, free, size = (self._one(f"PRAGMA {name}")[0] for name in ("page_count", "freelist_count", "page_size"))
        rows, samples, oldest, newest = self._one(
            "SELECT count(*), coalesce(sum(samples), 0), min(arrival_ms), max(arrival_ms) FROM journal"
        )
        (accepted,) = self._one("SELECT value FROM meta WHERE name = 'accepted_total'")
        (groups,) = self._one("SELECT count(*) FROM groups WHERE live = 1")
        targets = tuple(
            TargetRow(cursor, self._one("SELECT min(arrival_ms) FROM journal WHERE seq > ?", cursor.seq)[0])
            for cursor in cursor_table.read(self._connection)
        )
        return Overview((pages - free) * size, rows, samples, accepted, oldest, newest, groups, targets)

    def cursors(self) -> list[CursorRow]:
        """Give every target's cursor, by name."""
        try:
            return cursor_table.read(self._connection)
        except sqlite3.Error as error:
            self._refuse(error)

    def begins_ms(self) -> int | None:
        """Give when the oldest row arrived if there were older ones, None when nothing is gone or nothing is left."""
        row = self._asked("SELECT arrival_ms, total - samples FROM journal ORDER BY seq LIMIT 1")
        return int(row[0]) if row is not None and row[1] > 0 else None

    def span(self, since_ms: int | None, until_ms: int | None, through_seq: int = NEVER_MS) -> Span:
        """Find what arrived at `since_ms` or later and before `until_ms`, as it is now, up to a row."""
        since, until = 0 if since_ms is None else since_ms, NEVER_MS if until_ms is None else until_ms
        first, last, rows = self._asked(
            "SELECT min(seq), max(seq), count(*) FROM journal WHERE arrival_ms >= ? AND arrival_ms < ? AND seq <= ?",
            since,
            until,
            through_seq,
        )
        return Span(since, until, 1 if first is None else first, 0 if last is None else last, rows)

    def rest_since_ms(self, span: Span, after_seq: int) -> int | None:
        """Give the earliest arrival in what is left of a span behind a row, None when nothing is."""
        earliest: int | None = self._asked(
            "SELECT min(arrival_ms) FROM journal WHERE seq > ? AND seq <= ? AND arrival_ms >= ? AND arrival_ms < ?",
            after_seq,
            span.last_seq,
            span.since_ms,
            span.until_ms,
        )[0]
        return earliest

    def pieces(self, span: Span) -> Iterator[list[StoredRow]]:
        """Give the rows of a span in order, some at a time; those that are trimmed meanwhile are left out."""
        after_seq = span.first_seq - 1
        while piece := self._piece(span, after_seq):
            yield piece
            after_seq = piece[-1].seq

    def rows_of(self, first_seq: int, last_seq: int) -> list[StoredRow]:
        """Give these rows, those of one push for example."""
        span = Span(0, NEVER_MS, first_seq, last_seq, 0)
        return [row for piece in self.pieces(span) for row in piece]

    def _piece(self, span: Span, after_seq: int) -> list[StoredRow]:
        found: list[StoredRow] = []
        samples = size_bytes = 0
        bounds = after_seq, span.last_seq, span.since_ms, span.until_ms
        try:
            with closing(self._connection.execute(_SELECT, bounds)) as rows:
                for seq, arrival_ms, group, operation, count, kinds, crc, body in rows:
                    damaged = not isinstance(body, bytes) or zlib.crc32(body) != crc
                    head = seq, arrival_ms, group, operation, count
                    found.append(StoredRow(*head, b"" if damaged else body, damaged, kinds))
                    samples += count
                    size_bytes += len(body)
                    if samples >= _PIECE_SAMPLES or size_bytes >= _PIECE_BYTES:
                        break
        except sqlite3.Error as error:
            self._refuse(error)
        return found

    def _asked(self, select: str, *values: int) -> Any:
        try:
            return self._one(select, *values)
        except sqlite3.Error as error:
            self._refuse(error)

    def _one(self, select: str, *values: int) -> Any:
        return self._connection.execute(select, values).fetchone()

    def _refuse(self, error: Exception) -> NoReturn:
        raise ConfigError(f"storage.path: cannot read the journal {self.path}: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Give the archive itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def _connect(path: Path) -> sqlite3.Connection:
    """Open a journal, also one that no agent has open and whose directory may not be written. Raise sqlite3.Error."""
    connection = connect_read_only(path)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        # Without its companions, which cannot be made here, the file is all there is and nobody writes to it.
        if error.sqlite_errorcode & 0xFF not in _NOT_WRITABLE or path.with_name(path.name + "-wal").exists():
            raise
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?immutable=1", uri=True, isolation_level=None)
    except BaseException:
        connection.close()
        raise
    return connection
