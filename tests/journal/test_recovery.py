"""Opening a damaged journal: what is set aside, what is saved, and what is left alone."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.errors import ConfigError
from bridge.journal.history import History
from bridge.journal.reader import JournalReader
from bridge.journal.rows import NEVER_MS, Batch, CursorRow, DeliveryRow, GroupRow, KeyRow, PartRow, Record, RunRow
from bridge.journal.store import Journal

PAGE = 4096
ROWS = 400
CURSOR = CursorRow("mimir", 7, 0, 7, ())
RUN = RunRow(b"g", 5, 9, True, 0, 4, 1000, 7, 8)
GROUP = GroupRow(b"g", 5, 5, 0, True, NEVER_MS, True, b"values", (PartRow(b"f", b"state"),))


def opened(directory: Path) -> Journal:
    return Journal.open(directory, max_bytes=1 << 26, now_ms=1234)


def filled(directory: Path) -> Path:
    journal = opened(directory)
    records = tuple(Record(n, b"g", "put", 2, bytes([n % 251]) * 1000) for n in range(ROWS))
    journal.write(Batch(records, (GROUP,), (CURSOR,), runs=(RUN,)))
    journal.commit()
    journal.close()
    return journal.path


def saved_seqs(journal: Journal) -> list[int]:
    with JournalReader(journal.path) as reader:
        entries = reader.read(0, 10**9, 10**9)
    assert not any(entry.damaged for entry in entries)
    return [entry.seq for entry in entries]


def saved_runs(journal: Journal) -> list[RunRow]:
    history = History(journal.path)
    try:
        return history.newest_runs()
    finally:
        history.close()


def write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_overwritten_page_costs_only_its_rows(tmp_path: Path) -> None:
    """A page of garbage in the middle loses a few rows; groups, cursors, totals and all others are saved."""
    path = filled(tmp_path)
    pages = path.stat().st_size // PAGE
    write_at(path, pages // 2 * PAGE, b"\xff" * PAGE)
    damaged = path.read_bytes()
    journal = opened(tmp_path)
    assert journal.recovery is not None
    assert journal.recovery.set_aside == tmp_path / "journal.db.damaged-1234"
    assert journal.recovery.set_aside.read_bytes() == damaged
    seqs = saved_seqs(journal)
    assert journal.recovery.rows_saved == len(seqs)
    assert ROWS - 5 <= len(seqs) < ROWS
    assert (journal.accepted_total, journal.end_seq) == (2 * ROWS, ROWS)
    assert journal.samples_after(0) == 2 * len(seqs)
    assert list(journal.load_groups()) == [replace(GROUP, seq=ROWS)]
    assert journal.load_cursors() == [CURSOR]
    assert saved_runs(journal) == [RUN]
    assert journal.write(Batch((Record(1, b"g", "put", 1, b""),))) == ROWS + 1
    journal.commit()
    journal.close()
    journal = opened(tmp_path)
    assert journal.recovery is None
    journal.close()


def test_truncated_file(tmp_path: Path) -> None:
    """A file cut in half gives back the rows of its first half and never an old sequence number."""
    path = filled(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    journal = opened(tmp_path)
    assert journal.recovery is not None
    seqs = saved_seqs(journal)
    assert len(seqs) > ROWS // 4
    assert journal.end_seq == ROWS
    journal.close()


@pytest.mark.parametrize("kept", [0, PAGE], ids=["all", "first-page"])
def test_garbage_file(tmp_path: Path, kept: int) -> None:
    """A file of which nothing can be read is set aside and a new one is started."""
    path = filled(tmp_path)
    write_at(path, 0, b"garbage!" * (PAGE // 8) if kept else b"garbage!" * (path.stat().st_size // 8))
    journal = opened(tmp_path)
    assert journal.recovery is not None
    assert "not a database" in journal.recovery.reason
    assert (journal.recovery.rows_saved, journal.end_seq) == (0, 0)
    journal.close()


def test_empty_file(tmp_path: Path) -> None:
    """A file that lost all its bytes is damage, not a new journal."""
    (tmp_path / "journal.db").touch()
    journal = opened(tmp_path)
    assert journal.recovery is not None
    assert journal.recovery.reason == "the file is empty"
    journal.close()


def test_lost_tables(tmp_path: Path) -> None:
    """Without cursors and meta the rows are saved, and total and sequence are found again from them."""
    path = filled(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE cursors")
        connection.execute("DROP TABLE meta")
    connection.close()
    journal = opened(tmp_path)
    assert journal.recovery is not None
    assert journal.recovery.reason == "missing or changed tables: cursors, meta"
    assert (journal.recovery.rows_saved, journal.end_seq, journal.accepted_total) == (ROWS, ROWS, 2 * ROWS)
    journal.close()


def test_newer_schema_is_left_alone(tmp_path: Path) -> None:
    """A file of a newer agent is refused as a configuration error and not changed."""
    path = filled(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE name = 'schema_version'")
        connection.execute("DROP TABLE cursors")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="schema version 99, this agent knows up to 1"):
        opened(tmp_path)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.damaged-*"))


@pytest.mark.parametrize("leftover", [b"", b"half written"])
def test_crash_while_creating_is_finished(tmp_path: Path, leftover: bytes) -> None:
    """An unfinished new file of an earlier start is thrown away."""
    (tmp_path / "journal.db.new").write_bytes(leftover)
    journal = opened(tmp_path)
    assert (journal.recovery, journal.end_seq) == (None, 0)
    assert not (tmp_path / "journal.db.new").exists()
    journal.close()


def test_crash_between_the_renames_is_finished(tmp_path: Path) -> None:
    """When the damaged file has left and the saved one has not come, the next open puts it in place."""
    path = filled(tmp_path)
    path.rename(tmp_path / "journal.db.new")
    (tmp_path / "journal.db-wal").write_bytes(b"of the damaged file")
    journal = opened(tmp_path)
    assert (journal.end_seq, len(saved_seqs(journal))) == (ROWS, ROWS)
    assert (tmp_path / "journal.db.damaged-1234-wal").read_bytes() == b"of the damaged file"
    journal.close()


KEYS = tuple(KeyRow(b"g", f"key {n}", b"digest", n, n, 5) for n in range(50))
DELIVERIES = (DeliveryRow("mimir", 1, 6, 9), DeliveryRow("mimir", 7, 7, 9, "400", "no such tenant"))


def with_notes(directory: Path) -> Path:
    path = filled(directory)
    journal = opened(directory)
    journal.write(Batch(keys=KEYS, deliveries=DELIVERIES))
    journal.commit()
    journal.close()
    return path


def test_keys_and_deliveries_are_saved(tmp_path: Path) -> None:
    """Damage among the rows costs no idempotency key and no receipt; ids begin anew, since numbers may have."""
    path = with_notes(tmp_path)
    journal = opened(tmp_path)
    old_id = journal.id
    journal.close()
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'journal'").fetchone()
    connection.close()
    write_at(path, (page - 1) * PAGE, b"\xff" * PAGE)
    journal = opened(tmp_path)
    assert journal.recovery is not None
    assert [journal.find_key(key.group, key.key) for key in KEYS] == list(KEYS)
    history = History(journal.path)
    assert history.deliveries("mimir", 1, 7) == list(DELIVERIES[::-1])
    history.close()
    assert journal.id != old_id
    # What was saved is found by row number when it gets old, as always.
    assert journal.trim_notes(6, 10, 1000) == len(KEYS) + len(DELIVERIES)
    journal.commit()
    journal.close()


@pytest.mark.parametrize(
    ("left", "newest"), [("keys", 49), ("deliveries", 7), ("cursors", CURSOR.seq), ("groups", ROWS)]
)
def test_no_number_comes_to_stand_for_another_push(tmp_path: Path, left: str, newest: int) -> None:
    """With the rows gone, new sequences still start above all that is confirmed, noted or known of old ones."""
    path = with_notes(tmp_path)
    with sqlite3.connect(path) as connection:
        for table in {"journal", "meta", "cursors", "keys", "deliveries", "groups"} - {left}:
            connection.execute(f"DROP TABLE {table}")
    connection.close()
    journal = opened(tmp_path)
    assert journal.end_seq == newest
    journal.close()
