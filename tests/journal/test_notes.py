"""Idempotency keys and deliveries in the journal file: what is found again, and what is forgotten when."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.journal import notes
from bridge.journal.history import History
from bridge.journal.rows import Batch, DeliveryRow, KeyRow, Record
from bridge.journal.store import Journal

MIB = 1 << 20
ALL = 1 << 40


def key(name: str, group: bytes = b"g", at_ms: int = 1000, seq: int = 1) -> KeyRow:
    return KeyRow(group, name, b"digest", seq, seq + 1, at_ms)


def delivery(first_seq: int, last_seq: int, target: str = "t", at_ms: int = 1000, reason: str = "") -> DeliveryRow:
    return DeliveryRow(target, first_seq, last_seq, at_ms, reason, "its words" if reason else "")


def opened(directory: Path, max_bytes: int = 64 * MIB) -> Journal:
    return Journal.open(directory, max_bytes=max_bytes, now_ms=1)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = opened(tmp_path)
    yield journal
    journal.close()


def note(journal: Journal, *rows: KeyRow | DeliveryRow) -> None:
    keys = tuple(row for row in rows if isinstance(row, KeyRow))
    journal.write(Batch(keys=keys, deliveries=tuple(row for row in rows if isinstance(row, DeliveryRow))))
    journal.commit()


def trim(journal: Journal, keys_before_ms: int = 0, deliveries_before_ms: int = 0, limit: int = 1000) -> int:
    deleted = journal.trim_notes(keys_before_ms, deliveries_before_ms, limit)
    journal.commit()
    return deleted


def known(journal: Journal, target: str, first_seq: int, last_seq: int) -> list[DeliveryRow]:
    history = History(journal.path)
    try:
        return history.deliveries(target, first_seq, last_seq)
    finally:
        history.close()


def test_a_key_is_found_by_group_and_name(tmp_path: Path) -> None:
    """Keys belong to one group each, survive a restart, and differ in every letter."""
    journal = opened(tmp_path)
    rows = (key("k"), key("k", b"h", seq=5), key("K"), key("Schlüssel 北京"))
    note(journal, *rows)
    journal.close()
    journal = opened(tmp_path)
    assert [journal.find_key(row.group, row.key) for row in rows] == list(rows)
    assert journal.find_key(b"other", "k") is None
    assert journal.find_key(b"g", "k ") is None
    journal.close()


def test_a_key_that_comes_again_is_the_newer_one(journal: Journal) -> None:
    """A key that is used anew takes the place of the old one."""
    note(journal, key("k"))
    note(journal, key("k", at_ms=2000, seq=9))
    assert journal.find_key(b"g", "k") == key("k", at_ms=2000, seq=9)


def test_a_key_that_is_not_committed_is_gone(journal: Journal) -> None:
    """What was rolled back was never there."""
    journal.write(Batch(keys=(key("k"),)))
    journal.rollback()
    assert journal.find_key(b"g", "k") is None


def test_deliveries_of_a_stretch(journal: Journal) -> None:
    """All notes that overlap the rows come, newest first, of that target and no other."""
    note(journal, delivery(1, 4), delivery(5, 5, reason="400"), delivery(6, 9), delivery(12, 20), delivery(1, 20, "u"))
    assert known(journal, "t", 4, 6) == [delivery(6, 9), delivery(5, 5, reason="400"), delivery(1, 4)]
    assert known(journal, "t", 5, 5) == [delivery(5, 5, reason="400")]
    assert known(journal, "t", 10, 11) == []
    assert known(journal, "t", 9, 12) == [delivery(12, 20), delivery(6, 9)]
    assert known(journal, "u", 7, 7) == [delivery(1, 20, "u")]
    assert known(journal, "v", 1, 20) == []


def test_old_keys_go_in_small_steps(journal: Journal) -> None:
    """Keys before a time are deleted, a limited number at once, and the younger ones stay."""
    note(journal, *(key(f"k{at}", at_ms=at) for at in range(10)))
    assert [trim(journal, keys_before_ms=7, limit=3) for _ in range(4)] == [3, 3, 1, 0]
    assert [at for at in range(10) if journal.find_key(b"g", f"k{at}")] == [7, 8, 9]


def test_keys_are_bounded_in_number(tmp_path: Path) -> None:
    """A file of a size has room for so many keys; the oldest go first, in small steps, whatever the clock says."""
    journal = opened(tmp_path, max_bytes=MIB)
    most = notes.most_keys(MIB)
    assert most == 256
    for start in range(0, 400, 100):
        note(journal, *(key(f"k{number}", at_ms=-number) for number in range(start, start + 100)))
    assert [trim(journal, keys_before_ms=-ALL, limit=100) for _ in range(3)] == [100, 44, 0]
    assert journal.find_key(b"g", "k143") is None
    assert all(journal.find_key(b"g", f"k{number}") for number in range(144, 400))
    journal.close()
    assert notes.most_keys(1 << 50) == notes.MOST_KEYS


def test_deliveries_stay_as_long_as_their_rows(journal: Journal) -> None:
    """A delivery is forgotten when it is old and its rows are gone; what a slow target keeps is told of all of them."""
    journal.write(Batch(tuple(Record(1, b"g", "put", 1, b"") for _ in range(6))))
    note(journal, delivery(1, 2), delivery(3, 4), delivery(5, 6), delivery(1, 6, "u", at_ms=5000))
    assert trim(journal, deliveries_before_ms=2000) == 0
    journal.drop_oldest(4)
    assert trim(journal, deliveries_before_ms=1000) == 0
    assert trim(journal, deliveries_before_ms=2000) == 2
    assert known(journal, "t", 1, 6) == [delivery(5, 6)]
    assert known(journal, "u", 1, 1) == [delivery(1, 6, "u", at_ms=5000)]
    journal.drop_oldest(2)
    assert [trim(journal, deliveries_before_ms=9000, limit=1) for _ in range(3)] == [1, 1, 0]
    assert known(journal, "u", 1, 1) == []
