"""The journal's writer: what is durable, what is refused, and what stays possible afterwards."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.errors import ConfigError, JournalFullError, JournalUnavailableError
from bridge.journal.reader import JournalReader
from bridge.journal.rows import NEVER_MS, Batch, CursorRow, GroupRow, PartRow, Record
from bridge.journal.store import Journal

MIB = 1 << 20


def opened(directory: Path, max_bytes: int = 64 * MIB) -> Journal:
    return Journal.open(directory, max_bytes=max_bytes, now_ms=1000)


def record(arrival_ms: int = 1, samples: int = 1, body: bytes = b"body") -> Record:
    return Record(arrival_ms, b"group", "put", samples, body)


def group(key: bytes, *bodies: bytes, last_ms: int = 1, live: bool = True) -> GroupRow:
    parts = tuple(PartRow(b"f", body) for body in bodies)
    return GroupRow(key, last_ms, last_ms, 0, live, NEVER_MS, True, b"".join(bodies), parts)


def put(journal: Journal, *records: Record) -> None:
    journal.write(Batch(records=records))
    journal.commit()


def seqs(journal: Journal) -> list[int]:
    with JournalReader(journal.path) as reader:
        return [entry.seq for entry in reader.read(0, 10**9, 10**9)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = opened(tmp_path)
    yield journal
    journal.close()


def test_everything_survives_reopening(tmp_path: Path) -> None:
    """Rows, groups, cursors and totals are the same after close and open."""
    cursor = CursorRow("mimir", 1, 0, 3, (("rejected", 2), ("full", 1)))
    groups = (group(b"a", b"1", b"2"), group(b"b", live=False))
    journal = opened(tmp_path / "deep" / "er")
    assert journal.recovery is None
    assert journal.write(Batch((record(samples=3), record(samples=4)), groups, (cursor,))) == 1
    journal.commit()
    journal.close()
    journal = opened(tmp_path / "deep" / "er")
    assert (journal.end_seq, journal.accepted_total, journal.recovery) == (2, 7, None)
    assert list(journal.load_groups()) == [replace(group, seq=2) for group in groups]
    assert journal.load_cursors() == [cursor]
    assert seqs(journal) == [1, 2]
    assert journal.samples_after(1) == 4
    journal.close()


def test_totals_move_at_commit_only(journal: Journal) -> None:
    """A written batch counts nowhere before its commit, and never after a rollback."""
    assert journal.write(Batch((record(samples=5),))) == 1
    assert (journal.end_seq, journal.accepted_total, seqs(journal)) == (0, 0, [])
    journal.rollback()
    assert journal.write(Batch((record(samples=2),))) == 1
    assert journal.write(Batch()) is None
    assert journal.write(Batch((record(), record()))) == 2
    journal.commit()
    assert (journal.end_seq, journal.accepted_total, seqs(journal)) == (3, 4, [1, 2, 3])


def test_kill_keeps_what_was_committed(tmp_path: Path) -> None:
    """A process killed with SIGKILL leaves all that it committed and nothing that it did not."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from bridge.journal.store import Journal; from bridge.journal.rows import NEVER_MS, Batch, Record\n"
        "j = Journal.open(Path(sys.argv[1]), max_bytes=1 << 26, now_ms=1)\n"
        "r = Record(1, b'g', 'put', 1, b'body')\n"
        "j.write(Batch((r, r))); j.commit(); j.write(Batch((r,)))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    journal = opened(tmp_path)
    assert (journal.end_seq, journal.accepted_total, journal.recovery) == (2, 2, None)
    journal.close()


def test_group_parts_are_replaced(journal: Journal) -> None:
    """A group's parts after any sequence of writes and rollbacks are those of the last committed write."""
    for bodies in ([b"1", b"2", b"3"], [b"1", b"x"], [], [b"y"], [b"y", b"1"]):
        journal.write(Batch(groups=(group(b"g", b"other", *bodies, b"1"),)))
        journal.rollback()
        journal.write(Batch(groups=(group(b"g", *bodies),)))
        journal.commit()
        assert list(journal.load_groups()) == [group(b"g", *bodies)]


def test_group_loaded_from_disk_is_replaced(tmp_path: Path) -> None:
    """Parts stored by an earlier process are replaced too."""
    for bodies in ([b"1", b"2", b"3"], [b"4"]):
        journal = opened(tmp_path)
        journal.write(Batch(groups=(group(b"g", *bodies),)))
        journal.commit()
        assert list(journal.load_groups()) == [group(b"g", *bodies)]
        journal.close()


def test_trim_takes_old_delivered_rows_only(journal: Journal) -> None:
    """Retention removes rows that are both old and delivered, oldest first, and never gives a number twice."""
    put(journal, *(record(arrival_ms=ms) for ms in (10, 30, 20, 10, 10)))
    assert journal.trim(25, 4, 2, ended_before_ms=0) == 2
    journal.commit()
    assert seqs(journal) == [2, 3, 5]
    assert journal.trim(25, 4, 9, ended_before_ms=0) == 1
    assert journal.trim(99, 5, 9, ended_before_ms=0) == 2
    journal.commit()
    put(journal, record(arrival_ms=7))
    assert (seqs(journal), journal.accepted_total) == ([6], 6)


def test_trim_forgets_dead_groups(journal: Journal) -> None:
    """A deleted group is forgotten once its last stamp is old; live and recent ones stay, and it may come back."""
    kept = (group(b"live", b"1", last_ms=1), group(b"recent", last_ms=50, live=False))
    journal.write(Batch(groups=(*kept, group(b"dead", b"stray", last_ms=1, live=False))))
    journal.commit()
    assert journal.trim(0, 0, 1, ended_before_ms=50) == 0
    journal.commit()
    assert list(journal.load_groups()) == list(kept)
    again = group(b"dead", b"stray")
    journal.write(Batch(groups=(again,)))
    journal.commit()
    assert again in list(journal.load_groups())


def test_delete_cursor(journal: Journal) -> None:
    """A cursor is gone after its deletion is committed, and back after a rollback."""
    cursor = CursorRow("a", 0, 0, 0, ())
    journal.write(Batch(cursors=(cursor,)))
    journal.commit()
    journal.delete_cursor("a")
    journal.rollback()
    assert journal.load_cursors() == [cursor]
    journal.delete_cursor("a")
    journal.commit()
    assert journal.load_cursors() == []


def test_full_journal_refuses_and_makes_room(tmp_path: Path) -> None:
    """At max_bytes a push is refused with the state as before; cursors still move; dropping the oldest helps."""
    journal = opened(tmp_path, max_bytes=MIB)
    before = 0
    with pytest.raises(JournalFullError) as refused:  # noqa: PT012
        while True:
            before = journal.end_seq
            put(journal, record(body=os.urandom(10_000)))
    assert refused.value.reason == "journal_full"
    assert str(MIB) in str(refused.value)
    with pytest.raises(JournalUnavailableError):
        journal.commit()
    journal.rollback()
    assert journal.end_seq == before > 50
    assert seqs(journal) == list(range(1, before + 1))
    for moved in range(50):
        journal.write(Batch(cursors=(CursorRow("target", moved, 0, moved, (("reason", moved),)),)))
        journal.commit()
    used = journal.used_bytes()
    assert journal.drop_oldest(10) == [(seq, 1) for seq in range(1, 11)]
    put(journal, record(body=os.urandom(10_000)))
    assert journal.used_bytes() < used
    assert seqs(journal) == list(range(11, before + 2))
    assert journal.path.stat().st_size <= MIB
    journal.close()


def test_record_larger_than_the_journal(tmp_path: Path) -> None:
    """One record that can never fit is refused as full and changes nothing."""
    journal = opened(tmp_path, max_bytes=MIB)
    with pytest.raises(JournalFullError):
        journal.write(Batch((record(body=bytes(2 * MIB)),)))
    journal.rollback()
    put(journal, record())
    assert seqs(journal) == [1]
    journal.close()


def test_drop_oldest_of_empty_journal(journal: Journal) -> None:
    """Dropping from an empty journal gives nothing."""
    assert journal.drop_oldest(5) == []


def test_locked_file_is_unavailable(journal: Journal) -> None:
    """While another program holds the write lock pushes are refused, and taken again afterwards."""
    other = sqlite3.connect(journal.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalUnavailableError) as refused:
        journal.write(Batch((record(),)))
    assert refused.value.reason == "io_error"
    other.close()
    with pytest.raises(JournalUnavailableError):
        journal.write(Batch((record(),)))
    journal.rollback()
    put(journal, record())
    assert seqs(journal) == [1]


def test_rollback_replaces_a_dead_connection(journal: Journal) -> None:
    """A connection that no longer works is replaced by rollback."""
    put(journal, record())
    journal._connection.close()
    with pytest.raises(JournalUnavailableError):
        journal.write(Batch((record(),)))
    journal.rollback()
    put(journal, record())
    assert seqs(journal) == [1, 2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("mounting a small tmpfs needs root")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "none", disk], check=False).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield disk
    subprocess.run([umount, disk], check=True)


def test_disk_full_and_space_coming_back(small_disk: Path) -> None:
    """ENOSPC refuses the push with the state as before, and the same journal goes on when space is back."""
    journal = opened(small_disk)
    put(journal, record())
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:
        status = os.statvfs(small_disk)
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize)
    for _ in range(3):
        committed = journal.end_seq
        with pytest.raises(JournalUnavailableError) as refused:
            put(journal, record(body=bytes(100_000)))
        assert refused.value.reason == "disk_full"
        journal.rollback()
        assert journal.end_seq == committed
        assert seqs(journal) == list(range(1, committed + 1))
    ballast.unlink()
    put(journal, record(body=bytes(100_000)))
    committed = journal.end_seq
    journal.close()
    journal = opened(small_disk)
    assert (seqs(journal), journal.recovery) == (list(range(1, committed + 1)), None)
    journal.close()


def test_second_owner_is_refused(tmp_path: Path) -> None:
    """A directory held by another process is refused with its path and that process' id, until it ends."""
    code = (
        "import sys; from pathlib import Path; from bridge.journal.store import Journal\n"
        "j = Journal.open(Path(sys.argv[1]), max_bytes=1 << 26, now_ms=1)\n"
        "print('open', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(ConfigError) as refused:
            opened(tmp_path)
        assert str(tmp_path) in str(refused.value)
        assert str(holder.pid) in str(refused.value)
    opened(tmp_path).close()


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A storage path below a plain file is a configuration error that names the path."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"storage\.path: cannot write to .*file/journal"):
        opened(tmp_path / "file" / "journal")
