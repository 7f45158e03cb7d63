"""The journal read without an agent: what is found, in which pieces, and what is refused."""

import os
from pathlib import Path

import pytest

from bridge.errors import ConfigError
from bridge.journal import archive as module
from bridge.journal.archive import Archive, Overview, TargetRow
from bridge.journal.rows import Batch, CursorRow, GroupRow
from bridge.journal.schema import VERSION
from bridge.journal.store import Journal
from tests.browse.journals import AT_MS, MAX_BYTES, change, record, write


def seqs(archive: Archive, since_ms: int | None = None, until_ms: int | None = None) -> list[list[int]]:
    return [[row.seq for row in piece] for piece in archive.pieces(archive.span(since_ms, until_ms))]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Five rows a second apart, of which the third arrived late."""
    times = (0, 1000, 500, 2000, 3000)
    write(tmp_path, *(record(AT_MS + at, "j", ("a", float(at))) for at in times))
    return tmp_path


def test_a_span_has_what_arrived_in_it(directory: Path) -> None:
    """From `since` on, before `until`, in the order of the journal, also where the times are not."""
    with Archive(directory) as archive:
        assert seqs(archive) == [[1, 2, 3, 4, 5]]
        assert seqs(archive, AT_MS + 1000) == [[2, 4, 5]]
        assert seqs(archive, None, AT_MS + 1000) == [[1, 3]]
        assert seqs(archive, AT_MS + 500, AT_MS + 2000) == [[2, 3]]
        assert seqs(archive, AT_MS + 3001) == []
        assert archive.span(AT_MS + 500, None, through_seq=4).rows == 3


def test_what_is_left_of_a_span_is_found_from_its_earliest_arrival(directory: Path) -> None:
    """A row that arrived before its forerunner is not passed over when a replay goes on by time."""
    with Archive(directory) as archive:
        span = archive.span(None, None)
        assert [archive.rest_since_ms(span, seq) for seq in (0, 1, 2, 3, 4)] == [
            AT_MS + at for at in (0, 500, 500, 2000, 3000)
        ]
        assert archive.rest_since_ms(span, 5) is None


def test_a_long_span_comes_in_pieces(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No piece has many more samples or bytes than fit into memory easily, and none is lost between two."""
    with Archive(directory) as archive:
        monkeypatch.setattr(module, "_PIECE_SAMPLES", 2)
        assert seqs(archive) == [[1, 2], [3, 4], [5]]
        monkeypatch.setattr(module, "_PIECE_BYTES", 1)
        assert seqs(archive) == [[1], [2], [3], [4], [5]]


def test_a_damaged_row_is_marked(directory: Path) -> None:
    """It is given without its body, and its neighbours with theirs."""
    change(directory, "UPDATE journal SET body = x'00' WHERE seq = 2")
    with Archive(directory) as archive:
        assert [(row.damaged, bool(row.body)) for row in archive.rows_of(1, 3)] == [
            (False, True),
            (True, False),
            (False, True),
        ]


def test_an_overview_counts_everything(directory: Path) -> None:
    """Rows, samples, groups and the account of each target with what it waits for."""
    cursors = CursorRow("a", 5, 0, 5, ()), CursorRow("b", 1, 0, 0, (("http_400", 1),))
    row = GroupRow(b"job\xffj", AT_MS, AT_MS, 0, True, AT_MS, True, b"", ())
    write(directory, cursors=cursors, groups=(row,))
    with Archive(directory) as archive:
        seen = archive.overview()
    targets = TargetRow(cursors[0], None), TargetRow(cursors[1], AT_MS + 500)
    assert seen == Overview(seen.used_bytes, 5, 5, 5, AT_MS, AT_MS + 3000, 1, targets)
    assert 0 < seen.used_bytes <= (directory / "journal.db").stat().st_size


def test_it_is_told_whether_older_rows_are_gone(directory: Path) -> None:
    """A journal that was never trimmed has its beginning."""
    with Archive(directory) as archive:
        assert archive.begins_ms() is None
    change(directory, "DELETE FROM journal WHERE seq = 1")
    with Archive(directory) as archive:
        assert archive.begins_ms() == AT_MS + 1000
    change(directory, "DELETE FROM journal")
    with Archive(directory) as archive:
        assert archive.begins_ms() is None


def test_a_running_journal_is_read_beside_its_writer(directory: Path) -> None:
    """Rows are seen as they are committed, and neither waits for the other."""
    journal = Journal.open(directory, max_bytes=MAX_BYTES, now_ms=AT_MS)
    with Archive(directory) as archive:
        journal.write(Batch((record(AT_MS + 4000, "j", ("a", 4.0)),)))
        assert seqs(archive) == [[1, 2, 3, 4, 5]]
        journal.commit()
        assert seqs(archive) == [[1, 2, 3, 4, 5, 6]]
    journal.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's rights for a moment")
def test_a_journal_that_may_only_be_read_is_read(directory: Path) -> None:
    """A stopped agent's journal can be looked at by somebody who may not write beside it."""
    for path in (directory, *directory.parents):
        if path.stat().st_uid == 0 and path.stat().st_mode & 0o077 == 0:
            path.chmod(0o755)
    os.seteuid(65534)
    try:
        with Archive(directory) as archive:
            assert seqs(archive) == [[1, 2, 3, 4, 5]]
            assert [push is not None for push in archive.history().pushes_before(9)].count(True) == 5
    finally:
        os.seteuid(0)
    assert {path.name for path in directory.iterdir()} == {"journal.db", "lock"}


def test_what_is_no_journal_of_ours_is_refused(tmp_path: Path, directory: Path) -> None:
    """A missing file, another program's, a newer and an older one: one line each, that says which and what to do."""
    path = directory / "journal.db"
    set_version = "UPDATE meta SET value = ? WHERE name = 'schema_version'"
    cases: list[tuple[tuple[str, *tuple[int, ...]], str]] = [
        ((set_version, VERSION + 1), "use the program of the newer agent"),
        ((set_version, VERSION - 1), "let the agent start on it first"),
        (("DROP TABLE meta",), "no such table: meta"),
    ]
    for statement, words in cases:
        change(directory, *statement)
        with pytest.raises(ConfigError, match=words) as refused:
            Archive(directory)
        assert str(path) in str(refused.value)
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(ConfigError, match="file is not a database"):
        Archive(directory)
    with pytest.raises(ConfigError, match=r"storage\.path: .*none has no journal"):
        Archive(tmp_path / "none")
