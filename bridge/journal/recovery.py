"""Opens the journal file, and replaces a damaged one by a new file with all that can still be read.

Owns which files lie in the storage directory and in which order they are renamed: a file appears under
its final name only when it is complete and on disk, so a crash at any point is finished by the next open.
Reading and writing of a healthy journal must not live here.
"""

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from bridge.errors import ConfigError
from bridge.journal import schema
from bridge.journal.directory import sync_directory

_DAMAGE_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY_CODE = 0xFF
_UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
_LARGEST_ROWID = (1 << 63) - 1

# A body whose checksum is wrong is copied too: the reader reports it, and the target counts its samples.
_SALVAGED: dict[str, tuple[type, ...]] = {
    "groups": (bytes, int, int, int, int, int, int, int, int, bytes),
    "group_parts": (bytes, int, int, bytes, bytes),
    "journal": (int, int, bytes, str, int, int, int, int, bytes),
    "keys": (bytes, str, bytes, int, int, int),
    "deliveries": (str, int, int, int, str, str),
    "runs": (bytes, *(int,) * 9),
    "dead_letters": (int, str, int, int, int, int, str, int, str, bytes),
}

Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What happened to a damaged file when it was opened."""

    set_aside: Path
    """Where the damaged file is now; `-wal` and `-shm` lie beside it under the same name."""
    rows_saved: int
    """Journal rows copied into the new file."""
    reason: str
    """What was wrong with the file, in SQLite's words where it had any."""


class DamagedError(Exception):
    """The file is not a usable journal; the text says why."""


def connect(path: Path) -> sqlite3.Connection:
    """Open `path` for writing with the durability that the journal promises. Raise sqlite3.Error."""
    # A writer other than ours can only be somebody's sqlite3 shell; the event loop does not wait long for that.
    connection = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 16777216")
        # A larger WAL saves few writes, and folding it in would hold up the pushes that wait for longer.
        connection.execute("PRAGMA wal_autocheckpoint = 1000")
        connection.execute("PRAGMA cache_size = -16384")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open `path` so that no statement can change it. Raise sqlite3.Error."""
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    return sqlite3.connect(uri, uri=True, timeout=0.2, isolation_level=None, check_same_thread=False)


def open_database(directory: Path, now_ms: int) -> tuple[sqlite3.Connection, Recovery | None]:
    """Give a connection to a healthy journal in `directory`, made new or recovered where needed.

    The caller owns the directory (holds its lock). Raise ConfigError for a file that a newer agent wrote and
    for what the operating system refuses; neither touches the file.
    """
    path = directory / schema.FILE_NAME
    try:
        _finish_interrupted(directory, now_ms)
        recovery = None
        if not path.exists():
            _create(_new_path(directory)).close()
            _put_in_place(directory)
        try:
            connection = _connect_checked(path)
        except DamagedError as damage:
            recovery = _recover(directory, now_ms, str(damage))
            connection = _connect_checked(path)
    except (sqlite3.Error, OSError, DamagedError) as error:
        raise ConfigError(f"storage.path: cannot open the journal {path}: {error}") from error
    return connection, recovery


def _is_damage(error: BaseException) -> bool:
    """Tell a broken file from a disk or a lock that may be better later."""
    # SQLite quotes what it could not read in its messages, and Python fails at decoding that. A damaged number of the
    # file's format has no code of its own.
    return (
        isinstance(error, UnicodeDecodeError)
        or getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE in _DAMAGE_CODES
        or str(error) == "unsupported file format"
    )


def _new_path(directory: Path) -> Path:
    return directory / f"{schema.FILE_NAME}.new"


def _companions(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _finish_interrupted(directory: Path, now_ms: int) -> None:
    path, new = directory / schema.FILE_NAME, _new_path(directory)
    if not path.exists():
        # A crash fell between the renames of `_recover`: what is left of the old file must not meet the new one.
        _set_aside(path, now_ms)
        if new.exists():
            try:
                _connect_checked(new).close()
                _put_in_place(directory)
            except DamagedError:
                pass
            else:
                return
    for leftover in (new, *_companions(new)):
        leftover.unlink(missing_ok=True)


def _create(path: Path) -> sqlite3.Connection:
    connection = connect(path)
    try:
        connection.execute("BEGIN IMMEDIATE")
        for statement in (*schema.TABLES.values(), *schema.FILL):
            connection.execute(statement)
        connection.execute("COMMIT")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _put_in_place(directory: Path) -> None:
    new = _new_path(directory)
    descriptor = os.open(new, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.rename(directory / schema.FILE_NAME)
    sync_directory(directory)


def _connect_checked(path: Path) -> sqlite3.Connection:
    # SQLite takes an empty file for a new database; ours are never empty under their final name.
    if path.stat().st_size == 0:
        raise DamagedError("the file is empty")
    connection: sqlite3.Connection | None = None
    try:
        connection = connect(path)
        _check(connection, path)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if _is_damage(error):
            raise DamagedError(str(error)) from error
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    made = {sql for (sql,) in connection.execute("SELECT CAST(sql AS BLOB) FROM sqlite_master")}
    if schema.TABLES["meta"].encode() in made:
        row = connection.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone()
        version = row[0] if row else None
        if isinstance(version, int) and version > schema.VERSION:
            raise ConfigError(
                f"storage.path: {path} has schema version {version}, this agent knows up to {schema.VERSION}; "
                "start the newer agent again or choose another directory"
            )
        if version != schema.VERSION:
            raise DamagedError(f"schema version is {version!r}, want {schema.VERSION}")
    if missing := sorted(table for table, sql in schema.TABLES.items() if sql.encode() not in made):
        raise DamagedError(f"missing or changed tables: {', '.join(missing)}")
    # The quick check leaves out what an index says, and the small tables are found by theirs.
    checks = ["quick_check(1)", *(f"integrity_check('{table}')" for table in schema.TABLES if table != "journal")]
    for check in checks:
        (verdict,) = connection.execute(f"PRAGMA {check}").fetchone()
        if verdict != "ok":
            raise DamagedError(" ".join(str(verdict).split()))
    names = {name for (name,) in connection.execute("SELECT name FROM meta")}
    if missing := sorted(schema.META - names):
        raise DamagedError(f"the meta table lacks {', '.join(missing)}")


def _recover(directory: Path, now_ms: int, reason: str) -> Recovery:
    path, new = directory / schema.FILE_NAME, _new_path(directory)
    target = _create(new)
    try:
        target.execute("BEGIN IMMEDIATE")
        source = connect_read_only(path)
        try:
            # Without this SQLite reads nothing from a file that is shorter than its header says.
            source.execute("PRAGMA writable_schema = ON")
            rows_saved = _salvage(source, target)
        finally:
            source.close()
        target.execute("COMMIT")
    finally:
        target.close()
    # The old file leaves only now that everything saved is under `.new`; see `_finish_interrupted`.
    aside = _set_aside(path, now_ms)
    _put_in_place(directory)
    return Recovery(aside, rows_saved, reason)


def _set_aside(path: Path, now_ms: int) -> Path:
    stem = f"{path.name}.damaged-{now_ms}"
    aside, number = path.with_name(stem), 1
    while any(name.exists() for name in (aside, *_companions(aside))):
        aside, number = path.with_name(f"{stem}.{number}"), number + 1
    # The database goes first: without it the next open knows that the rest must follow.
    for old, kept in zip((path, *_companions(path)), (aside, *_companions(aside)), strict=True):
        if old.exists():
            old.rename(kept)
    sync_directory(path.parent)
    return aside


def _salvage(source: sqlite3.Connection, target: sqlite3.Connection) -> int:
    meta = {name: value for name, value in _rows(source, "meta") if isinstance(value, int)}
    last_seq = max(0, meta.get("last_seq", 0))
    accepted = max(0, meta.get("accepted_total", 0))
    for row in _rows(source, "cursors"):
        if _typed(row, (str, int, int, int, str, str)):
            _insert(target, "cursors", row)
            last_seq = max(last_seq, int(str(row[1])))
    for table, types in _SALVAGED.items():
        for row in _rows(source, table):
            if _typed(row, types):
                _insert(target, table, row)
    target.execute("DELETE FROM group_parts WHERE grp NOT IN (SELECT key FROM groups)")
    rows, total = target.execute("SELECT count(*), coalesce(max(total), 0) FROM journal").fetchone()
    # What is noted of a number must not come to stand for another push.
    (seen,) = target.execute(
        "SELECT coalesce(max(seq), 0) FROM (SELECT max(seq) AS seq FROM journal"
        " UNION ALL SELECT max(seq) FROM groups"
        " UNION ALL SELECT max(last_seq) FROM keys UNION ALL SELECT max(last_seq) FROM deliveries)"
    ).fetchone()
    state = (
        ("last_seq", max(last_seq, seen)),
        ("accepted_total", max(accepted, total)),
        ("state_seq", max(0, meta.get("state_seq", 0))),
        ("tick_ms", max(0, meta.get("tick_ms", 0))),
    )
    target.executemany("UPDATE meta SET value = ?2 WHERE name = ?1", state)
    return int(rows)


def _typed(row: Row, types: tuple[type, ...]) -> bool:
    return len(row) == len(types) and all(map(isinstance, row, types))


def _insert(target: sqlite3.Connection, table: str, row: Row) -> None:
    marks = ", ".join("?" * len(row))
    target.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)  # noqa: S608


def _has_table(source: sqlite3.Connection, table: str) -> bool:
    try:
        source.execute(f"SELECT 1 FROM {table} WHERE 0")  # noqa: S608
    except _UNREADABLE:
        return False
    return True


def _rows(source: sqlite3.Connection, table: str) -> Iterator[Row]:
    """Yield the readable rows of a table in rowid order; a damaged page costs only the rows on it."""
    select = f"SELECT rowid, * FROM {table} NOT INDEXED WHERE rowid"  # noqa: S608
    if not _has_table(source, table):
        return
    position: int | None = 0
    while position is not None:
        try:
            for row in source.execute(f"{select} > ? ORDER BY rowid", (position,)):
                # On some damaged pages the numbers run backwards, for ever.
                if row[0] <= position:
                    break
                position = row[0]
                yield row[1:]
            else:
                return
        except _UNREADABLE:
            pass
        position = _behind_damage(source, f"{select} >= ? ORDER BY rowid LIMIT 1", position)


def _behind_damage(source: sqlite3.Connection, select: str, position: int) -> int | None:
    """Give the number before the next row that can be reached by going down the tree, None when there is none."""

    def reaches(number: int) -> bool:
        try:
            row = source.execute(select, (number,)).fetchone()
        except _UNREADABLE:
            return False
        return row is None or row[0] >= number

    low, step = position + 1, 1
    while not reaches(low + step):
        low, step = low + step, step * 2
        if low + step > _LARGEST_ROWID:
            return None
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high - 1
