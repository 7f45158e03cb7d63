"""Dead letters in the journal: with their target's account, bounded, found again, saved from a damaged file."""

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import JournalUnavailableError
from bridge.journal import letter_table
from bridge.journal.history import History
from bridge.journal.letter_table import LetterQuestion
from bridge.journal.rows import Batch, CursorRow, DeadLetter, Settled
from bridge.journal.schema import FILE_NAME, FILL, TABLES
from bridge.journal.store import Journal
from tests.journal.test_committer import MIB, NOW_MS, committing, put

PLENTY = 1 << 40
PAGE = 4096
ALL = LetterQuestion()
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
    return [letter.id for letter in letter_table.find(table, LetterQuestion(target), 1000)]


def letters_in(path: Path) -> list[DeadLetter]:
    history = History(path)
    try:
        return history.dead_letters(ALL, 1000)
    finally:
        history.close()


def test_what_is_written_is_found(table: sqlite3.Connection) -> None:
    """Newest first, by target, page by page and by number, with all that was said of it."""
    letters = [LETTER, replace(LETTER, target="u", maybe_stored=False), replace(LETTER, seq=9)]
    letter_table.write(table, letters, PLENTY, PLENTY)
    found = letter_table.find(table, ALL, 1000)
    assert found == [replace(letter, id=at) for at, letter in reversed(list(enumerate(letters, 1)))]
    assert kept(table, "t") == [3, 1]
    assert [letter.id for letter in letter_table.find(table, LetterQuestion(before_id=3), 1)] == [2]
    assert letter_table.count(table) == {"t": 4, "u": 2}


def test_numbers_are_not_given_twice(table: sqlite3.Connection) -> None:
    """The number of a letter that went does not come to stand for another one."""
    letter_table.write(table, [LETTER, LETTER], PLENTY, PLENTY)
    assert letter_table.delete(table, LetterQuestion(ids=(1, 2, 3))) == 2
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
        found = letter_table.find(table, ALL, 1000)
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
        assert await bench.committer.delete_letters(LetterQuestion(ids=(1, 2))) == 1
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
    assert history.dead_letters(LetterQuestion(ids=(3,)), 2) == [replace(LETTER, id=3)]
    history.close()
    journal.close()


def letter(at_ms: int, target: str = "a", samples: int = 1, body: bytes = b"body") -> DeadLetter:
    return DeadLetter(7, samples, 400, "no", maybe_stored=False, body=body, target=target, at_ms=at_ms)


LETTERS = (
    letter(10),
    replace(letter(20, "b", 2), tenant="red"),
    letter(30, "a", 3),
    replace(letter(40, "b", 4), tenant="blue"),
)


def write(journal: Journal, *letters: DeadLetter) -> None:
    journal.write(Batch(letters=letters))
    journal.commit()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.open(tmp_path, max_bytes=128 * MIB, now_ms=1)
    write(journal, *LETTERS)
    yield journal
    journal.close()


@pytest.fixture
def history(journal: Journal) -> Iterator[History]:
    history = History(journal.path)
    yield history
    history.close()


def ids(history: History, wanted: LetterQuestion = ALL, limit: int = 100) -> list[int]:
    return [letter.id for letter in history.dead_letters(wanted, limit)]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (ALL, [4, 3, 2, 1]),
        (LetterQuestion("a"), [3, 1]),
        (LetterQuestion("gone"), []),
        (LetterQuestion(before_id=3), [2, 1]),
        (LetterQuestion(after_id=3), [4]),
        (LetterQuestion("b", before_ms=40), [2]),
        (LetterQuestion(ids=(1, 4, 9)), [4, 1]),
        (LetterQuestion("a", ids=(1, 4, 9)), [1]),
        (LetterQuestion(ids=()), []),
        (LetterQuestion(without_tenants=("",)), [4, 2]),
        (LetterQuestion("b", without_tenants=("red", "none")), [4]),
        (LetterQuestion(without_tenants=("red", "", "blue")), []),
    ],
)
def test_what_is_meant(journal: Journal, history: History, wanted: LetterQuestion, found: list[int]) -> None:
    """A question means the same letters to look at, to count and to delete."""
    assert ids(history, wanted) == found
    assert ids(history, wanted, 1) == found[:1]
    assert [letter.id for letter in history.oldest_letters(wanted, 1)] == found[-1:]
    assert history.measure_letters(wanted) == (len(found), sum(found))
    assert journal.change_letters(partial(letter_table.delete, wanted=wanted)) == len(found)
    journal.commit()
    assert ids(history) == [number for number in (4, 3, 2, 1) if number not in found]


def test_long_bodies_are_read_when_they_are_asked_for(history: History) -> None:
    """A letter comes back as it was written; the body of one with many samples may be left out."""
    stored = [replace(one, id=number) for number, one in enumerate(LETTERS, 1)]
    assert history.oldest_letters(ALL, 100) == stored
    short = history.dead_letters(ALL, 100, bodies_up_to=2)
    assert short == [replace(one, body=one.body if one.samples <= 2 else b"") for one in reversed(stored)]
    assert history.dead_letters_kept() == {"a": 4, "b": 6}


def test_a_replay_leaves_what_was_refused_again(journal: Journal, history: History) -> None:
    """What was taken goes; the rest keeps its number and time and has the newest words."""
    left = DeadLetter(7, 2, 422, "still no", maybe_stored=True, body=b"rest", tenant="blue", target="b", at_ms=99, id=4)
    journal.change_letters(partial(letter_table.settle, taken=(1, 2), left=(left, replace(left, id=99))))
    journal.commit()
    assert history.dead_letters(ALL, 100) == [replace(left, at_ms=40), replace(LETTERS[2], id=3)]
    write(journal, letter(50))
    assert ids(history) == [5, 4, 3]
    assert history.dead_letters_kept() == {"a": 4, "b": 2}


def test_a_damaged_journal_keeps_readable_letters(tmp_path: Path) -> None:
    """A page of garbage costs the letters on it; all others are there in the new file, under their numbers."""
    journal = Journal.open(tmp_path, max_bytes=64 * MIB, now_ms=1)
    write(journal, *(letter(number, body=bytes([number % 251]) * 1000) for number in range(1, 401)))
    journal.close()
    with journal.path.open("r+b") as file:
        file.seek(journal.path.stat().st_size // PAGE // 2 * PAGE)
        file.write(b"\xff" * PAGE)
    journal = Journal.open(tmp_path, max_bytes=64 * MIB, now_ms=1)
    assert journal.recovery is not None
    history = History(journal.path)
    kept = history.oldest_letters(ALL, 1000)
    assert 390 <= len(kept) < 400
    assert history.dead_letters_kept() == {"a": len(kept)}
    assert all(one.id == one.at_ms and one.body == bytes([one.id % 251]) * 1000 for one in kept)
    write(journal, letter(401))
    assert ids(history, limit=1) == [401]
    history.close()
    journal.close()


def test_many_letters_cost_little(journal: Journal, history: History) -> None:
    """Among 50,000 letters the newest ones, one by its number and the sums are found at once."""
    write(journal, *[letter(at_ms, body=b"x" * 200) for at_ms in range(50_000)])
    for look, most_s in (
        (lambda: history.dead_letters(ALL, 100), 0.05),
        (lambda: history.dead_letters(LetterQuestion("b"), 100), 0.5),
        (lambda: history.dead_letters(LetterQuestion(ids=(17,)), 1), 0.05),
        (history.dead_letters_kept, 0.5),
    ):
        started_s = time.process_time()
        assert look()
        assert time.process_time() - started_s < most_s


def test_an_unreadable_journal_says_so(history: History) -> None:
    """Nobody gets an empty answer from a file that cannot be read."""
    history.close()
    for look in (
        lambda: history.dead_letters(ALL, 1),
        lambda: history.oldest_letters(ALL, 1),
        lambda: history.measure_letters(ALL),
        history.dead_letters_kept,
        lambda: history.origin(1),
    ):
        with pytest.raises(JournalUnavailableError, match="cannot read the journal"):
            look()
