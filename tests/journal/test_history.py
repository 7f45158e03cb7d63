"""The journal looked back at: which rows are one push, in which order pushes come, and what is not a push."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import JournalUnavailableError
from bridge.journal.history import _STRETCH_ROWS, History, Origin, PushRows
from bridge.journal.rows import Batch, Operation, Record
from bridge.journal.store import Journal
from tests.journal.test_committer import locked

END = 1 << 62


def row(arrival_ms: int, group: bytes = b"g", operation: Operation = "put", samples: int = 1) -> Record:
    return Record(arrival_ms, group, operation, samples, b"body" * 100)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.open(tmp_path, max_bytes=1 << 26, now_ms=1)
    yield journal
    journal.close()


@pytest.fixture
def history(journal: Journal) -> Iterator[History]:
    history = History(journal.path)
    yield history
    history.close()


def append(journal: Journal, *records: Record) -> None:
    journal.write(Batch(records))
    journal.commit()


def pushes(history: History, seq: int = END, part: bytes = b"") -> list[PushRows]:
    return [push for push in history.pushes_before(seq, part) if push is not None]


def firsts(history: History, seq: int = END, part: bytes = b"") -> list[int]:
    return [push.first_seq for push in pushes(history, seq, part)]


def test_rows_of_a_time_and_group_are_one_push(journal: Journal, history: History) -> None:
    """A push of several rows is one, with all its samples; its neighbours of another group or time are others."""
    append(journal, row(10), row(11, samples=2000), row(11, samples=2000), row(11, samples=5), row(11, b"h"))
    push = PushRows(2, 4, 11, b"g", "put", 4005)
    assert history.push_at(2) == push
    assert pushes(history) == [PushRows(5, 5, 11, b"h", "put", 1), push, PushRows(1, 1, 10, b"g", "put", 1)]


def test_only_the_first_row_names_a_push(journal: Journal, history: History) -> None:
    """A number inside a push, before the first or behind the last is none of a push."""
    append(journal, row(1), row(2), row(2), row(2))
    assert [seq for seq in range(7) if history.push_at(seq)] == [1, 2]


def test_what_is_no_push_is_left_out(journal: Journal, history: History) -> None:
    """Refused pushes and what the agent ends by itself have rows too, but are not pushes; a DELETE is one."""
    append(
        journal,
        row(1, operation="failure"),
        row(2, operation="post"),
        row(3, operation="expire"),
        row(4, operation="delete"),
        row(5, operation="forget"),
        row(6, operation="failure"),
    )
    assert [(push.first_seq, push.operation) for push in pushes(history)] == [(4, "delete"), (2, "post")]
    assert [seq for seq in range(1, 7) if history.push_at(seq)] == [2, 4]


def test_paging_gives_each_push_once(journal: Journal, history: History) -> None:
    """The pushes before the last one of a page follow on it without a gap and without a repetition."""
    append(journal, *(row(at // 2) for at in range(40)))
    page, seen = firsts(history)[:7], list[int]()
    while page:
        seen += page
        page = firsts(history, page[-1])[:7]
    assert seen == list(range(39, 0, -2))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 3 * _STRETCH_ROWS // 2), st.sampled_from([b"a", b"b", b"ab"])), max_size=5))
def test_stretches_do_not_cut_pushes(tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[int, bytes]]) -> None:
    """Pushes of any number of rows come whole and in order, for all groups and for some."""
    journal = Journal.open(tmp_path_factory.mktemp("journal"), max_bytes=1 << 26, now_ms=1)
    history = History(journal.path)
    expected: list[PushRows] = []
    seq = 0
    for at, (rows, group) in enumerate(plan):
        append(journal, *(row(at, group) for _ in range(rows)))
        expected.insert(0, PushRows(seq + 1, seq + rows, at, group, "put", rows))
        seq += rows
    assert pushes(history) == expected
    assert pushes(history, part=b"a") == [push for push in expected if b"a" in push.group]
    assert pushes(history, part=b"c") == []
    assert all(history.push_at(push.first_seq) == push for push in expected)
    history.close()
    journal.close()


def test_others_get_a_turn(journal: Journal, history: History) -> None:
    """Looking for a group that is not there gives None again and again, once for each stretch."""
    append(journal, *(row(at) for at in range(3 * _STRETCH_ROWS)))
    assert list(history.pushes_before(END, b"nowhere")) == [None] * 3


def test_rows_that_are_gone(journal: Journal, history: History) -> None:
    """A trimmed push is not found, and the list ends where the journal begins; new pushes are seen at once."""
    append(journal, *(row(at) for at in range(10)))
    journal.drop_oldest(8)
    journal.commit()
    assert (history.push_at(8), firsts(history)) == (None, [10, 9])
    journal.drop_oldest(8)
    journal.commit()
    assert firsts(history) == []
    append(journal, row(20))
    assert firsts(history) == [11]


def test_a_reader_leaves_nothing_open(journal: Journal, history: History) -> None:
    """After any question, even one that is not heard to its end, the write-ahead log can be reset."""
    append(journal, *(row(at) for at in range(2000)))
    history.push_at(1)
    history.deliveries("t", 1, 2000)
    half_heard = history.pushes_before(END)
    next(half_heard)
    busy, _, _ = journal._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0
    assert journal.path.with_name("journal.db-wal").stat().st_size == 0
    assert next(half_heard) is not None


def test_it_reads_while_another_writes(journal: Journal, history: History) -> None:
    """A write lock held by another program keeps nobody from looking back."""
    append(journal, row(1))
    with locked(journal.path):
        assert firsts(history) == [1]


def test_a_journal_that_cannot_be_read_says_so(journal: Journal, history: History, tmp_path: Path) -> None:
    """A missing or closed file is an error that names it, not a crash of its own kind."""
    with pytest.raises(JournalUnavailableError, match=r"cannot open the journal .*nowhere"):
        History(tmp_path / "nowhere" / "journal.db")
    append(journal, row(1))
    history.close()
    for ask in (lambda: history.push_at(1), lambda: firsts(history), lambda: history.deliveries("t", 1, 1)):
        with pytest.raises(JournalUnavailableError, match="cannot read the journal"):
            ask()


def test_where_a_row_comes_from(journal: Journal, history: History) -> None:
    """Any row of a push leads to its first one, a row that came by itself to its group alone."""
    append(journal, row(1), row(2, b"h"), row(2, b"h"), row(2, b"h"), row(3, b"h", "expire"), row(3, b"g", "post"))
    assert [history.origin(seq) for seq in range(1, 8)] == [
        Origin(b"g", 1),
        *[Origin(b"h", 2)] * 3,
        Origin(b"h", None),
        Origin(b"g", 6),
        None,
    ]
