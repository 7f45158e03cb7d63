"""Dead letters in the journal: with their target's account, bounded, found again, saved from a damaged file."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.journal import letter_table
from bridge.journal.history import History
from bridge.journal.rows import Batch, CursorRow, DeadLetter, Settled
from bridge.journal.schema import FILE_NAME, FILL, TABLES
from bridge.journal.store import Journal
from tests.journal.test_committer import MIB, NOW_MS, committing, put

PLENTY = 1 << 40
LETTER = DeadLetter(7, 2, 400, "out of order", maybe_stored=True, body=b"body", tenant="red", target="t", at_ms=5)


@pytest.fixture
def table() -> Iterator[sqlite3.Connection]:
    connection = made()
    yield connection
    connection.close()


def made() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    for statement in (*TABLES.values(), *FILL):
        connection.execute(statement)
    return connection


def kept(table: sqlite3.Connection, target: str | None = None) -> list[int]:
    return [letter.id for letter in letter_table.find_newest(table, target, PLENTY, 1000)]


def letters_in(path: Path) -> list[DeadLetter]:
    history = History(path)
    try:
        return history.dead_letters(None, PLENTY, 1000)
    finally:
        history.close()


def test_what_is_written_is_found(table: sqlite3.Connection) -> None:
    """Newest first, by target, page by page and by number, with all that was said of it."""
    letters = [LETTER, replace(LETTER, target="u", maybe_stored=False), replace(LETTER, seq=9)]
    letter_table.write(table, letters, PLENTY, PLENTY)
    found = letter_table.find_newest(table, None, PLENTY, 1000)
    assert found == [replace(letter, id=at) for at, letter in reversed(list(enumerate(letters, 1)))]
    assert kept(table, "t") == [3, 1]
    assert [letter.id for letter in letter_table.find_newest(table, None, 3, 1)] == [2]
    assert letter_table.find(table, 2) == found[1]
    assert letter_table.find(table, 4) is None
    assert letter_table.count(table) == {"t": 4, "u": 2}


def test_numbers_are_not_given_twice(table: sqlite3.Connection) -> None:
    """The number of a letter that went does not come to stand for another one."""
    letter_table.write(table, [LETTER, LETTER], PLENTY, PLENTY)
    assert letter_table.delete(table, [1, 2, 3]) == 2
    letter_table.write(table, [LETTER], PLENTY, PLENTY)
    assert kept(table) == [3]
    assert letter_table.count(table) == {"t": 2}


def test_old_ones_go(table: sqlite3.Connection) -> None:
    """By age, from the oldest on."""
    letter_table.write(table, [replace(LETTER, at_ms=at) for at in (1, 2, 3)], PLENTY, PLENTY)
    assert letter_table.trim(table, 1) == 0
    assert letter_table.trim(table, 3) == 2
    assert kept(table) == [3]


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 50)), min_size=1, max_size=5), max_size=6),
    st.integers(0, 12),
    st.integers(0, 600),
)
def test_no_more_than_the_bounds(writes: list[list[tuple[int, int]]], most_samples: int, most_bytes: int) -> None:
    """The newest that fit are kept, whatever is written; what is kept is known at any time."""
    table = made()
    written: list[DeadLetter] = []
    for write in writes:
        letters = [replace(LETTER, samples=samples, body=bytes(size)) for samples, size in write]
        written += letters
        letter_table.write(table, letters, most_samples, most_bytes)
        found = letter_table.find_newest(table, None, PLENTY, 1000)
        samples = [letter.samples for letter in found]
        assert sum(samples) <= most_samples
        assert letter_table.count(table) == {"t": sum(samples)}
        assert [letter.id for letter in found] == list(range(len(written), len(written) - len(found), -1))
    table.close()


async def test_letters_commit_with_their_cursor(tmp_path: Path) -> None:
    """A confirmation and its dead letters are on disk together, stamped, and the account has them."""
    async with committing(tmp_path, "t") as bench:
        await bench.committer.submit(put("j", "a 1\n"))
        letter = DeadLetter(1, 2, 400, "no", maybe_stored=False, body=b"x")
        await bench.committer.confirm("t", [Settled(1, 1, 0, {}, "no", (letter,))])
        (found,) = letters_in(bench.journal.path)
        assert found == replace(letter, target="t", at_ms=NOW_MS, id=1)
        assert bench.committer.ledger.cursors["t"].dead_lettered == (("http_400", 2),)
        assert await bench.committer.delete_letters([1, 2]) == 1
        assert letters_in(bench.journal.path) == []
        assert bench.committer.ledger.cursors["t"].dead_lettered == (("http_400", 2),)


async def test_letters_that_cannot_be_written_leave_the_cursor(tmp_path: Path) -> None:
    """When the disk does not take the letters, the cursor has not moved either."""
    async with committing(tmp_path, "t") as bench:
        await bench.committer.submit(put("j", "a 1\n"))
        before = bench.committer.ledger.cursors["t"]
        with sqlite3.connect(bench.journal.path, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Exception, match="did not take the write"):
                await bench.committer.confirm("t", [Settled(1, 1, 0, {}, "no", (LETTER,))])
            other.execute("ROLLBACK")
        assert bench.committer.ledger.cursors["t"] == before
        assert letters_in(bench.journal.path) == []


def test_a_share_of_the_file(tmp_path: Path) -> None:
    """Dead letters never fill the journal: pushes still find room."""
    journal = Journal.open(tmp_path, max_bytes=MIB, now_ms=1)
    for _ in range(40):
        journal.write(Batch(letters=(replace(LETTER, body=bytes(50_000)),)))
        journal.commit()
    assert not journal.full
    assert 2 <= len(letters_in(journal.path)) <= 5
    journal.close()


def test_saved_from_a_damaged_file(tmp_path: Path) -> None:
    """Recovery keeps dead letters, and knows how many there are."""
    journal = Journal.open(tmp_path, max_bytes=MIB, now_ms=1)
    cursor = CursorRow("t", 0, 0, 0, (), (("http_400", 4),))
    journal.write(Batch(cursors=(cursor,), letters=(LETTER, LETTER)))
    journal.commit()
    journal.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("DROP TABLE runs")
    connection.close()
    journal = Journal.open(tmp_path, max_bytes=MIB, now_ms=2)
    assert journal.recovery is not None
    assert journal.load_cursors() == [cursor]
    assert letters_in(journal.path) == [replace(LETTER, id=2), replace(LETTER, id=1)]
    journal.write(Batch(letters=(LETTER,)))
    journal.commit()
    history = History(journal.path)
    assert history.dead_letters_kept() == {"t": 6}
    assert history.dead_letter(3) == replace(LETTER, id=3)
    history.close()
    journal.close()
