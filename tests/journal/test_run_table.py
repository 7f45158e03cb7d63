"""Runs in the journal: they commit with their push, are kept as long as they should, and end with their group."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.errors import JournalUnavailableError
from bridge.groups import key_of
from bridge.hold import HoldTimes
from bridge.journal import run_table
from bridge.journal.history import History
from bridge.journal.rows import RunNote, RunRow
from bridge.journal.run_table import KnownRun, RunQuestion
from bridge.journal.schema import TABLES
from bridge.journal.store import Journal
from bridge.pipeline import end_all, end_group, end_matching
from bridge.schedule import OVERDUE
from bridge.timekeeper import Timekeeper
from tests.journal.test_committer import MIB, NOW_MS, Bench, committing, locked
from tests.test_pipeline import JOB, post, put, sent, take

KEY = key_of(JOB)
ALL = RunQuestion(0, 1 << 20)
NOW_S = NOW_MS // 1000
START = f"pushbridge_run_start_time_seconds {NOW_S}\n"
PROMISE = f"{START}pushbridge_run_expected_interval_seconds 60\n"
END = f"{START}pushbridge_run_end_time_seconds {NOW_S + 5}\npushbridge_run_exit_code 0\n"
RULES = "rules: [{match: {job: j}, expect_every: 1m, runs: {success_metric: ok}}]"


@pytest.fixture
def table() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.execute(TABLES["runs"])
    yield connection
    connection.close()


def found(table: sqlite3.Connection, question: RunQuestion = ALL) -> list[RunRow]:
    return [known.run for known in run_table.find(table, question)]


def in_file(path: Path) -> list[KnownRun]:
    history = History(path)
    try:
        return history.runs(ALL)
    finally:
        history.close()


A, B = RunRow(b"a", 10), RunRow(b"b", 20, 21, True)
A_ENDED = replace(A, end_ms=15, success=True, exit_code=0)
WRITES: dict[str, tuple[list[RunNote], list[RunRow], list[RunRow]]] = {
    "newest first": ([A, B], [B, A], [A, B]),
    "end": ([A, A_ENDED], [A_ENDED], [A_ENDED]),
    "start after the end": ([A_ENDED, A], [A_ENDED], [A_ENDED]),
    "two runs of a group": ([A, replace(A, start_ms=11)], [replace(A, start_ms=11), A], [replace(A, start_ms=11)]),
    "end of the older one": ([A, replace(A, start_ms=11), A_ENDED], [replace(A, start_ms=11), A_ENDED],
                             [replace(A, start_ms=11)]),
    "end of a group": ([A, B, b"a"], [B, A], [B]),
    "a run after the end of its group": ([A, b"a", replace(A, start_ms=11)], [replace(A, start_ms=11), A],
                                         [replace(A, start_ms=11)]),
    "an end after the end of the group": ([A, b"a", A_ENDED], [A_ENDED], [A_ENDED]),
}  # fmt: skip


@pytest.mark.parametrize(("notes", "all_", "newest"), WRITES.values(), ids=WRITES)
def test_what_is_written_is_found(
    table: sqlite3.Connection, notes: list[RunNote], all_: list[RunRow], newest: list[RunRow]
) -> None:
    """Runs come back newest first, and the newest of each group that has not ended."""
    run_table.write(table, notes)
    assert found(table) == all_
    assert run_table.newest(table) == newest


def test_questions(table: sqlite3.Connection) -> None:
    """Time, group and number limit what is given; only the last run of a group is its newest."""
    run_table.write(table, [RunRow(group, at) for at in range(10) for group in (b"ab", b"b")])
    assert [run.start_ms for run in found(table, RunQuestion(8, 99))] == [9, 9, 8, 8]
    assert {run.group for run in found(table, RunQuestion(0, 99, b"a"))} == {b"ab"}
    wanted = RunQuestion(0, 3, b"b", lambda key: key == b"b")
    assert [(run.group, run.start_ms) for run in found(table, wanted)] == [(b"b", 9), (b"b", 8), (b"b", 7)]
    assert [known.is_newest for known in run_table.find(table, wanted)] == [True, False, False]


def test_old_runs_go_but_the_newest_of_each_group(table: sqlite3.Connection) -> None:
    """A job that has not run for a year is still known by its last run, until its group ends."""
    notes: list[RunNote] = [RunRow(b"a", 1, 2), RunRow(b"a", 3, 4), RunRow(b"b", 5, 6), b"b", RunRow(b"c", 50, 51)]
    run_table.write(table, notes)
    run_table.trim(table, 40, 99)
    assert [(run.group, run.start_ms) for run in found(table)] == [(b"c", 50), (b"a", 3)]


def test_the_number_of_runs_is_bounded(table: sqlite3.Connection) -> None:
    """Over the bound the oldest finished runs go first, then those without an end, never a group's newest."""
    run_table.write(table, [RunRow(b"a", 1), RunRow(b"a", 2, 3), RunRow(b"a", 4, 5), RunRow(b"a", 6), RunRow(b"b", 0)])
    left = {5: [6, 4, 2, 1, 0], 4: [6, 4, 1, 0], 3: [6, 1, 0], 2: [6, 0], 1: [6, 0]}
    for most, starts in left.items():
        run_table.trim(table, 0, most)
        assert [run.start_ms for run in found(table)] == starts
    assert run_table.most_runs(1 << 40) == run_table.MOST_RUNS
    assert run_table.most_runs(MIB) < 1000


async def test_a_run_commits_with_its_push(tmp_path: Path) -> None:
    """When the push is taken the run is on disk, and a restart knows it; when it is not, neither is there."""
    async with committing(tmp_path) as bench:
        with locked(bench.journal.path), pytest.raises(JournalUnavailableError):
            await take(bench, post(START))
        assert (in_file(bench.journal.path), bench.committer.schedule.newest(KEY)) == ([], None)
        await take(bench, post(START))
        begun = RunRow(KEY, NOW_MS)
        assert in_file(bench.journal.path) == [KnownRun(begun, is_newest=True)]
        assert bench.committer.schedule.newest(KEY) == begun
    async with committing(tmp_path) as bench:
        assert bench.committer.schedule.newest(KEY) == begun
        await take(bench, post(END))
        ended = replace(begun, end_ms=NOW_MS + 5000, success=True, exit_code=0)
        assert in_file(bench.journal.path) == [KnownRun(ended, is_newest=True)]
        assert bench.committer.schedule.newest(KEY) == ended


async def test_pushes_of_one_transaction_are_seen_by_each_other(tmp_path: Path) -> None:
    """A push with the success metric that shares a transaction with the start of a run belongs to that run."""
    async with committing(tmp_path, rules=RULES) as bench:
        staged = [take(bench, push) for push in (post(START), post("ok 1\n"))]
        for push in staged:
            await push
        assert [known.run.end_ms for known in in_file(bench.journal.path)] == [0]
        await take(bench, post(END))
        await take(bench, put("ok 0\n"))
        assert [(known.run.success, known.is_newest) for known in in_file(bench.journal.path)] == [
            (False, True),
            (True, True),
        ]


ENDS: dict[str, Callable[[Bench], object]] = {
    "DELETE": lambda bench: end_group(JOB, bench.committer),
    "DELETE by selector": lambda bench: end_matching(lambda _: True, bench.committer),
    "wipe": lambda bench: end_all(bench.committer),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(("rules", "body"), [("", PROMISE), (RULES, "ok 1\n"), (RULES, "a 1\n")])
async def test_the_overdue_series_ends_with_its_group(
    tmp_path: Path, end: Callable[[Bench], object], rules: str, body: str
) -> None:
    """Each way to end a group journals one marker for the series, and what comes later starts afresh."""
    async with committing(tmp_path, rules=rules) as bench:
        await take(bench, post(body))
        assert OVERDUE not in [name for name, _, _ in sent(bench)]
        before_seq = bench.journal.end_seq
        await end(bench)  # type: ignore[misc]
        ended = sent(bench, before_seq)
        assert [value for name, value, _ in ended if name == OVERDUE] == [None]
        assert list(bench.committer.schedule.all_expected(bench.committer.groups.live())) == []
        assert bench.committer.schedule.newest(KEY) is None
    async with committing(tmp_path) as bench:
        await take(bench, post("b 1\n"))
        assert list(bench.committer.schedule.all_expected(bench.committer.groups.live())) == []


async def test_a_run_without_a_promise_ends_the_series(tmp_path: Path) -> None:
    """When --every is taken away from a job it is expected no longer, and that is said once."""
    async with committing(tmp_path) as bench:
        await take(bench, post(PROMISE))
        await take(bench, post(START.replace(str(NOW_S), str(NOW_S + 1))))
        await take(bench, post(START.replace(str(NOW_S), str(NOW_S + 2))))
        assert [value for name, value, _ in sent(bench) if name == OVERDUE] == [None]


async def test_an_expired_group_is_overdue_until_it_is_forgotten(tmp_path: Path) -> None:
    """The end of the values does not end the expectation; being forgotten does, with one marker."""
    clock = [NOW_MS]
    async with committing(tmp_path, now_ms=lambda: clock[0], rules=RULES) as bench:
        keeper = Timekeeper(bench.committer, HoldTimes(1000, 3_600_000), lambda: clock[0])
        schedule, groups = bench.committer.schedule, bench.committer.groups
        body = f"{START}pushbridge_run_end_time_seconds {NOW_S}\n"
        await take(bench, replace(post(body), terms=replace(post(body).terms, ttl_ms=120_000)))
        for passed_ms, overdue in ((60_000, False), (120_001, True), (3_599_999, True)):
            clock[0] = NOW_MS + passed_ms
            await keeper.step()
            assert [one.is_overdue(clock[0]) for one in schedule.all_expected(groups.live())] == [overdue]
        assert next(groups.live()).expired
        assert OVERDUE not in [name for name, _, _ in sent(bench)]
        clock[0] = NOW_MS + 3_700_000
        await keeper.step()
        await keeper.step()
        assert [value for name, value, _ in sent(bench) if name == OVERDUE] == [None]
        assert list(schedule.all_expected(groups.live())) == []


async def test_the_committer_forgets_old_runs(tmp_path: Path) -> None:
    """Runs older than their life are gone, but for the newest of the group."""
    clock = [NOW_MS]
    async with committing(tmp_path, now_ms=lambda: clock[0]) as bench:
        for second in range(3):
            await take(bench, post(END.replace(str(NOW_S), str(NOW_S + second))))
        clock[0] += 10_000
        await bench.committer.trim_runs(60_000)
        assert len(in_file(bench.journal.path)) == 3
        await bench.committer.trim_runs(9000)
        assert [known.run.start_ms for known in in_file(bench.journal.path)] == [NOW_MS + 2000, NOW_MS + 1000]
        await bench.committer.trim_runs(0)
        assert [known.run.start_ms for known in in_file(bench.journal.path)] == [NOW_MS + 2000]


def test_kill_keeps_the_runs_that_were_committed(tmp_path: Path) -> None:
    """A process killed with SIGKILL leaves the runs of its commits and none that it did not commit."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from bridge.journal.store import Journal; from bridge.journal.rows import Batch, RunRow\n"
        "j = Journal.open(Path(sys.argv[1]), max_bytes=1 << 26, now_ms=1)\n"
        "j.write(Batch(runs=(RunRow(b'g', 1), RunRow(b'g', 1, 2)))); j.commit()\n"
        "j.write(Batch(runs=(RunRow(b'g', 3),)))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=False, env={**os.environ, "PYTHONPATH": "."}
    )
    assert killed.returncode == -signal.SIGKILL
    journal = Journal.open(tmp_path, max_bytes=MIB, now_ms=1)
    try:
        assert journal.recovery is None
        assert in_file(journal.path) == [KnownRun(RunRow(b"g", 1, 2), is_newest=True)]
    finally:
        journal.close()
