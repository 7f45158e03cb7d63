"""What is done about the files of a directory, from what was known and what is there."""

from dataclasses import replace

import pytest

from bridge.content import EMPTY, Content
from bridge.exposition.text import parse_text
from bridge.flatten import FlattenOptions, flatten
from bridge.groups import Group, group_id, key_of, store
from bridge.hold import end
from bridge.textfile.plan import (
    MOST_BYTES,
    MOST_FILES,
    NO_STAMP,
    Known,
    Plan,
    Stamp,
    chunks,
    is_in_force,
    is_settled,
    plan,
    time_ms,
)

NOW_MS = 1_700_000_000_000
STAMP = Stamp(NOW_MS * 1_000_000, 4, 7)
LABELS = (("job", "textfile"),)
KEY = key_of(LABELS, "/dir/a.prom")


def content(body: str) -> Content:
    """Read a body."""
    return flatten(parse_text(body.encode(), utf8_names=False), LABELS, FlattenOptions({}), NOW_MS)


def held(body: str, at_ms: int = NOW_MS, ttl_ms: int = 1000) -> Group:
    """Give the group that took a body."""
    return store(Group(group_id(KEY, {})), content(body), at_ms, replace_all=True, ttl_ms=ttl_ms).group


@pytest.mark.parametrize(
    ("known", "found", "wanted"),
    [
        ({}, {}, Plan()),
        ({}, {"b": STAMP, "a": STAMP}, Plan(look=("a", "b"))),
        ({"a": Known(STAMP)}, {"a": STAMP}, Plan()),
        ({"a": Known(STAMP)}, {}, Plan(gone=("a",))),
        ({"a": Known(STAMP)}, {"a": replace(STAMP, mtime_ns=STAMP.mtime_ns - 1)}, Plan(look=("a",))),
        ({"a": Known(STAMP)}, {"a": replace(STAMP, size=5)}, Plan(look=("a",))),
        ({"a": Known(STAMP)}, {"a": replace(STAMP, inode=8)}, Plan(look=("a",))),
        ({"a": Known(STAMP, error="line 1")}, {"a": STAMP}, Plan()),
        ({"a": Known(STAMP, error="elsewhere", waits=True)}, {"a": STAMP}, Plan(look=("a",))),
        ({"a": Known(STAMP, settled=False)}, {"a": STAMP}, Plan(look=("a",))),
        ({"a": Known(NO_STAMP, error="no file")}, {"a": NO_STAMP}, Plan(look=("a",))),
        ({"b": Known(STAMP), "a": Known(STAMP)}, {"c": STAMP}, Plan(gone=("a", "b"), look=("c",))),
    ],
    ids="nothing new same gone mtime size inode refused waiting unsettled unstamped renamed".split(),
)
def test_what_is_looked_at(known: dict[str, Known], found: dict[str, Stamp], wanted: Plan) -> None:
    """New and changed files are read, refused ones when they change or wait, those that are gone end; all by name."""
    assert plan(known, (), found) == wanted


def test_a_file_that_went_while_nobody_looked_is_gone() -> None:
    """A group whose file is not there ends, although the file was never seen."""
    assert plan({}, ["a", "b"], {"b": STAMP}) == Plan(gone=("a",), look=("b",))


def test_a_fresh_file_may_change_without_another_stamp() -> None:
    """Within the grain of time stamps a second write may leave no trace."""
    assert not is_settled(STAMP, STAMP.mtime_ns + 1_000_000)
    assert not is_settled(STAMP, STAMP.mtime_ns - 1_000_000_000)
    assert is_settled(STAMP, STAMP.mtime_ns + 3_000_000_000)


def test_a_transaction_is_bounded_in_files_and_bytes() -> None:
    """Names stay in order and each is in one chunk; a file larger than the bound is alone."""
    names = [f"{number:03}" for number in range(2 * MOST_FILES + 1)]
    found = dict.fromkeys(names, STAMP)
    assert [len(chunk) for chunk in chunks(names, found)] == [MOST_FILES, MOST_FILES, 1]
    assert [name for chunk in chunks(names, found) for name in chunk] == names
    found["001"] = replace(STAMP, size=MOST_BYTES + 1)
    assert list(chunks(names[:4], found)) == [["000"], ["001"], ["002", "003"]]
    assert not list(chunks([], {}))


@pytest.mark.parametrize(
    ("group", "body", "mtime_ms", "wanted"),
    [
        (held("a 1\n"), "a 1\n", NOW_MS, True),
        (held("a 1\n"), "a 1\n", NOW_MS - 5, True),
        (held("a 1\n"), "a 1\n", NOW_MS + 5, False),
        (held("a 1\n"), "a 1\n", NOW_MS + 500, True),
        (held("a 1\n"), "a 2\n", NOW_MS, False),
        (held("a 1\n"), "b 1\n", NOW_MS, False),
        (held("a 1\n"), "# TYPE a gauge\na 1\n", NOW_MS, False),
        (held("a 1 5\n"), "a 1 5\n", NOW_MS, True),
        (held("a 1 5\n"), "a 1 6\n", NOW_MS, False),
        (held("a NaN\n"), "a NaN\n", NOW_MS, True),
        (held(""), "", NOW_MS, True),
        (held(""), "a 1\n", NOW_MS, False),
        (Group(group_id(KEY, {})), "a 1\n", NOW_MS, False),
        (end(held("a 1\n"), NOW_MS + 50).group, "a 1\n", NOW_MS, True),
        (end(held("a 1\n"), NOW_MS + 50).group, "a 1\n", NOW_MS + 60, False),
    ],
    ids=[
        "same", "older", "touched", "in the future", "value", "name", "type", "timestamp", "other timestamp", "nan",
        "empty", "filled", "unknown", "expired", "touched after expiry",
    ],
)  # fmt: skip
def test_what_a_restart_finds(group: Group, body: str, mtime_ms: int, wanted: bool) -> None:
    """An unchanged file changes nothing, expired or not; whatever differs is news."""
    assert is_in_force(group, content(body), mtime_ms, NOW_MS + 100) is wanted


def test_the_time_of_a_file() -> None:
    """It is the mtime, not in the future, and later than the end of its series in another file."""
    group, new = Group(group_id(KEY, {})), content("a 1\nb 1\n")
    assert time_ms(NOW_MS - 5, NOW_MS, {}, group, new) == NOW_MS - 5
    assert time_ms(NOW_MS + 5, NOW_MS, {}, group, new) == NOW_MS
    ended = {new.shape.heads[1]: NOW_MS - 2, b"other": NOW_MS + 10}
    assert time_ms(NOW_MS - 5, NOW_MS, ended, group, new) == NOW_MS - 1
    assert time_ms(NOW_MS - 5, NOW_MS, ended, group, content("c 1\n")) == NOW_MS - 5
    assert time_ms(NOW_MS - 5, NOW_MS, ended, group, EMPTY) == NOW_MS - 5
