"""What a sender leaves for the next one of its target: taken once, and only by the journal that it is true of."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.journal.ahead import Standing, leave, take

STANDING = Standing("0badcafe", 10, 20)
FITTING = '{"target": "t", "journal": "0badcafe", "cursor": 10, "end": 20, "first": 12, "delivered": %s}'
BROKEN = ("", "{", "[]", "null", '{"target": "t"}', "\xff", FITTING % 1, FITTING % '"A"', FITTING % '"AQ=="' + "}")


@given(st.sets(st.integers(11, 300)))
def test_what_is_left_is_taken_once(seqs: set[int]) -> None:
    """The next sender knows just these rows, one after it none."""
    with TemporaryDirectory() as name:
        leave(Path(name), "a/b", replace(STANDING, end_seq=300), sorted(seqs))
        assert take(Path(name), "a/b", replace(STANDING, end_seq=301)) == seqs
        assert take(Path(name), "a/b", replace(STANDING, end_seq=301)) == frozenset()
        assert list(Path(name).iterdir()) == []


@pytest.mark.parametrize(
    "other",
    [replace(STANDING, journal_id="0badcaff"), replace(STANDING, cursor_seq=9), replace(STANDING, end_seq=19)],
    ids=["another journal", "the cursor of an older copy", "an older copy"],
)
def test_what_does_not_fit_is_forgotten(other: Standing, tmp_path: Path) -> None:
    """Rows of these numbers may be others, so none is taken for delivered, now or later."""
    leave(tmp_path, "t", STANDING, [12, 13])
    assert take(tmp_path, "t", other) == frozenset()
    assert take(tmp_path, "t", STANDING) == frozenset()


def test_the_cursor_may_have_moved(tmp_path: Path) -> None:
    """What was delivered stays delivered; only the newest that was left counts."""
    leave(tmp_path, "t", STANDING, [12, 13])
    leave(tmp_path, "t", STANDING, [12, 13, 17])
    assert take(tmp_path, "t", replace(STANDING, cursor_seq=12, end_seq=30)) == {12, 13, 17}


def test_targets_are_apart(tmp_path: Path) -> None:
    """Each target has what was left for it."""
    leave(tmp_path, "t", STANDING, [12])
    leave(tmp_path, "u", STANDING, [13])
    assert take(tmp_path, "u", STANDING) == {13}
    assert take(tmp_path, "t", STANDING) == {12}


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_is_broken(text: str, tmp_path: Path) -> None:
    """It says nothing, and is gone."""
    leave(tmp_path, "t", STANDING, [12])
    (path,) = tmp_path.iterdir()
    path.write_bytes(text.encode("latin-1"))
    assert take(tmp_path, "t", STANDING) == frozenset()
    assert not path.exists()
