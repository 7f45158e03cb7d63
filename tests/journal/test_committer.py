"""Group commit over a real journal: who shares a transaction, who is refused, and what is seen when."""

import asyncio
import random
import resource
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.config.file import load
from bridge.errors import BadPushError, JournalFullError, JournalUnavailableError
from bridge.exposition.text import parse_text
from bridge.flatten import FlattenOptions, flatten
from bridge.groups import Group, delete, key_of, store
from bridge.journal.committer import Committer, WhenFull
from bridge.journal.ledger import pending
from bridge.journal.reader import JournalReader
from bridge.journal.rows import Batch, CursorRow, Entry, Settled
from bridge.journal.staging import Operation, Staging
from bridge.journal.store import Journal
from bridge.restore import load_groups, load_ledger, load_schedule
from bridge.rules import Rules

NOW_MS = 1_700_000_000_000
MIB = 1 << 20
DEADLINE_S = 10


@dataclass
class Seen:
    """A commit observer that keeps what it is told."""

    commits: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def committed(self, operations: int, seconds: float) -> None:
        """Keep the number of operations."""
        assert seconds >= 0
        self.commits.append(operations)

    def commit_failed(self, reason: str) -> None:
        """Keep the reason."""
        self.failures.append(reason)


def told(group: Group) -> tuple[object, ...]:
    """Give all that a group holds, so that two can be compared."""
    parts = [
        (part.shape.header, part.shape.heads, part.doubles, part.timestamps, part.histograms) for part in group.parts
    ]
    times = group.last_ms, group.push_ms, group.failure_ms, group.expires_ms
    return group.id.key, group.live, group.hold, *times, parts


@dataclass(frozen=True)
class Bench:
    """A running committer with everything around it."""

    committer: Committer
    journal: Journal
    seen: Seen
    task: asyncio.Task[None]

    def rows(self, after_seq: int = 0) -> list[Entry]:
        """Read what is on disk, through a connection of its own."""
        with JournalReader(self.journal.path) as reader:
            return reader.read(after_seq, 1 << 40, 1 << 40)

    def state(self) -> tuple[object, ...]:
        """Give all that others can see of groups, cursors and journal."""
        groups = [told(group) for group in self.committer.groups.live()]
        rows = [(row.seq, row.samples) for row in self.rows()]
        return groups, dict(self.committer.ledger.cursors), self.journal.end_seq, self.journal.accepted_total, rows

    def live(self) -> list[str]:
        """Give the jobs of the groups that hold something."""
        return [dict(group.id.labels)["job"] for group in self.committer.groups.live()]

    async def together(self, *operations: Operation) -> list[Any]:
        """Submit all at once and give each one's result or error."""
        submits = [self.committer.submit(operation) for operation in operations]
        return await asyncio.gather(*submits, return_exceptions=True)

    async def fill(self) -> int:
        """Push until the journal takes no more, not even a small push; gives the samples of a large one."""
        for operation in (bulky("filler", 3), put("small")):
            with pytest.raises(JournalFullError):  # noqa: PT012 - which push is the last one is not known
                for _ in range(2000):
                    await self.committer.submit(operation)
        return self.rows()[0].samples


@asynccontextmanager
async def committing(
    directory: Path,
    *targets: str,
    max_bytes: int = 64 * MIB,
    when_full: WhenFull = "reject",
    now_ms: Callable[[], int] = lambda: NOW_MS,
    rules: str = "",
) -> AsyncIterator[Bench]:
    """Run a committer over the journal in `directory`; close both in order at the end. `rules` are configuration."""
    journal = Journal.open(directory, max_bytes=max_bytes, now_ms=NOW_MS)
    seen = Seen()
    (groups, replayed), ledger = load_groups(journal, {}), load_ledger(journal, list(targets))
    committer = Committer(
        journal,
        groups,
        ledger,
        replayed=replayed,
        schedule=load_schedule(journal, Rules(load(rules, "rules").rules), {}),
        now_ms=now_ms,
        when_full=when_full,
        observer=seen,
    )
    task = asyncio.create_task(committer.run())
    try:
        yield Bench(committer, journal, seen, task)
    finally:
        committer.close()
        try:
            async with asyncio.timeout(DEADLINE_S):
                await task
        finally:
            journal.close()


def put(job: str, body: str = "a 1\n") -> Operation:
    """Make an operation that replaces a job's group and gives the job."""
    grouping = (("job", job),)
    content = flatten(parse_text(body.encode()), grouping, FlattenOptions({}), NOW_MS)

    def operation(staging: Staging) -> str:
        staging.add(store(staging.group(key_of(grouping)), content, staging.now_ms, replace_all=True))
        return job

    return operation


def bulky(job: str, kib: int) -> Operation:
    """Make a push that takes about twice `kib` KiB on disk, once as a row and once as the group's state."""
    noise = random.Random(kib)
    return put(job, "".join(f'bulk{{noise="{noise.randbytes(512).hex()}"}} 1\n' for _ in range(kib)))


def end(job: str) -> Operation:
    """Make an operation that deletes a job's group."""
    key = key_of((("job", job),))
    return lambda staging: staging.add(delete(staging.group(key), staging.now_ms))


def refused(_: Staging) -> None:
    """Refuse what is submitted."""
    raise BadPushError("inconsistent", "no")


class Gate:
    """Holds the commits of a journal back until it is opened, as a slow disk does."""

    def __init__(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        self._commit = journal.commit
        self._reached, self._open = threading.Event(), threading.Event()
        monkeypatch.setattr(journal, "commit", self._hold)

    def _hold(self) -> bool:
        self._reached.set()
        assert self._open.wait(DEADLINE_S)
        return self._commit()

    @property
    def begun(self) -> bool:
        """Whether a commit has begun."""
        return self._reached.is_set()

    async def reached(self) -> None:
        """Return when a commit has begun."""
        assert await asyncio.to_thread(self._reached.wait, DEADLINE_S)

    def open(self) -> None:
        """Let this commit and all later ones through."""
        self._open.set()


async def under_way(bench: Bench, *operations: Operation) -> list[asyncio.Task[Any]]:
    """Submit all at once and let them get into the queue."""
    tasks = [asyncio.create_task(bench.committer.submit(operation)) for operation in operations]
    await asyncio.sleep(0)
    return tasks


async def finished(*tasks: asyncio.Task[Any]) -> list[Any]:
    """Wait for tasks, but not for ever; gives results and errors."""
    async with asyncio.timeout(DEADLINE_S):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_pushes_that_arrive_together_share_commits(tmp_path: Path) -> None:
    """A hundred pushes at once take a few transactions, not a hundred."""
    async with committing(tmp_path) as bench:
        assert await bench.together(*(put(f"j{n}") for n in range(100))) == [f"j{n}" for n in range(100)]
        assert (sum(bench.seen.commits), len(bench.seen.commits) <= 3) == (100, True)
        assert len(bench.rows()) == 100


async def test_what_arrives_during_a_commit_shares_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one transaction goes to the disk others gather, and all of them go with the next one."""
    async with committing(tmp_path) as bench:
        gate = Gate(bench.journal, monkeypatch)
        first = await under_way(bench, put("first"))
        await gate.reached()
        rest = await under_way(bench, *(put(f"j{n}") for n in range(10)))
        gate.open()
        await finished(*first, *rest)
        assert bench.seen.commits == [1, 10]


async def test_a_steady_stream_of_pushes_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathering ends: a transaction is begun however many more pushes keep coming in."""
    async with committing(tmp_path) as bench:
        write, begun = bench.journal.write, asyncio.Event()

        def noted_write(batch: Batch) -> int | None:
            begun.set()
            return write(batch)

        monkeypatch.setattr(bench.journal, "write", noted_write)
        operation = put("j")
        tasks: list[asyncio.Task[Any]] = []
        while not begun.is_set() and len(tasks) < 2000:
            tasks += await under_way(bench, operation)
        assert begun.is_set()
        await finished(*tasks)


async def test_long_turns_of_the_loop_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lone push is written after a few turns when each is long, as it is while a target catches up."""
    async with committing(tmp_path) as bench:
        gate = Gate(bench.journal, monkeypatch)
        gate.open()
        tasks, turns = await under_way(bench, put("j")), 0
        while not gate.begun:
            turns += 1
            until_s = perf_counter() + 0.003
            while perf_counter() < until_s:
                pass
            await asyncio.sleep(0)
        assert turns <= 5
        await finished(*tasks)


async def test_operations_take_effect_and_answer_in_order(tmp_path: Path) -> None:
    """Each operation sees what those before it staged, and the answers come in the order of submission."""
    answered: list[str] = []

    async def submit(bench: Bench, number: int) -> int:
        found: int = await bench.committer.submit(lambda staging: put("j")(staging) and len(staging.records))
        answered.append(f"{number}")
        return found

    async with committing(tmp_path) as bench:
        seen = await asyncio.gather(*(submit(bench, number) for number in range(20)))
        assert answered == [f"{number}" for number in range(20)]
        assert seen == list(range(1, 21))
        arrivals = [row.arrival_ms for row in bench.rows()]
        assert arrivals == [NOW_MS + number for number in range(20)]


async def test_a_refused_operation_fails_alone(tmp_path: Path) -> None:
    """A push that is refused while others are staged costs them nothing, and leaves nothing itself."""
    async with committing(tmp_path) as bench:
        one, error, other = await bench.together(put("one"), refused, put("other"))
        assert (one, other, str(error), type(error)) == ("one", "other", "no", BadPushError)
        assert (bench.live(), bench.seen.failures, bench.committer.failure) == (["one", "other"], [], None)
        assert (len(bench.rows()), bench.journal.end_seq) == (2, 2)


async def test_a_waiter_that_leaves_before_its_turn_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submit that is cancelled while it waits is not carried out; its neighbours are."""
    async with committing(tmp_path) as bench:
        gate = Gate(bench.journal, monkeypatch)
        first = await under_way(bench, put("first"))
        await gate.reached()
        one, leaver, other = await under_way(bench, put("one"), put("leaver"), put("other"))
        leaver.cancel()
        gate.open()
        assert await finished(*first, one, other) == ["first", "one", "other"]
        assert leaver.cancelled()
        assert bench.live() == ["first", "one", "other"]


async def test_a_waiter_that_leaves_during_the_commit_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submit that is cancelled while its transaction is written stays in it, as do its neighbours."""
    async with committing(tmp_path) as bench:
        gate = Gate(bench.journal, monkeypatch)
        one, leaver, other = await under_way(bench, put("one"), put("leaver"), put("other"))
        await gate.reached()
        leaver.cancel()
        gate.open()
        assert await finished(one, other) == ["one", "other"]
        assert await bench.committer.submit(put("next")) == "next"
        assert bench.live() == ["one", "leaver", "other", "next"]
        assert len(bench.rows()) == 4


async def test_nothing_is_seen_before_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups, cursors and totals stay as they were until the commit has returned, and nobody is answered."""
    async with committing(tmp_path, "t") as bench:
        await bench.committer.submit(put("old"))
        before = bench.state()
        gate = Gate(bench.journal, monkeypatch)
        tasks = await under_way(
            bench, put("new"), end("old"), lambda staging: staging.confirm("t", [Settled(1, 1, 3, {})])
        )
        await gate.reached()
        assert bench.state() == before
        assert not any(task.done() for task in tasks)
        gate.open()
        assert await finished(*tasks) == ["new", None, None]
        assert bench.live() == ["new"]
        assert bench.committer.ledger.cursors["t"] == CursorRow("t", 1, 0, 3, ())
        assert [row.seq for row in bench.rows()] == [1, 2, 3]


async def test_a_restart_finds_what_was_seen(tmp_path: Path) -> None:
    """After any mix of pushes, deletions and confirmations the journal holds what groups and ledger show."""
    chance = random.Random(4)
    async with committing(tmp_path, "t") as bench:
        for _ in range(20):
            jobs = [f"j{chance.randrange(6)}" for _ in range(chance.randrange(1, 8))]
            pushes = [put(job, f"a {chance.random()}\n") if chance.random() < 0.7 else end(job) for job in jobs]
            reached = max(0, bench.journal.end_seq - 3)
            samples = sum(row.samples for row in bench.rows(bench.committer.ledger.cursors["t"].seq)[:-3])
            await asyncio.gather(
                bench.committer.confirm("t", [Settled(1, reached, samples, {})]), bench.together(*pushes, refused)
            )
        left = bench.state()
        assert pending(bench.committer.ledger.cursors["t"], bench.journal.accepted_total) > 0
    async with committing(tmp_path, "t") as bench:
        groups, *rest = bench.state()
        assert rest == list(left[1:])
        assert isinstance(groups, list)
        assert isinstance(left[0], list)
        assert sorted(groups) == sorted(left[0])


@contextmanager
def locked(journal: Path) -> Iterator[None]:
    """Let another program hold the write lock of a journal file."""
    other = sqlite3.connect(journal, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
    finally:
        other.close()


@contextmanager
def unwritable(journal: Path) -> Iterator[None]:
    """Let the operating system refuse every byte that would make a journal file's write-ahead log longer."""
    size_bytes = journal.with_name(f"{journal.name}-wal").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_start_after_a_delete_finds_nothing_damaged(tmp_path: Path) -> None:
    """The row of a DELETE is not taken for a push that cannot be read."""
    async with committing(tmp_path) as bench:
        await bench.together(put("a"))
        await bench.together(end("a"))
    with capture_logs() as logs:
        async with committing(tmp_path) as bench:
            assert bench.live() == []
    assert logs == []


async def test_rows_are_known_when_their_groups_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is on disk before its group is published is not given to a reader that asks for known ones."""
    async with committing(tmp_path) as bench:
        seen: list[tuple[int, int, int]] = []
        commit = bench.journal.commit
        with JournalReader(bench.journal.path, lambda: bench.committer.known_seq) as reader:

            def look_behind() -> bool:
                wrote = commit()
                seen.append((len(bench.rows()), len(reader.read(0, 10, 1000)), bench.committer.known_seq))
                return wrote

            monkeypatch.setattr(bench.journal, "commit", look_behind)
            await bench.together(put("a"))
            assert seen == [(1, 0, 0)]
            assert (len(reader.read(0, 10, 1000)), bench.committer.known_seq) == (1, 1)


@pytest.mark.parametrize("fault", [locked, unwritable])
async def test_a_failing_disk_refuses_pushes_until_it_is_back(
    tmp_path: Path, fault: Callable[[Path], AbstractContextManager[None]]
) -> None:
    """While the file takes no writes each push is refused with the state as before; then all goes on."""
    async with committing(tmp_path, "t") as bench:
        await bench.committer.submit(put("old"))
        before = bench.state()
        with fault(bench.journal.path):
            answers = await bench.together(put("one"), put("other"), end("old"))
            assert [type(answer) for answer in answers] == [JournalUnavailableError] * 3
            assert str(bench.journal.path) in str(answers[-1])
            assert bench.seen.failures == ["io_error"] * 3
            await bench.together(lambda _: None)
            assert (bench.committer.failure, bench.state()) == (str(answers[-1]), before)
        assert await bench.together(put("one"), put("other")) == ["one", "other"]
        assert bench.committer.failure is None
        assert (bench.live(), len(bench.rows())) == (["old", "one", "other"], 3)
    async with committing(tmp_path, "t") as bench:
        assert (sorted(bench.live()), bench.journal.recovery) == (["old", "one", "other"], None)


async def test_a_commit_that_fails_once_is_seen_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written together is written one by one, each push once."""
    async with committing(tmp_path) as bench:
        commit, faults = bench.journal.commit, [JournalUnavailableError("io_error", "once")]

        def commit_later() -> bool:
            if faults:
                raise faults.pop()
            return commit()

        monkeypatch.setattr(bench.journal, "commit", commit_later)
        assert await bench.together(put("one"), refused, put("other")) != []
        assert (bench.live(), len(bench.rows())) == (["one", "other"], 2)
        assert (bench.seen.failures, bench.committer.failure) == ([], None)


async def test_close_finishes_what_was_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything submitted before close is answered and on disk when the committer ends."""
    async with committing(tmp_path) as bench:
        gate = Gate(bench.journal, monkeypatch)
        first = await under_way(bench, put("first"))
        await gate.reached()
        rest = await under_way(bench, put("one"), refused, put("other"))
        bench.committer.close()
        gate.open()
        await finished(bench.task)
        assert all(task.done() for task in (*first, *rest))
        assert len(bench.rows()) == 3


async def test_waiting_for_rows_ends_with_the_row(tmp_path: Path) -> None:
    """Waiters wake when a row behind theirs is committed, and for nothing else."""
    async with committing(tmp_path, "t") as bench:
        await bench.committer.submit(put("one"))
        await finished(asyncio.create_task(bench.committer.wait_for_work(0, bench.committer.newest_tick)))
        second = [asyncio.create_task(bench.committer.wait_for_work(1, bench.committer.newest_tick)) for _ in range(3)]
        third = asyncio.create_task(bench.committer.wait_for_work(2, bench.committer.newest_tick))
        await bench.committer.confirm("t", [Settled(1, 1, 3, {})])
        assert not any(task.done() for task in second)
        await bench.committer.submit(put("two"))
        await finished(*second)
        assert not third.done()
        await bench.committer.submit(put("three"))
        await finished(third)
