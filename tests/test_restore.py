"""The start after a crash: what rows tell, what damage costs, and that it stops nothing."""

import asyncio
import random
import sqlite3
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from bridge.groups import Group, key_of
from bridge.journal.ledger import pending
from bridge.journal.rows import Batch, CursorRow, Record
from bridge.journal.store import Journal
from bridge.model import Labels
from bridge.pipeline import end_group
from bridge.restore import load_groups, load_ledger
from tests.journal.test_committer import NOW_MS, Bench, committing, told
from tests.journal.test_states import copied
from tests.test_pipeline import JOB, OTHER, post, put, take

LARGE = [f'large{{n="{n}"}} ' for n in range(4500)]
THIRD: Labels = (("job", "k"),)


def large(value: int) -> str:
    return "".join(f"{line}{value}\n" for line in LARGE)


async def crashed(bench: Bench, directory: Path) -> Path:
    """Copy what is on disk, as a crash leaves it, and give the journal file."""
    await bench.committer.submit(lambda _: None)
    return copied(bench.journal.path, directory) / "journal.db"


def change(journal: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(journal) as connection:
        assert connection.execute(statement, values).rowcount == 1
    connection.close()


def start(journal: Path, external: Mapping[str, str] | None = None) -> tuple[dict[bytes, Group], set[bytes], list[str]]:
    """Give all groups, those that rows told of, and the events that were logged."""
    opened = Journal.open(journal.parent, max_bytes=1 << 26, now_ms=NOW_MS)
    try:
        with structlog.testing.capture_logs() as log:
            groups, replayed = load_groups(opened, external or {})
    finally:
        opened.close()
    return {group.id.key: group for group in groups.live()}, replayed, [entry["event"] for entry in log]


def values(group: Group) -> list[float]:
    return [value for part in group.parts for value in part.values]


async def test_rows_tell_what_was_not_stored(tmp_path: Path) -> None:
    """After a crash a group has the values and times of its newest push, and is known to lack a stored state."""
    async with committing(tmp_path / "a") as bench:
        for value in range(3):
            await take(bench, post(f"a {value}\n"))
            await take(bench, post(f"b {value}\n"))
        await take(bench, put("c 1\n", OTHER))
        shown = {group.id.key: told(group) for group in bench.committer.groups.live()}
        found, replayed, log = start(await crashed(bench, tmp_path / "b"))
    assert {key: told(group) for key, group in found.items()} == shown
    assert (values(found[key_of(JOB)]), replayed, log) == ([2.0, 2.0], {key_of(JOB)}, [])


async def test_a_large_push_is_told_by_all_its_rows(tmp_path: Path) -> None:
    """A push of several rows comes back whole, its times too, which only the last row has."""
    async with committing(tmp_path / "a") as bench:
        for value in (1, 2, 3):
            await take(bench, put(large(value)))
        assert len(bench.rows()) == 9
        shown = told(bench.committer.groups.get(key_of(JOB)))
        found, _, log = start(await crashed(bench, tmp_path / "b"))
    assert (told(found[key_of(JOB)]), log) == (shown, [])


async def test_push_times_outlive_other_external_labels(tmp_path: Path) -> None:
    """Rows from before the external labels were changed still tell the push times."""
    async with committing(tmp_path / "a") as bench:
        for body in ("a 1\n", "a 2\n", "a eins\n"):
            await asyncio.gather(take(bench, put(body)), return_exceptions=True)
        found, _, _ = start(await crashed(bench, tmp_path / "b"), {"env": "x"})
    assert (found[key_of(JOB)].push_ms, found[key_of(JOB)].failure_ms) == (NOW_MS + 1, NOW_MS + 2)


async def test_an_ended_group_is_no_damage(tmp_path: Path) -> None:
    """The row of a DELETE is behind the stored states, and says nothing that they do not know."""
    async with committing(tmp_path / "a") as bench:
        await take(bench, put("a 1\n"))
        await end_group(JOB, bench.committer)
        found, replayed, log = start(await crashed(bench, tmp_path / "b"))
    assert (found, replayed, log) == ({}, set(), [])


async def test_deleted_and_pushed_again_in_one_transaction(tmp_path: Path) -> None:
    """The failure time that the DELETE took away does not come back, not even when the push's row is damaged."""
    async with committing(tmp_path / "a") as bench:
        await asyncio.gather(take(bench, put("a 1\n")), take(bench, put("a eins\n")), return_exceptions=True)
        await asyncio.gather(end_group(JOB, bench.committer), take(bench, put("a 2\n")))
        assert (len(bench.seen.commits), bench.committer._unwritten) == (2, {key_of(JOB): None})
        shown = told(bench.committer.groups.get(key_of(JOB)))
        journal = await crashed(bench, tmp_path / "b")
    found, _, log = start(journal)
    assert (told(found[key_of(JOB)]), found[key_of(JOB)].failure_ms, log) == (shown, 0, [])
    change(journal, "UPDATE journal SET body = x'' WHERE seq = 4")
    found, _, log = start(journal)
    assert (found[key_of(JOB)].push_ms, found[key_of(JOB)].failure_ms, log) == (0, 0, [])


BROKEN = b"\x04abcd"
"""Valid snappy whose content is no sample."""


@pytest.mark.parametrize(("body", "events"), [(b"", []), (BROKEN, ["row_damaged"])], ids=["checksum", "content"])
@pytest.mark.parametrize(("seq", "left"), [(3, 4.0), (7, 3.0)], ids=["in the middle", "the newest"])
async def test_a_damaged_row_costs_only_itself(
    tmp_path: Path, body: bytes, events: list[str], seq: int, left: float
) -> None:
    """What a damaged row told is lost until the next push; older rows, newer rows and other groups are whole."""
    async with committing(tmp_path / "a") as bench:
        for value in range(1, 5):
            await take(bench, put(f"a {value}\n"))
            await take(bench, put(f"a {value}\n", THIRD))
        other = told(bench.committer.groups.get(key_of(THIRD)))
        journal = await crashed(bench, tmp_path / "b")
    crc = zlib.crc32(body) + (body == b"")
    change(journal, "UPDATE journal SET body = ?, crc = ? WHERE seq = ?", body, crc, seq)
    found, _, log = start(journal)
    assert told(found[key_of(THIRD)]) == other
    group = found[key_of(JOB)]
    assert (values(group), group.push_ms, group.last_ms) == ([left], NOW_MS + left - 1, NOW_MS + left - 1)
    assert log == events


async def test_a_damaged_row_of_a_large_push_costs_its_own_series(tmp_path: Path) -> None:
    """The other rows of the same push are told."""
    async with committing(tmp_path / "a") as bench:
        for value in (1, 2):
            await take(bench, put(large(value)))
        journal = await crashed(bench, tmp_path / "b")
    change(journal, "UPDATE journal SET body = x'' WHERE seq = 5")
    group = start(journal)[0][key_of(JOB)]
    assert values(group) == [2.0] * 2000 + [1.0] * 2000 + [2.0] * 500
    assert (group.push_ms, group.last_ms) == (NOW_MS + 1, NOW_MS + 1)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE groups SET doubles = x'00' WHERE key = ?",
        "UPDATE groups SET doubles = 'text' WHERE key = ?",
        "UPDATE groups SET crc = crc + 1 WHERE key = ?",
        "UPDATE group_parts SET heads = x'00' WHERE grp = ?",
        "UPDATE group_parts SET families = 5 WHERE grp = ?",
        "DELETE FROM group_parts WHERE grp = ?",
    ],
)
async def test_a_damaged_group_costs_only_itself(tmp_path: Path, statement: str) -> None:
    """It keeps its times, those that rows tell too, also over a second crash; the others are whole."""
    async with committing(tmp_path / "a") as bench:
        for grouping in (JOB, OTHER, THIRD):
            for value in (1, 2):
                await take(bench, put(f"a {value}\n", grouping))
        shown = {group.id.key: told(group) for group in bench.committer.groups.live()}
        journal = await crashed(bench, tmp_path / "b")
    change(journal, statement, key_of(JOB))
    first, second = start(journal), start(journal)
    assert (first[2], second[2]) == (["group_damaged"], [])
    damaged = first[0].pop(key_of(JOB))
    assert (damaged.parts, damaged.live) == ((), True)
    assert (damaged.push_ms, damaged.last_ms) == (NOW_MS + 1, NOW_MS + 1)
    assert told(second[0].pop(key_of(JOB))) == told(damaged)
    del shown[key_of(JOB)]
    assert {key: told(group) for key, group in first[0].items()} == shown
    assert {key: told(group) for key, group in second[0].items()} == shown


@pytest.mark.parametrize("key", [b"job", b"\xc3\xffx", b"\xffa\xc3"], ids=repr)
async def test_a_group_with_an_unreadable_key_goes(tmp_path: Path, key: bytes) -> None:
    """Nobody can say whose it was: it is told once, and the others are whole."""
    async with committing(tmp_path / "a") as bench:
        await take(bench, put("a 1\n"))
        await take(bench, put("a 1\n", THIRD))
        journal = await crashed(bench, tmp_path / "b")
    change(journal, "UPDATE groups SET key = ? WHERE key = ?", key, key_of(JOB))
    found, _, log = start(journal)
    assert (list(found), log) == ([key_of(THIRD)], ["group_damaged"])
    async with committing(tmp_path / "b", now_ms=lambda: NOW_MS + 5000) as bench:
        await bench.committer.trim(1000)
    assert start(journal)[2] == []


async def test_a_damaged_account_is_made_good(tmp_path: Path) -> None:
    """What a target's damaged note of dropped samples said is counted as lost."""
    journal = Journal.open(tmp_path, max_bytes=1 << 26, now_ms=NOW_MS)
    journal.close()
    async with committing(tmp_path) as bench:
        await take(bench, put("a 1\n"))
        cursor = CursorRow("t", 1, 0, 1, (("rejected", 2),))
        bench.journal.write(Batch(cursors=(cursor,)))
        bench.journal.commit()
    change(tmp_path / "journal.db", "UPDATE cursors SET dropped = '[[' WHERE target = 't'")
    journal = Journal.open(tmp_path, max_bytes=1 << 26, now_ms=NOW_MS)
    made = load_ledger(journal, ["t"]).cursors["t"]
    journal.close()
    assert made == replace(cursor, dropped=(("lost", 2),))
    assert pending(made, 3) == 0


def test_rows_that_left_a_full_journal_in_hand_are_counted_at_the_next_start(tmp_path: Path) -> None:
    """What a sender had in hand when it was dropped, and did not live to tell of, was dropped for want of room."""
    journal = Journal.open(tmp_path, max_bytes=1 << 26, now_ms=NOW_MS)
    journal.write(Batch(tuple(row(at, at) for at in range(1, 5)), cursors=(CursorRow("t", 1, 0, 1, ()),)))
    journal.drop_oldest(2)
    journal.commit()
    made = load_ledger(journal, ["t"]).cursors["t"]
    assert (made.dropped, pending(made, 10)) == ((("journal_full", 2),), 7)
    journal.drop_oldest(4)
    journal.commit()
    made = load_ledger(journal, ["t"]).cursors["t"]
    assert (made.dropped, pending(made, 10)) == ((("journal_full", 9),), 0)
    journal.close()


def row(arrival_ms: int, samples: int) -> Record:
    return Record(arrival_ms, b"job\xffj", "put", samples, b"body")


@pytest.mark.parametrize(
    ("since_ms", "seq", "start_total"), [(None, 4, 10), (0, 0, 0), (2, 1, 1), (3, 2, 3), (4, 3, 6), (5, 4, 10)]
)
def test_a_new_target_starts_where_it_is_told(tmp_path: Path, since_ms: int | None, seq: int, start_total: int) -> None:
    """Behind the newest row, or before the first that arrived then or later; what came before is not its business."""
    journal = Journal.open(tmp_path, max_bytes=1 << 26, now_ms=NOW_MS)
    journal.write(Batch(tuple(row(at, at) for at in range(1, 5))))
    journal.commit()
    made = load_ledger(journal, ["t"], since_ms).cursors["t"]
    assert made == CursorRow("t", seq, start_total, 0, ())
    assert load_ledger(journal, ["t"], 0).cursors["t"] == made
    journal.close()


def test_a_new_target_is_not_promised_what_is_gone(tmp_path: Path) -> None:
    """Rows that were forgotten between those it gets are no part of its account: pending is what there is."""
    journal = Journal.open(tmp_path, max_bytes=1 << 26, now_ms=NOW_MS)
    journal.write(Batch((row(10, 1), row(2, 5), row(11, 7), row(12, 9))))
    journal.commit()
    assert journal.trim(5, 4, 10, ended_before_ms=0) == 1
    journal.commit()
    made = load_ledger(journal, ["t"], 10).cursors["t"]
    journal.close()
    assert (made.seq, pending(made, 22)) == (0, 17)


def test_a_target_that_is_gone_is_told_with_what_it_lacks(tmp_path: Path) -> None:
    """Once, as a warning with the samples that it had not confirmed."""
    journal = Journal.open(tmp_path, max_bytes=1 << 26, now_ms=NOW_MS)
    journal.write(Batch((row(1, 4), row(2, 5)), cursors=(CursorRow("old", 1, 0, 3, (("http_400", 1),)),)))
    journal.commit()
    with structlog.testing.capture_logs() as log:
        assert load_ledger(journal, []).cursors == {}
        assert load_ledger(journal, []).cursors == {}
    assert journal.load_cursors() == []
    journal.close()
    assert [(line["log_level"], line["event"], line["target"], line["unsent_samples"]) for line in log] == [
        ("warning", "target_forgotten", "old", 5)
    ]


async def test_no_flipped_bit_stops_the_start(tmp_path: Path) -> None:
    """Whatever bits of the file are turned over, the agent starts, and shows no value that nobody pushed."""
    pushed = {float(value) for value in range(60)}
    async with committing(tmp_path / "a", "t") as bench:
        for value in range(60):
            await take(bench, put(f"a {value}\n", (("job", f"j{value % 20}"),)))
        await bench.committer.submit(lambda staging: staging.cursors.update(t=CursorRow("t", 5, 0, 9, (("lost", 6),))))
        journal = await crashed(bench, tmp_path / "b")
    with sqlite3.connect(journal) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = journal.read_bytes()
    for seed in range(150):
        chance, damaged = random.Random(seed), bytearray(data)
        for _ in range(chance.choice([1, 5, 50])):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        directory = tmp_path / f"flipped{seed}"
        directory.mkdir()
        (directory / "journal.db").write_bytes(damaged)
        opened = Journal.open(directory, max_bytes=1 << 26, now_ms=NOW_MS)
        groups, _ = load_groups(opened, {})
        load_ledger(opened, ["t"])
        opened.close()
        assert {value for group in groups.live() for value in values(group)} <= pushed
