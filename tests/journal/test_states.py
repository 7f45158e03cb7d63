"""Late storing: whatever is pushed, fails, is trimmed or dropped, a crash after any transaction loses nothing."""

import asyncio
import random
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from bridge.errors import JournalFullError, JournalUnavailableError, PushRefusedError
from bridge.exposition.text import parse_text
from bridge.flatten import FlattenOptions, flatten
from bridge.groups import Group, delete, group_id, key_of, refuse, store
from bridge.hold import HoldTimes
from bridge.ingress.terms import Terms
from bridge.journal.committer import Committer, WhenFull
from bridge.journal.rows import Batch, Settled
from bridge.journal.staging import Staging
from bridge.journal.store import Journal
from bridge.model import Labels
from bridge.pipeline import Push, PushOptions, accept, end_all, end_group
from bridge.registry import Groups
from bridge.restore import load_groups, load_ledger
from bridge.timekeeper import Timekeeper
from tests.journal.test_committer import (
    MIB,
    NOW_MS,
    Bench,
    Seen,
    bulky,
    committing,
    end,
    locked,
    put,
    told,
)
from tests.made import make_content

RETENTION_MS = 2000
LIMIT = 2300
FORGET_AFTER_MS = 100_000
GROUPINGS: list[Labels] = [(("job", "a"),), (("instance", "i"), ("job", "a")), (("job", "b"),)]
FILE = key_of((("job", "a"),), "/var/lib/a.prom")
KEYS = [*map(key_of, GROUPINGS), FILE]
_NOISE = random.Random(7)
BULK = [f'bulk{{noise="{_NOISE.randbytes(300).hex()}",n="{n}"}} ' for n in range(150)]
FORMS: dict[str, list[str]] = {
    "one": ["a "],
    "two": ['a{n="1"} ', "b "],
    "other": ["c "],
    "timed": ["t 1 1600000000000\nu "],
    "twin": ['a{instance="i"} '],
    "empty": [],
    "bad": ["a eins\nb "],
    "own": ["a 1\npush_time_seconds 1600000000\npush_failure_time_seconds "],
    "large": [f'large{{n="{n}"}} ' for n in range(LIMIT)],
    "bulky": BULK,
}
VALUES = st.sampled_from(["1", "2", "0.25", "-0", "NaN", "+Inf", "1e300"])
TTLS_MS = st.sampled_from([None, None, None, 0, 5000])


@dataclass(frozen=True)
class Action:
    """One push or deletion."""

    grouping: Labels
    method: str
    form: str
    value: str
    ttl_ms: int | None
    imported: bool

    @property
    def body(self) -> bytes:
        """What is pushed."""
        return "".join(f"{line}{self.value}\n" for line in FORMS[self.form]).encode()


ACTIONS = st.builds(
    Action,
    st.sampled_from([*GROUPINGS, GROUPINGS[0], GROUPINGS[0]]),
    st.sampled_from(["put", "put", "put", "post", "post", "delete"]),
    st.sampled_from([*FORMS, "one", "one", "two", "two"]),
    VALUES,
    TTLS_MS,
    st.sampled_from([False, False, False, True]),
)


def copied(journal: Path, directory: Path) -> Path:
    """Copy a journal's files as a crash would leave them."""
    directory.mkdir()
    for name in ("journal.db", "journal.db-wal"):
        if (source := journal.with_name(name)).exists():
            shutil.copyfile(source, directory / name)
    return directory


@dataclass
class Faults:
    """A disk that fails when it is told to, the next time that something is written or committed."""

    waiting: list[tuple[str, type[PushRefusedError]]] = field(default_factory=list)

    def strike(self, place: str) -> None:
        """Fail if this is the place."""
        if self.waiting and self.waiting[0][0] == place:
            raise self.waiting.pop(0)[1]("inconsistent", f"a fault at {place}")


class FaultyJournal(Journal):
    """A journal on such a disk."""

    faults: Faults

    def write(self, batch: Batch) -> int | None:
        """Write, or fail behind a part of it."""
        first = super().write(batch)
        self._strike("write")
        return first

    def commit(self) -> bool:
        """Commit, or fail before it."""
        self._strike("commit")
        return super().commit()

    def trim(self, before_ms: int, through_seq: int, limit: int, *, ended_before_ms: int) -> int:
        """Trim, or fail behind it."""
        deleted = super().trim(before_ms, through_seq, limit, ended_before_ms=ended_before_ms)
        self._strike("trim")
        return deleted

    def drop_oldest(self, limit_rows: int) -> list[tuple[int, int]]:
        """Drop rows, or fail behind it."""
        dropped = super().drop_oldest(limit_rows)
        self._strike("drop_oldest")
        return dropped

    def _strike(self, place: str) -> None:
        try:
            self.faults.strike(place)
        except PushRefusedError:
            self._failed = True
            raise


class WatchedCommitter(Committer):
    """A committer that compares, after each transaction, what it shows with what a crash would leave."""

    machine: "StatesMachine"

    async def _write(self, staging: Staging, operations: int) -> None:
        await super()._write(staging, operations)
        try:
            self.machine.compare()
        except AssertionError as difference:
            self.machine.difference = difference


class StatesMachine(RuleBasedStateMachine):
    """Pushes of all kinds against a real journal, which may crash, fail, fill up and be tidied in between."""

    @initialize(
        max_bytes=st.sampled_from([MIB // 2, MIB // 2, 64 * MIB]), when_full=st.sampled_from(["reject", "drop_oldest"])
    )
    def start(self, max_bytes: int, when_full: WhenFull) -> None:
        """Begin with an empty journal, small or large."""
        self.base = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.max_bytes, self.when_full = max_bytes, when_full
        self.external: dict[str, str] = {}
        self.faults = Faults()
        self.now_ms = NOW_MS
        self.copies = 0
        self.forgotten_before_ms = 0
        self.difference: AssertionError | None = None
        self.open(self.base / "first")

    def open(self, directory: Path) -> None:
        """Start on what is in the directory."""
        made = Journal.open(directory, max_bytes=self.max_bytes, now_ms=self.now_ms)
        made.__class__, self.journal = FaultyJournal, made
        self.faults.waiting.clear()
        self.journal.faults = self.faults  # type: ignore[attr-defined]
        assert self.journal.recovery is None
        groups, self.replayed = self.load(self.journal)
        ledger = load_ledger(self.journal, ["t"])
        self.committer = WatchedCommitter(
            self.journal,
            groups,
            ledger,
            replayed=self.replayed,
            now_ms=lambda: self.now_ms,
            when_full=self.when_full,
            observer=Seen(),
        )
        self.committer.machine = self
        self.timekeeper = Timekeeper(self.committer, HoldTimes(60_000, FORGET_AFTER_MS), lambda: self.now_ms)
        self.task = self.loop.create_task(self.committer.run())

    def load(self, journal: Journal) -> tuple[Groups, set[bytes]]:
        """Bring the groups back, without a word of damage."""
        with structlog.testing.capture_logs() as log:
            loaded = load_groups(journal, self.external)
        assert log == []
        return loaded

    def together(self, *works: Awaitable[Any]) -> list[Any]:
        """Run all at once; nothing but a refusal may come of it."""

        async def gather() -> list[Any]:
            async with asyncio.timeout(20):
                return await asyncio.gather(*works, return_exceptions=True)

        answers = self.loop.run_until_complete(gather())
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, PushRefusedError):
                raise answer
        assert not self.task.done()
        if self.difference is not None:
            raise self.difference
        return answers

    async def act(self, action: Action) -> None:
        """Do what a request does."""
        terms = Terms(action.ttl_ms, imported=action.imported)
        if action.method == "delete":
            await end_group(action.grouping, self.committer, terms)
            return
        push = Push(action.grouping, action.method == "put", action.body, terms=terms)
        options = PushOptions(FlattenOptions(self.external, max_series=5000), MIB)
        await accept(push, self.committer, options, self.now_ms)

    @rule(actions=st.lists(ACTIONS, min_size=1, max_size=6))
    def push(self, actions: list[Action]) -> None:
        """Let pushes share transactions."""
        self.together(*map(self.act, actions))

    @rule(action=ACTIONS, times=st.integers(2, 8))
    def push_again_and_again(self, action: Action, times: int) -> None:
        """Repeat one push."""
        for _ in range(times):
            self.together(self.act(action))

    @rule(
        place=st.sampled_from(["write", "commit", "trim", "drop_oldest"]), full=st.booleans(), times=st.integers(1, 3)
    )
    def fail(self, place: str, *, full: bool, times: int) -> None:
        """Let what comes next fail."""
        error = JournalFullError if full and place == "write" else JournalUnavailableError
        self.faults.waiting += [(place, error)] * times

    @rule()
    def heal(self) -> None:
        """Let nothing fail any more."""
        self.faults.waiting.clear()

    @rule(value=st.sampled_from(["put", "again", "refuse", "end"]), number=st.integers(0, 5).map(float))
    def change_file(self, value: str, number: float) -> None:
        """Let a group that comes from a file change: it has no push times on the wire."""

        def operation(staging: Staging) -> None:
            group = staging.group(FILE)
            now_ms = staging.now_for(group)
            if value == "end":
                staging.add(delete(group, now_ms))
            elif value == "refuse":
                staging.add(refuse(group, now_ms))
            elif value == "put" or not group.parts:
                made = flatten(parse_text(b"f 1\ng 2\n"), (("job", "a"),), FlattenOptions({}), NOW_MS)
                staging.add(store(group, made, now_ms, replace_all=True))
            else:
                again = make_content(group.parts[0].shape, [number] * len(group.parts[0]))
                staging.add(store(group, again, now_ms, replace_all=True))

        self.together(self.committer.submit(operation))

    @rule()
    def wipe(self) -> None:
        """End all groups that came by pushes."""
        self.together(end_all(self.committer))

    @rule(step_ms=st.sampled_from([0, 1, -5, 1000, 6000, 60_000, -60_000, 400_000]))
    def pass_time(self, step_ms: int) -> None:
        """Let the clock go on, or back, and do what is due then."""
        self.now_ms += step_ms
        self.together(self.timekeeper.step())

    @rule(share=st.sampled_from([0.5, 1.0]))
    def confirm(self, share: float) -> None:
        """Let the target have some rows, or all."""
        seq = self.committer.ledger.cursors["t"].seq
        last = seq + int((self.journal.end_seq - seq) * share)
        self.together(self.committer.confirm("t", [Settled(seq + 1, last, 0, {})]))

    @rule(actions=st.lists(ACTIONS, max_size=3))
    def store_states(self, actions: list[Action]) -> None:
        """Store the states while pushes come in."""
        self.together(*map(self.act, actions[:1]), self.committer.write_states(), *map(self.act, actions[1:]))

    @rule(actions=st.lists(ACTIONS, max_size=3), retention_ms=st.sampled_from([RETENTION_MS, 0, -1_000_000]))
    def trim(self, actions: list[Action], retention_ms: int) -> None:
        """Forget what is old, or all that may be forgotten."""
        self.forgotten_before_ms = max(self.forgotten_before_ms, self.now_ms - retention_ms)
        self.together(*map(self.act, actions), self.committer.trim(retention_ms))

    @rule(external=st.sampled_from([{}, {}, {"env": "x"}]))
    def crash(self, external: dict[str, str]) -> None:
        """Go on with what is on disk, perhaps with other external labels."""
        shown, copy = self.shown(), self.copy()
        self.halt()
        self.external = external
        self.open(copy)
        assert self.shown() == shown

    @rule()
    def restart(self) -> None:
        """Stop in order; nothing is left for the rows to tell."""
        self.faults.waiting.clear()
        shown = self.shown()
        self.committer.close()
        self.loop.run_until_complete(self.task)
        self.journal.close()
        self.open(self.journal.path.parent)
        assert self.shown() == shown
        assert (self.replayed, self.journal.state_seq) == (set(), self.journal.end_seq)

    @precondition(lambda self: self.journal.end_seq)
    @rule()
    def tell_twice(self) -> None:
        """Rows that the stored states know already change nothing."""
        copy = self.copy()
        journal = Journal.open(copy, max_bytes=self.max_bytes, now_ms=self.now_ms)
        journal.state_seq = 0
        groups, _ = self.load(journal)
        journal.close()
        assert self.all_told(groups.get(key) for key in KEYS) == self.shown()

    def all_told(self, groups: Iterable[Group]) -> list[object]:
        """Give all groups; one that ended long ago may be forgotten."""
        return [
            told(
                group if group.live or group.last_ms >= self.forgotten_before_ms else Group(group_id(group.id.key, {}))
            )
            for group in groups
        ]

    def shown(self) -> list[object]:
        """Give what is published."""
        return self.all_told(map(self.committer.groups.get, KEYS))

    def copy(self) -> Path:
        """Copy what is on disk."""
        self.copies += 1
        return copied(self.journal.path, self.base / f"copy{self.copies}")

    def compare(self) -> None:
        """Start on a copy of what is on disk, and find what is published."""
        copy = self.copy()
        journal = Journal.open(copy, max_bytes=self.max_bytes, now_ms=self.now_ms)
        try:
            groups, _ = self.load(journal)
            assert self.all_told(map(groups.get, KEYS)) == self.shown()
        finally:
            journal.close()
        shutil.rmtree(copy)

    def halt(self) -> None:
        """Leave everything as it is."""
        self.task.cancel()
        self.loop.run_until_complete(asyncio.wait([self.task]))
        self.committer._thread.shutdown()
        self.journal.close()

    def teardown(self) -> None:
        """Remove the files."""
        if hasattr(self, "task"):
            self.halt()
            self.loop.close()
            shutil.rmtree(self.base)


TestStates = StatesMachine.TestCase
TestStates.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


async def told_by(journal: Path, directory: Path) -> list[object]:
    """Give the groups that a start finds after a crash."""
    opened = Journal.open(copied(journal, directory), max_bytes=1 << 26, now_ms=NOW_MS)
    try:
        return [told(group) for group in load_groups(opened, {})[0].live()]
    finally:
        opened.close()


def shown(bench: Bench) -> list[object]:
    """Give the groups that are published."""
    return sorted((told(group) for group in bench.committer.groups.live()), key=repr)


async def test_rows_stay_until_the_states_are_stored(tmp_path: Path) -> None:
    """Retention takes delivered rows only once the groups' stored states know what they tell."""
    push, now = put("j"), [NOW_MS]
    async with committing(tmp_path / "a", "t", now_ms=lambda: now[0]) as bench:
        for _ in range(3):
            await bench.committer.submit(push)
        await bench.committer.confirm("t", [Settled(1, 3, 9, {})])
        now[0] += 5000
        assert await bench.committer.trim(1000) == 0
        assert len(bench.rows()) == 3
        await bench.committer.write_states()
        assert await bench.committer.trim(1000) == 3
        assert await told_by(bench.journal.path, tmp_path / "b") == shown(bench)


@pytest.mark.parametrize("when_full", ["reject", "drop_oldest"])
async def test_room_is_not_made_of_what_is_not_stored(tmp_path: Path, when_full: WhenFull) -> None:
    """Before rows go for room, delivered or not, the states of all groups that they tell of are stored."""
    filler, small = bulky("filler", 3), put("small")
    async with committing(tmp_path / "a", "t", max_bytes=MIB, when_full=when_full) as bench:
        await bench.together(*(put(f"g{n}") for n in range(5)))
        for _ in range(2):
            await bench.committer.submit(small)
        number = 0
        while bench.rows()[0].seq <= 7:
            number += 1
            await bench.committer.submit(filler)
            if when_full == "reject":
                await bench.committer.confirm("t", [Settled(number, bench.journal.end_seq, 0, {})])
        assert number > 100
        assert await told_by(bench.journal.path, tmp_path / "b") == shown(bench)


async def test_storing_waits_for_the_transaction_that_is_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States that are asked for between a commit and the word of it include what it told."""
    async with committing(tmp_path / "a") as bench:
        push = put("j")
        await bench.committer.submit(push)
        commit, done, go_on = bench.journal.commit, threading.Event(), threading.Event()

        def commit_and_wait() -> bool:
            wrote = commit()
            done.set()
            assert go_on.wait(10)
            return wrote

        monkeypatch.setattr(bench.journal, "commit", commit_and_wait)
        pushing = asyncio.create_task(bench.committer.submit(push))
        assert await asyncio.to_thread(done.wait, 10)
        storing = asyncio.create_task(bench.committer.write_states())
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(pushing, storing)
        assert await told_by(bench.journal.path, tmp_path / "b") == shown(bench)


async def test_a_group_that_ended_keeps_its_time_when_room_is_made(tmp_path: Path) -> None:
    """Making room forgets rows, not how far a group's time has come."""
    key = key_of((("job", "gone"),))
    async with committing(tmp_path / "a", max_bytes=MIB) as bench:
        await bench.together(put("gone"), end("gone"))
        while bench.rows()[0].seq == 1:
            await bench.committer.submit(bulky("filler", 3))
        opened = Journal.open(copied(bench.journal.path, tmp_path / "b"), max_bytes=MIB, now_ms=NOW_MS)
        assert load_groups(opened, {})[0].get(key).last_ms == NOW_MS + 1
        opened.close()


async def test_a_disk_that_fails_at_the_end_leaves_the_rows(tmp_path: Path) -> None:
    """A stop without storing the states is no crash: the next start reads them from the rows."""
    async with committing(tmp_path / "a") as bench:
        push = put("j")
        for _ in range(2):
            await bench.committer.submit(push)
        left = shown(bench)
        with locked(bench.journal.path):
            bench.committer.close()
            await bench.task
    assert await told_by(bench.journal.path, tmp_path / "b") == left
