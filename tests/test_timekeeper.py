"""When points of the grid begin and groups end, with a clock that is set by hand, over a real journal."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bridge.errors import JournalFullError, JournalUnavailableError
from bridge.exposition.text import parse_text
from bridge.flatten import FlattenOptions, flatten
from bridge.groups import Group, key_of, refuse, store
from bridge.hold import HoldTimes
from bridge.journal.rows import NEVER_MS
from bridge.journal.staging import Staging
from bridge.timekeeper import Timekeeper
from bridge.wire import snappy_block
from bridge.wire.head import labels_of, make_head
from bridge.wire.remote_write import STALE_NAN, split_series
from bridge.wire.varint import read_uvarint
from tests.journal import test_committer as committer

NOW_MS = 1_700_000_045_000
GRID_MS = 1_700_000_040_000
INTERVAL_MS = 60_000
FORGET_MS = 1_000_000
GAUGES = ("push_time_seconds", "push_failure_time_seconds")


@dataclass
class Bench:
    """A timekeeper at work on a committer."""

    under: committer.Bench
    timekeeper: Timekeeper
    now_ms: int = NOW_MS

    async def at(self, now_ms: int) -> None:
        """Set the clock and do what is due."""
        self.now_ms = now_ms
        await self.timekeeper.step()

    async def push(self, job: str, body: str = "a 1\n", ttl_ms: int = 5000) -> None:
        """PUT a group."""
        grouping = (("job", job),)
        content = flatten(parse_text(body.encode()), grouping, FlattenOptions({}), self.now_ms)

        def operation(staging: Staging) -> None:
            group = staging.group(key_of(grouping))
            staging.add(store(group, content, staging.now_for(group), replace_all=True, ttl_ms=ttl_ms))

        await self.under.committer.submit(operation)

    def group(self, job: str) -> Group:
        """A group as it is."""
        return self.under.committer.groups.get(key_of((("job", job),)))

    @property
    def tick_ms(self) -> int:
        """The newest point of the grid."""
        return self.under.committer.newest_tick.at_ms

    def markers(self) -> Counter[tuple[str, str]]:
        """Job and name of each marker in the journal."""
        found: Counter[tuple[str, str]] = Counter()
        for entry in self.under.rows():
            for data in split_series(snappy_block.decompress(entry.body, 1 << 24)):
                if STALE_NAN in data:
                    _, start = read_uvarint(data, 1)
                    labels = dict(labels_of(make_head(data[start : data.index(STALE_NAN) - 3])))
                    found[labels["job"], labels["__name__"]] += 1
        return found


@asynccontextmanager
async def keeping(directory: Path, *targets: str, max_bytes: int = 1 << 26) -> AsyncIterator[Bench]:
    """Run a committer whose clock and timekeeper are set by hand."""
    bench: Bench | None = None
    clock = lambda: bench.now_ms if bench else NOW_MS  # noqa: E731
    async with committer.committing(directory, *targets, max_bytes=max_bytes, now_ms=clock) as under:
        bench = Bench(under, Timekeeper(under.committer, HoldTimes(INTERVAL_MS, FORGET_MS), clock))
        yield bench


async def test_points_of_the_grid(tmp_path: Path) -> None:
    """Each point begins once, at its time or late; those that were missed are not made up for."""
    async with keeping(tmp_path) as bench:
        seen = []
        for now_ms in (NOW_MS, NOW_MS, GRID_MS + 59_999, GRID_MS + 60_000, GRID_MS + 60_001, GRID_MS + 600_123):
            await bench.at(now_ms)
            seen.append(bench.tick_ms - GRID_MS)
        assert seen == [0, 0, 0, 60_000, 60_000, 600_000]


async def test_a_clock_that_is_set_back(tmp_path: Path) -> None:
    """No point begins twice: the grid waits until the clock is past the newest one."""
    async with keeping(tmp_path) as bench:
        seen = []
        for later_ms in (0, -200_000, -60_000, 0, 60_000):
            await bench.at(NOW_MS + later_ms)
            seen.append(bench.tick_ms - GRID_MS)
        assert seen == [0, 0, 0, 0, 60_000]


async def test_the_newest_point_survives(tmp_path: Path) -> None:
    """A point is on disk before anything is sent with its time, so the next start knows it."""
    async with keeping(tmp_path) as bench:
        await bench.push("x")
        await bench.at(NOW_MS)
    async with keeping(tmp_path) as bench:
        tick = bench.under.committer.newest_tick
        assert (tick.at_ms, tick.seq, tick.keys) == (GRID_MS, 1, (key_of((("job", "x"),)),))
        await bench.at(NOW_MS)
        assert bench.under.committer.newest_tick is tick


async def test_changes_are_newer_than_the_point_that_came_before(tmp_path: Path) -> None:
    """A group that may have been repeated changes later than that, whatever the clock says; a new one has its time."""
    async with keeping(tmp_path) as bench:
        await bench.push("x", ttl_ms=NEVER_MS)
        await bench.at(GRID_MS + 60_000)
        bench.now_ms = NOW_MS
        await bench.push("x")
        await bench.push("new")
        assert bench.group("x").last_ms == GRID_MS + 60_001
        assert bench.group("new").last_ms == NOW_MS


async def test_a_group_ends_once_at_its_time(tmp_path: Path) -> None:
    """Not a millisecond before its TTL has passed, then with one marker, and never again."""
    async with keeping(tmp_path) as bench:
        await bench.push("x", "a 1\nb 2\n", 5000)
        await bench.push("stays", ttl_ms=NEVER_MS)
        await bench.at(NOW_MS + 4999)
        assert not bench.group("x").expired
        for now_ms in (NOW_MS + 5000, NOW_MS + 5000, NOW_MS + 70_000):
            await bench.at(now_ms)
            assert bench.group("x").expired
            assert bench.markers() == {("x", "a"): 1, ("x", "b"): 1}
        assert bench.group("stays").parts


async def test_push_times_end_later_and_once(tmp_path: Path) -> None:
    """Push times go `forget_after` the newest of them, each with one marker; the group is then gone."""
    async with keeping(tmp_path) as bench:
        await bench.push("x", ttl_ms=5000)
        bench.now_ms += 3000
        await bench.under.committer.submit(lambda staging: staging.add(refuse(bench.group("x"), staging.now_ms)))
        for later_ms in (5000, FORGET_MS + 2999):
            await bench.at(NOW_MS + later_ms)
            assert bench.group("x").live
        for later_ms in (FORGET_MS + 3000, 2 * FORGET_MS):
            await bench.at(NOW_MS + later_ms)
            assert not bench.group("x").live
        assert bench.markers() == {("x", name): 1 for name in ("a", *GAUGES)}


async def test_a_group_whose_push_times_are_over_when_it_expires(tmp_path: Path) -> None:
    """A TTL that is longer than `forget_after` keeps the push times as long, and no longer."""
    async with keeping(tmp_path) as bench:
        await bench.push("x", ttl_ms=2 * FORGET_MS)
        for later_ms in (FORGET_MS, 2 * FORGET_MS - 1):
            await bench.at(NOW_MS + later_ms)
            assert bench.group("x").parts
        await bench.at(NOW_MS + 2 * FORGET_MS)
        assert bench.group("x").expired
        await bench.at(NOW_MS + 2 * FORGET_MS + 1)
        assert not bench.group("x").live


async def test_what_is_sent_once(tmp_path: Path) -> None:
    """With a TTL of 0 a group stays for as long as an instant query sees it, and leaves without a marker."""
    async with keeping(tmp_path) as bench:
        await bench.push("x", ttl_ms=0)
        await bench.at(NOW_MS + 299_999)
        assert bench.group("x").parts
        await bench.at(NOW_MS + 300_000)
        assert bench.group("x").expired
        assert bench.markers() == {}


async def test_many_end_at_once(tmp_path: Path) -> None:
    """Groups beyond the most of one transaction end in several, each once."""
    async with keeping(tmp_path) as bench:
        for number in range(450):
            await bench.push(f"x{number}")
        commits = len(bench.under.seen.commits)
        await bench.at(NOW_MS + 60_000)
        assert len(bench.under.seen.commits) >= commits + 3
        assert bench.markers() == {(f"x{number}", "a"): 1 for number in range(450)}


async def test_a_push_in_between_saves_the_group(tmp_path: Path) -> None:
    """A group that is pushed to after it was found due does not end."""
    async with keeping(tmp_path) as bench:
        await bench.push("x")
        await bench.at(NOW_MS)
        bench.now_ms = NOW_MS + 5000
        await asyncio.gather(bench.push("x"), bench.timekeeper.step())
        assert bench.group("x").parts
        assert bench.markers() == {}
        await bench.at(NOW_MS + 10_000)
        assert bench.group("x").expired


async def test_a_clock_that_is_set_back_after_a_group_was_found_due(tmp_path: Path) -> None:
    """What was due by the clock that was looked at ends, newer than all that came before."""
    async with keeping(tmp_path) as bench:
        await bench.push("x")
        await bench.at(NOW_MS)
        bench.now_ms = NOW_MS + 5000
        step = asyncio.create_task(bench.timekeeper.step())
        await asyncio.sleep(0)
        bench.now_ms = NOW_MS - 3_600_000
        await step
        assert bench.group("x").expired
        assert bench.group("x").last_ms == NOW_MS + 1


async def test_a_broken_disk_only_makes_things_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing can be written no point begins and nothing ends; then both happen, once."""

    def broken(_: object) -> None:
        raise JournalUnavailableError("io_error", "broken")

    async with keeping(tmp_path) as bench:
        await bench.push("x", ttl_ms=70_000)
        await bench.at(NOW_MS)
        with monkeypatch.context() as patch:
            patch.setattr(bench.under.journal, "write", broken)
            for now_ms in (GRID_MS + 60_000, NOW_MS + 70_000):
                with pytest.raises(JournalUnavailableError):
                    await bench.at(now_ms)
                assert (bench.tick_ms, bench.group("x").expired) == (GRID_MS, False)
        await bench.at(NOW_MS + 70_001)
        assert (bench.tick_ms, bench.group("x").expired) == (GRID_MS + 60_000, True)
        assert bench.markers() == {("x", "a"): 1}


async def test_a_full_journal_takes_points_of_the_grid(tmp_path: Path) -> None:
    """One target that takes nothing fills the journal; the others get their repeats, and markers wait for room."""
    async with keeping(tmp_path, "t", max_bytes=1 << 19) as bench:
        await bench.push("x")
        await bench.under.fill()
        with pytest.raises(JournalFullError):
            await bench.at(NOW_MS + 60_000)
        assert bench.tick_ms == GRID_MS + 60_000
        assert not bench.group("x").expired
        with pytest.raises(JournalFullError):
            await bench.at(NOW_MS + 61_000)


async def test_a_restart_ends_nothing_and_knows_what_is_due(tmp_path: Path) -> None:
    """Restarts make no marker; what fell due meanwhile ends after the start, once."""
    async with keeping(tmp_path) as bench:
        await bench.push("x")
        await bench.push("y", ttl_ms=NEVER_MS)
        await bench.at(NOW_MS)
    async with keeping(tmp_path) as bench:
        await bench.at(NOW_MS + 4999)
        assert bench.markers() == {}
    for _ in range(2):
        async with keeping(tmp_path) as bench:
            await bench.at(NOW_MS + 5000)
            assert bench.markers() == {("x", "a"): 1}
    async with keeping(tmp_path) as bench:
        await bench.at(NOW_MS + FORGET_MS)
        assert bench.markers() == {("x", name): 1 for name in ("a", *GAUGES)}


async def test_groups_are_looked_through_only_when_one_may_be_due(tmp_path: Path) -> None:
    """Steps in between cost nothing, also when there are groups that hold nothing."""
    async with keeping(tmp_path) as bench:
        groups = bench.under.committer.groups
        await bench.push("x", ttl_ms=50_000)
        await bench.under.committer.submit(lambda staging: staging.add(refuse(bench.group("y"), staging.now_ms)))
        await bench.at(NOW_MS)
        assert groups.soonest_ms == NOW_MS + 50_000
        await bench.push("z", ttl_ms=20_000)
        assert groups.soonest_ms == NOW_MS + 20_000
        await bench.at(NOW_MS + 20_000)
        assert groups.soonest_ms == NOW_MS + 50_000
        await bench.at(NOW_MS + 50_000)
        assert groups.soonest_ms == NOW_MS + FORGET_MS


async def test_no_point_is_slept_through(tmp_path: Path) -> None:
    """A point that begins while the timekeeper looks at the clock is not missed, however short the interval."""
    async with keeping(tmp_path) as bench:
        looks = 0

        def clock() -> int:
            nonlocal looks
            looks += 1
            return GRID_MS + INTERVAL_MS - (1 if looks == 1 else 0)

        timekeeper = Timekeeper(bench.under.committer, HoldTimes(INTERVAL_MS), clock)
        task = asyncio.create_task(timekeeper.run())
        async with asyncio.timeout(0.5):
            while bench.tick_ms < GRID_MS + INTERVAL_MS:
                await bench.under.committer.wait_for_work(0, bench.under.committer.newest_tick)
        task.cancel()


async def test_it_goes_on_until_it_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails does not end it, and what was due is done at one of the next looks."""
    write, failures = None, 0

    def fails_twice(batch: object) -> object:
        nonlocal failures
        failures += 1
        if failures <= 2:
            raise JournalUnavailableError("io_error", "broken")
        assert write is not None
        return write(batch)

    async with keeping(tmp_path) as bench:
        bench.now_ms = GRID_MS + INTERVAL_MS - 5
        write = bench.under.journal.write
        monkeypatch.setattr(bench.under.journal, "write", fails_twice)
        task = asyncio.create_task(bench.timekeeper.run())
        async with asyncio.timeout(10):
            await bench.under.committer.wait_for_work(0, bench.under.committer.newest_tick)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert failures == 3
        assert bench.tick_ms == GRID_MS
