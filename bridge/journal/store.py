"""The journal's one writer: appends, group states and cursors in one transaction, and what keeps the file bounded.

Owns the lock of the storage directory, the sequence numbers and the translation of SQLite's errors. Synchronous:
when to commit, and in which thread, is the group-commit writer's business; opening a damaged file is `recovery`'s.
"""

import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from bridge.errors import ConfigError, JournalFullError, JournalUnavailableError
from bridge.journal import cursor_table, letter_table, notes, run_table, schema
from bridge.journal.directory import free_bytes, lock_directory
from bridge.journal.recovery import Recovery, connect, open_database
from bridge.journal.rows import Batch, CursorRow, GroupRow, KeyRow, PartRow, Record
from bridge.reasons import JOURNAL_FULL

_LOW_DISK_BYTES = 1 << 20
_MAX_RESERVE_PAGES = 64
_PRIMARY_CODE = 0xFF
_LETTERS_SHARE = 4
"""Dead letters take up one part in so many of the file: what is refused must not keep pushes out."""


class Journal:
    """The journal file, open for writing; one process holds it, and one thread at a time may call it.

    Changes (`write`, `trim`, `drop_oldest`, `delete_cursor`) gather in one transaction until `commit` or
    `rollback`. After any of them or `commit` raised, `rollback` must come next. `accepted_total`, `end_seq` and
    `used_bytes` are safe to read from any thread at any time; everything else counts as a call.
    """

    def __init__(
        self, directory: Path, lock: int, connection: sqlite3.Connection, recovery: Recovery | None, max_bytes: int
    ) -> None:
        """Take over what `open` prepared; use `open`."""
        self.path = directory / schema.FILE_NAME
        self.recovery = recovery
        """What was done about a damaged file, None when the file was healthy or new."""
        self._lock = lock
        self.max_bytes, self.most_letters = max_bytes, 100_000
        """The bounds of the file, and of samples kept as dead letters."""
        self._failed = False
        self._changes = 0
        self._use(connection)
        meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
        self._end_seq = self._next_end_seq = int(meta["last_seq"])
        self._accepted = self._next_accepted = int(meta["accepted_total"])
        self.state_seq = self._next_state_seq = int(meta["state_seq"])
        """Rows behind this tell what the stored groups do not know yet."""
        self.tick_ms = int(meta["tick_ms"])
        """Newest point of the grid when the file was opened."""
        self.id = f"{int(meta['journal_id']):08x}"
        """Tells the journal's sequence numbers from those of any other."""

    @staticmethod
    def open(directory: Path, *, max_bytes: int, now_ms: int) -> "Journal":
        """Open or create the journal in `directory`, exclusively.

        `max_bytes` bounds the database file; the WAL beside it takes a few MiB more. `now_ms` names a damaged
        file that is set aside. Raise ConfigError for a directory that is in use, cannot be written or holds
        the journal of a newer agent.
        """
        lock = lock_directory(directory)
        try:
            connection, recovery = open_database(directory, now_ms)
            try:
                return Journal(directory, lock, connection, recovery, max_bytes)
            except sqlite3.Error as error:
                connection.close()
                raise ConfigError(f"storage.path: cannot read the journal in {directory}: {error}") from error
        except BaseException:
            os.close(lock)
            raise

    @property
    def accepted_total(self) -> int:
        """Samples ever accepted, as committed."""
        return self._accepted

    @property
    def end_seq(self) -> int:
        """Newest committed sequence number, 0 before the first; it never goes back."""
        return self._end_seq

    @property
    def full(self) -> bool:
        """Whether only the reserve for cursors is left; as of the newest change."""
        return self._used > self._max_pages - self._reserve_pages

    def touch(self) -> None:
        """Write something without meaning. Raise JournalFullError, JournalUnavailableError."""
        with self._changing():
            self._connection.execute("UPDATE meta SET value = value WHERE name = 'last_seq'")

    def write(self, batch: Batch) -> int | None:
        """Add a batch to the current transaction and give the sequence number of its first record.

        Records get consecutive numbers. A group's row, and its parts if there are any, replace what was stored.
        The last pages under `max_bytes` are kept for batches without records: a full journal must be able to note
        deliveries. Raise JournalFullError, JournalUnavailableError.
        """
        first = self._next_end_seq + 1 if batch.records else None
        try:
            self._begin()
            if batch.records:
                self._append(batch.records)
            if batch.groups:
                self._put_groups(batch.groups)
            if batch.state_seq:
                self._next_state_seq = batch.state_seq
                self._connection.execute("UPDATE meta SET value = ? WHERE name = 'state_seq'", (batch.state_seq,))
            if batch.tick_ms:
                self._connection.execute("UPDATE meta SET value = ? WHERE name = 'tick_ms'", (batch.tick_ms,))
            if batch.cursors:
                cursor_table.write(self._connection, batch.cursors)
            if batch.letters:
                letter_table.write(self._connection, batch.letters, self.most_letters, self.max_bytes // _LETTERS_SHARE)
            notes.write(self._connection, batch)
            self._used = self._used_pages()
            full = bool(batch.records) and self.full
        except sqlite3.Error as error:
            self._fail(error)
        if full:
            self._failed = True
            raise self._full_error()
        return first

    def commit(self) -> bool:
        """Make the transaction durable; it is on disk when this returns. Raise JournalUnavailableError.

        Tell whether there was anything to write.
        """
        if self._failed:
            raise JournalUnavailableError("io_error", f"the journal {self.path} needs a rollback after a failed write")
        try:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._fail(error)
        before, self._changes = self._changes, self._connection.total_changes
        wrote = self._changes > before
        self._end_seq, self._accepted = self._next_end_seq, self._next_accepted
        self.state_seq = self._next_state_seq
        return wrote

    def rollback(self) -> None:
        """Forget the transaction; the next one starts from what is committed. Never raises for the disk's sake."""
        self._failed = False
        self._next_end_seq, self._next_accepted = self._end_seq, self._accepted
        self._next_state_seq = self.state_seq
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._changes = self._connection.total_changes
        except sqlite3.Error:
            # SQLite has given up on this connection. A new one starts from the file; while it cannot be had,
            # the closed one fails each call, and the rollback after that comes back here.
            self._connection.close()
            with suppress(sqlite3.Error):
                self._use(connect(self.path))

    def load_groups(self) -> Iterator[GroupRow]:
        """Give every stored group with its parts, in key order. Raise JournalUnavailableError."""
        try:
            groups = self._connection.execute(schema.READ_GROUPS)
            for key, seq, last_ms, push_ms, failure_ms, live, expires_ms, hold, crc, doubles in groups:
                rows = self._connection.execute(schema.READ_PARTS, (key,)).fetchall()
                parts = tuple(PartRow(families, heads) for _, families, heads in rows)
                damaged = zlib.crc32(doubles) != crc or [_crc(part) for part in parts] != [row[0] for row in rows]
                times = last_ms, push_ms, failure_ms
                yield GroupRow(key, *times, bool(live), expires_ms, bool(hold), doubles, parts, damaged, seq)
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def find_key(self, group: bytes, key: str) -> KeyRow | None:
        """Give the push that came with an idempotency key, as committed. Raise JournalUnavailableError."""
        try:
            return notes.find_key(self._connection, group, key)
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def trim_notes(self, keys_before_ms: int, deliveries_before_ms: int, limit: int) -> int:
        """Forget keys and deliveries older than this and keys over the bound, in the current transaction.

        Give how many; at most `limit` of a kind. Raise JournalUnavailableError.
        """
        before_ms = keys_before_ms, deliveries_before_ms
        try:
            self._begin()
            deleted = notes.trim(self._connection, before_ms, notes.most_keys(self.max_bytes), limit)
            self._used = self._used_pages()
        except sqlite3.Error as error:
            self._fail(error)
        return deleted

    def trim_runs(self, before_ms: int) -> None:
        """Forget runs that began before this and those over the bound, in the current transaction.

        The newest run of each group stays until the group ends. Raise JournalUnavailableError.
        """
        with self._changing():
            run_table.trim(self._connection, before_ms, run_table.most_runs(self.max_bytes))

    def load_cursors(self) -> list[CursorRow]:
        """Give every target's cursor, by name. Raise JournalUnavailableError."""
        try:
            return cursor_table.read(self._connection)
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def used_bytes(self) -> int:
        """Bytes of the file that held something after the newest change, without free pages inside it."""
        return self._used * self._page_size

    def oldest_seq(self) -> int | None:
        """Give the sequence number of the oldest row, None when there is none. Raise JournalUnavailableError."""
        ((oldest,),) = self._all("SELECT min(seq) FROM journal")
        return None if oldest is None else int(oldest)

    def samples_after(self, after_seq: int) -> int:
        """Sum the samples of the rows after `after_seq`: what a target can still get. It reads them all.

        After a recovery this is less than what the totals say, and the difference is lost. Raise
        JournalUnavailableError.
        """
        ((samples,),) = self._all("SELECT coalesce(sum(samples), 0) FROM journal WHERE seq > ?", after_seq)
        return int(samples)

    def delete_cursor(self, target: str) -> None:
        """Forget a target's cursor in the current transaction. Raise JournalUnavailableError."""
        with self._changing():
            cursor_table.delete(self._connection, target)

    def change_letters(self, change: Callable[[sqlite3.Connection], int]) -> int:
        """Trim or delete dead letters by `letter_table`, in the current transaction. Raise JournalUnavailableError."""
        with self._changing():
            return change(self._connection)

    def trim(self, before_ms: int, through_seq: int, limit: int, *, ended_before_ms: int) -> int:
        """Delete up to `limit` rows that arrived before `before_ms` and have `seq <= through_seq`; give their number.

        Groups that are not live and whose `last_ms` is before `ended_before_ms` are forgotten too. Part of the
        current transaction. Raise JournalUnavailableError.
        """
        with self._changing():
            deleted = self._connection.execute(
                "DELETE FROM journal WHERE seq IN"
                " (SELECT seq FROM journal WHERE arrival_ms < ? AND seq <= ? ORDER BY arrival_ms, seq LIMIT ?)",
                (before_ms, through_seq, limit),
            ).rowcount
            keys = self._connection.execute("SELECT key FROM groups WHERE live = 0 AND last_ms < ?", (ended_before_ms,))
            forgotten = keys.fetchall()
            self._connection.executemany("DELETE FROM groups WHERE key = ?", forgotten)
            self._connection.executemany("DELETE FROM group_parts WHERE grp = ?", forgotten)
        return deleted

    def drop_oldest(self, limit_rows: int) -> list[tuple[int, int]]:
        """Delete the oldest rows, delivered or not, and give their (seq, samples) in order.

        Part of the current transaction, so that what they cost each target can be counted in it. Raise
        JournalUnavailableError.
        """
        with self._changing():
            rows: list[tuple[int, int]] = self._connection.execute(
                "SELECT seq, samples FROM journal ORDER BY seq LIMIT ?", (limit_rows,)
            ).fetchall()
            if rows:
                self._connection.execute("DELETE FROM journal WHERE seq <= ?", (rows[-1][0],))
        return rows

    def close(self) -> None:
        """Roll back what is not committed, fold the WAL into the file and let go of the directory."""
        self.rollback()
        # What cannot be folded in now stays in the WAL, and the next open reads it there.
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._connection.close()
        os.close(self._lock)

    def _use(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._page_size = int(connection.execute("PRAGMA page_size").fetchone()[0])
        self._max_pages = max(1, self.max_bytes // self._page_size)
        # A max_page_count below the present size is not an error: SQLite then just lets the file grow no further.
        connection.execute(f"PRAGMA max_page_count = {self._max_pages}")
        self._used = self._used_pages()
        self._changes = connection.total_changes
        self._reserve_pages = min(_MAX_RESERVE_PAGES, self._max_pages // 16)

    def _begin(self) -> None:
        if self._failed:
            raise JournalUnavailableError("io_error", f"the journal {self.path} needs a rollback after a failed write")
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            self._begin()
            yield
            self._used = self._used_pages()
        except sqlite3.Error as error:
            self._fail(error)

    def _append(self, records: tuple[Record, ...]) -> None:
        rows = []
        for record in records:
            self._next_end_seq += 1
            self._next_accepted += record.samples
            head = self._next_end_seq, record.arrival_ms, record.group, record.operation, record.samples
            rows.append((*head, self._next_accepted, record.kinds, zlib.crc32(record.body), record.body))
        self._connection.executemany("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._connection.execute(
            "UPDATE meta SET value = CASE name WHEN 'last_seq' THEN ? ELSE ? END"
            " WHERE name IN ('last_seq', 'accepted_total')",
            (self._next_end_seq, self._next_accepted),
        )

    def _put_groups(self, groups: tuple[GroupRow, ...]) -> None:
        changed = [group for group in groups if group.parts is not None]
        if changed:
            self._connection.executemany("DELETE FROM group_parts WHERE grp = ?", [(group.key,) for group in changed])
            self._connection.executemany(
                "INSERT INTO group_parts VALUES (?, ?, ?, ?, ?)",
                [
                    (group.key, position, _crc(part), part.families, part.heads)
                    for group in changed
                    for position, part in enumerate(group.parts or ())
                ],
            )
        self._connection.executemany(
            "INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
            " seq = excluded.seq, last_ms = excluded.last_ms, push_ms = excluded.push_ms,"
            " failure_ms = excluded.failure_ms, live = excluded.live, expires_ms = excluded.expires_ms,"
            " hold = excluded.hold, crc = excluded.crc, doubles = excluded.doubles",
            [_group_values(group, self._next_end_seq) for group in groups],
        )

    def _used_pages(self) -> int:
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        return int(pages) - int(free)

    def _all(self, statement: str, *values: int) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        self._failed = True
        raise self._translate(error) from error

    def _translate(self, error: sqlite3.Error) -> JournalFullError | JournalUnavailableError:
        if int(getattr(error, "sqlite_errorcode", 0)) & _PRIMARY_CODE != sqlite3.SQLITE_FULL:
            return JournalUnavailableError("io_error", f"the journal {self.path} did not take the write: {error}")
        # SQLite has one code for the two. They must not be mixed up: dropping the oldest rows makes room under
        # `max_bytes`, while on a full disk it would only lose them.
        if free_bytes(self.path.parent) < _LOW_DISK_BYTES:
            return JournalUnavailableError("disk_full", f"no space left on the disk of the journal {self.path}")
        return self._full_error()

    def _full_error(self) -> JournalFullError:
        return JournalFullError(
            JOURNAL_FULL, f"the journal {self.path} has reached storage.max_bytes = {self.max_bytes}; retry later"
        )


def _crc(part: PartRow) -> int:
    return zlib.crc32(part.heads, zlib.crc32(part.families))


def _group_values(group: GroupRow, seq: int) -> tuple[object, ...]:
    return (
        group.key,
        seq,
        group.last_ms,
        group.push_ms,
        group.failure_ms,
        group.live,
        group.expires_ms,
        group.hold,
        zlib.crc32(group.doubles),
        group.doubles,
    )
