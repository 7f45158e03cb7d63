"""Reading the journal: limits, checksums and what is visible."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.errors import JournalUnavailableError
from bridge.journal.reader import JournalReader
from bridge.journal.rows import Batch, Entry, Record
from bridge.journal.store import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.open(tmp_path, max_bytes=1 << 26, now_ms=0)
    journal.write(Batch(tuple(Record(n, b"g", "post", 10, bytes([n]) * 100) for n in range(1, 6))))
    journal.commit()
    yield journal
    journal.close()


@pytest.fixture
def reader(journal: Journal) -> Iterator[JournalReader]:
    with JournalReader(journal.path) as reader:
        yield reader


@pytest.mark.parametrize(
    ("after_seq", "max_samples", "max_bytes", "seqs"),
    [
        (0, 1000, 1000, [1, 2, 3, 4, 5]),
        (0, 30, 1000, [1, 2, 3]),
        (0, 29, 1000, [1, 2]),
        (0, 1000, 200, [1, 2]),
        (0, 1000, 199, [1]),
        (2, 1, 1, [3]),
        (4, 1000, 1000, [5]),
        (5, 1000, 1000, []),
    ],
)
def test_limits(reader: JournalReader, after_seq: int, max_samples: int, max_bytes: int, seqs: list[int]) -> None:
    """A read ends before the row that would exceed a limit, and has at least one row when there is one."""
    assert [entry.seq for entry in reader.read(after_seq, max_samples, max_bytes)] == seqs


def test_entry_is_what_was_written(reader: JournalReader) -> None:
    """An entry carries the record's samples, arrival, group and body."""
    assert reader.read(4, 99, 999) == [Entry(5, 10, b"\x05" * 100, 5, group=b"g")]


def test_only_committed_rows(journal: Journal, reader: JournalReader) -> None:
    """Rows appear with their commit, also on a reader that has read before."""
    journal.write(Batch((Record(9, b"g", "put", 1, b""),)))
    assert reader.read(5, 9, 9) == []
    journal.commit()
    assert [entry.seq for entry in reader.read(5, 9, 9)] == [6]


def test_damaged_row_is_marked(journal: Journal, reader: JournalReader) -> None:
    """A body that does not match its checksum comes back empty and marked; its neighbours are whole."""
    with sqlite3.connect(journal.path) as connection:
        connection.execute("UPDATE journal SET body = x'00' WHERE seq = 2")
    connection.close()
    entries = reader.read(0, 99, 9999)
    assert [entry.damaged for entry in entries] == [False, True, False, False, False]
    assert entries[1] == Entry(2, 10, b"", 2, damaged=True, group=b"g")


def test_missing_file(tmp_path: Path) -> None:
    """A reader makes no file: a missing one is an error that names it."""
    with pytest.raises(JournalUnavailableError, match=r"none\.db"):
        JournalReader(tmp_path / "none.db")


def test_unreadable_file(journal: Journal) -> None:
    """SQLite's own errors come out as ours."""
    reader = JournalReader(journal.path)
    reader.close()
    with pytest.raises(JournalUnavailableError, match=r"journal\.db"):
        reader.read(0, 1, 1)


def test_oldest_is_the_first_row_behind_a_cursor(reader: JournalReader) -> None:
    """The oldest undelivered arrival is that of the row after the cursor, and none when all is delivered."""
    assert [reader.oldest_ms(after) for after in (0, 3, 5)] == [1, 4, None]
