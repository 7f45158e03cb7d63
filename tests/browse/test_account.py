"""`journal stats`: the same facts as a document and as a table."""

from typing import Any

from bridge.browse.account import document, table
from bridge.journal.archive import Overview, TargetRow
from bridge.journal.rows import CursorRow

NOW_MS = 1_700_000_000_000
TARGETS = (
    TargetRow(CursorRow("dead", 2, 100, 50, (("journal_full", 3),), (("http_400", 7),)), NOW_MS - 90_061_500),
    TargetRow(CursorRow("live", 9, 0, 1_000_000, ()), None),
)
SEEN = Overview(3 << 20, 8, 900_000, 1_000_000, NOW_MS - 90_061_500, NOW_MS, 2, TARGETS)


def told(seen: Overview = SEEN) -> dict[str, Any]:
    return document("/data/journal.db", "0000abcd", seen, 1 << 30, NOW_MS)


def test_the_document_has_an_account_of_each_target() -> None:
    """Accepted is what each one's delivered, pending, dead-lettered and dropped make up, less what came before it."""
    assert told()["targets"] == {
        "dead": {
            "cursor": 2,
            "delivered": 50,
            "pending": 999_840,
            "dead_lettered": {"http_400": 7},
            "dropped": {"journal_full": 3},
            "oldest_pending": "2023-11-13T21:12:18.500Z",
            "oldest_pending_age_seconds": 90061.5,
        },
        "live": {
            "cursor": 9,
            "delivered": 1_000_000,
            "pending": 0,
            "dead_lettered": {},
            "dropped": {},
            "oldest_pending": None,
            "oldest_pending_age_seconds": 0,
        },
    }
    assert (told()["bytes"], told()["max_bytes"], told()["rows"]) == (3 << 20, 1 << 30, 8)


def test_the_table_says_the_same() -> None:
    """A line for each fact, and one for each target under its heads."""
    assert table(told()).splitlines() == [
        "journal  /data/journal.db (id 0000abcd)",
        "size     3.0 MiB of 1.0 GiB (0%)",
        "rows     8 with 900,000 samples (1,000,000 since it began)",
        "oldest   2023-11-13T21:12:18.500Z",
        "newest   2023-11-14T22:13:20.000Z",
        "groups   2",
        "",
        "target  cursor  delivered  pending  dead-lettered  dropped         oldest pending",
        "dead    2       50         999,840  7 http_400     3 journal_full  2023-11-13T21:12:18.500Z (1d1h)",
        "live    9       1,000,000  0        0              0               -",
    ]


def test_an_empty_journal_has_a_table() -> None:
    """Nothing in it, no target, no time."""
    empty = Overview(100, 0, 0, 0, None, None, 0, ())
    assert table(told(empty)).splitlines()[1:] == [
        "size     100 B of 1.0 GiB (0%)",
        "rows     0 with 0 samples (0 since it began)",
        "oldest   -",
        "newest   -",
        "groups   0",
    ]
