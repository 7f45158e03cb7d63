"""Groups, time and one target against a plain model: whatever the order of things, a series only goes forward."""

import asyncio
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridge.errors import BadPushError, JournalUnavailableError
from bridge.flatten import FlattenOptions
from bridge.groups import LOOKBACK_MS, key_of
from bridge.heartbeat import Heartbeat
from bridge.hold import HoldTimes, TargetHold
from bridge.ingress.terms import Terms
from bridge.journal.committer import Committer
from bridge.journal.reader import JournalReader
from bridge.journal.rows import NEVER_MS, Entry, Settled
from bridge.journal.store import Journal
from bridge.pipeline import Push, PushOptions, accept, end_group
from bridge.restore import load_groups, load_ledger
from bridge.timekeeper import Timekeeper
from bridge.wire import snappy_block
from bridge.wire.head import decode_sample, labels_of
from bridge.wire.remote_write import STALE_NAN, split_series
from tests.journal.test_committer import Seen
from tests.made import turn

_T = TypeVar("_T")
INTERVAL_MS = 60_000
FORGET_MS = 600_000
START_MS = 1_700_000_040_000
"""On the grid, as most times here are then, so that expiry and ticks meet."""
OPTIONS = PushOptions(FlattenOptions({}), 1 << 20)
Series = str
"""`name/n/job`, where `n` is a label that tells two series of a family apart."""
JOBS = st.sampled_from("xyz")
NAMES = st.lists(st.sampled_from(["a", "b1", "b2", "timed"]), min_size=1, max_size=4, unique=True)
"""`b1` and `b2` are one family; `timed` brings timestamps of its own."""
TTLS_MS = st.sampled_from([0, 1, 90_000, 150_000, NEVER_MS])
Fate = Literal["taken", "unanswered", "failed"]
"""Of a request: an unanswered one has arrived, but the sender does not know it."""


@dataclass
class Model:
    """A group in plain values."""

    values: dict[str, float] = field(default_factory=dict)
    live: bool = False
    push_s: float = 0.0
    failure_s: float = 0.0
    expires_ms: int = NEVER_MS
    hold: bool = True

    def due_ms(self) -> int:
        """When something ends next."""
        if not self.live:
            return NEVER_MS
        return self.expires_ms if self.values else round(max(self.push_s, self.failure_s) * 1000) + FORGET_MS

    def held(self, job: str, at_ms: int) -> dict[Series, float]:
        """What is repeated at a point of the grid if nothing is newer."""
        if not self.live:
            return {}
        gauges = {spell("push_time_seconds", job): self.push_s, spell("push_failure_time_seconds", job): self.failure_s}
        shown = self.values if self.hold and at_ms < self.expires_ms else {}
        return {**gauges, **{spell(name, job): value for name, value in shown.items() if name != "timed"}}


def spell(name: str, job: str) -> Series:
    """Name a series of a job."""
    return f"{name[0]}/{name[1:]}/{job}" if name in ("b1", "b2") else f"{name}//{job}"


def samples_of(block: bytes) -> list[tuple[Series, int, float | None]]:
    """Read a request or a row: series, time, value; None for a marker."""
    found: list[tuple[Series, int, float | None]] = []
    for data in split_series(snappy_block.decompress(block, 1 << 20)):
        head, value, stamp_ms = decode_sample(data)
        labels = dict(labels_of(head))
        series = f"{labels['__name__']}/{labels.get('n', '')}/{labels['job']}"
        found.append((series, stamp_ms, None if STALE_NAN in data and struct.pack("<d", value) == STALE_NAN else value))
    return found


class HoldMachine(RuleBasedStateMachine):
    """Runs both side by side. The receiver outlives the agent; the clock may step."""

    @initialize()
    def start(self) -> None:
        """Begin with an empty directory."""
        self.directory = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.clock_ms = START_MS
        self.value = 0.0
        self.models: dict[str, Model] = {}
        self.newest: dict[str, tuple[list[str], int, bool]] = {}
        self.ends: Counter[Series] = Counter()
        self.journaled: Counter[Series] = Counter()
        self.seen_seq = 0
        self.received: dict[Series, dict[int, float | None]] = {}
        self.newest_repeat: dict[Series, int] = {}
        self.open()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do one thing to its end."""
        return self.loop.run_until_complete(asyncio.wait_for(work, 10))

    def open(self) -> None:
        """Start the agent's parts on what is in the directory."""
        self.journal = Journal.open(self.directory, max_bytes=1 << 26, now_ms=self.clock_ms)
        (groups, replayed), ledger = load_groups(self.journal, {}), load_ledger(self.journal, ["t"])
        self.committer = Committer(
            self.journal,
            groups,
            ledger,
            replayed=replayed,
            now_ms=lambda: self.clock_ms,
            when_full="reject",
            observer=Seen(),
        )
        self.task = self.loop.create_task(self.committer.run())
        self.timekeeper = Timekeeper(self.committer, HoldTimes(INTERVAL_MS, FORGET_MS), lambda: self.clock_ms)
        heartbeat = Heartbeat("i", {}, self.clock_ms)
        self.hold = TargetHold(groups, lambda: self.committer.newest_tick, 3, heartbeat.points)
        self.reader = JournalReader(self.journal.path, lambda: self.committer.known_seq)
        self.delivered = 0
        self.seq = self.confirmed_seq = ledger.cursors["t"].seq

    def close(self) -> None:
        """End without a word, as a kill does; what is not committed is gone."""
        self.reader.close()
        self.committer.close()
        self.loop.run_until_complete(self.task)
        self.journal.close()

    @rule(job=JOBS, names=NAMES, ttl_ms=TTLS_MS, replace_all=st.booleans())
    def push(self, job: str, names: list[str], ttl_ms: int, *, replace_all: bool) -> None:
        """PUT or POST new values."""
        self.newest[job] = names, ttl_ms, replace_all
        self._push(job, names, ttl_ms, replace_all=replace_all)

    @rule(job=JOBS)
    def push_again(self, job: str) -> None:
        """Push as before, with new values: the everyday push, whose row is all that is written at once."""
        if job in self.newest:
            names, ttl_ms, replace_all = self.newest[job]
            self._push(job, names, ttl_ms, replace_all=replace_all)

    def _push(self, job: str, names: list[str], ttl_ms: int, *, replace_all: bool) -> None:
        self.value += 1
        spelled = {"a": "a", "b1": 'b{n="1"}', "b2": 'b{n="2"}', "timed": "timed"}
        stamps = {"timed": f" {round(self.value)}"}
        body = "".join(f"{spelled[name]} {self.value}{stamps.get(name, '')}\n" for name in names)
        push = Push((("job", job),), replace_all, body.encode(), terms=Terms(ttl_ms))
        self.run(accept(push, self.committer, OPTIONS, self.clock_ms))
        model = self.models.setdefault(job, Model())
        families = {name[0] for name in names}
        kept = {} if replace_all else {name: value for name, value in model.values.items() if name[0] not in families}
        self._ended(job, (name for name in model.values if name not in kept and name not in names))
        stamp_ms = self._stamp_ms(job)
        model.values = kept | dict.fromkeys(names, self.value)
        model.live, model.push_s, model.hold = True, stamp_ms / 1000, ttl_ms > 0
        model.expires_ms = NEVER_MS if ttl_ms == NEVER_MS else stamp_ms + (ttl_ms or LOOKBACK_MS)

    @rule(job=JOBS)
    def push_nonsense(self, job: str) -> None:
        """A push that is refused."""
        with pytest.raises(BadPushError):
            self.run(accept(Push((("job", job),), True, b"!\n"), self.committer, OPTIONS, self.clock_ms))
        model = self.models.setdefault(job, Model())
        model.live, model.failure_s = True, self._stamp_ms(job) / 1000

    @rule(job=JOBS)
    def delete(self, job: str) -> None:
        """DELETE a group."""
        self.run(end_group((("job", job),), self.committer))
        self._forget(job)

    def _forget(self, job: str) -> None:
        model = self.models.pop(job, Model())
        if model.live:
            self._ended(job, (*model.values, "push_time_seconds", "push_failure_time_seconds"))

    def _ended(self, job: str, names: Any) -> None:
        self.ends.update(spell(name, job) for name in names if name != "timed")

    def _stamp_ms(self, job: str) -> int:
        return self.committer.groups.get(key_of((("job", job),))).last_ms

    @rule(ms=st.sampled_from([1, 500, 20_000, 60_000, 100_000, 400_000]))
    def time_passes(self, ms: int) -> None:
        """The clock goes on."""
        self.clock_ms += ms

    @rule(ms=st.sampled_from([1, 30_000, 90_000]))
    def clock_steps_back(self, ms: int) -> None:
        """The clock is set back."""
        self.clock_ms -= ms

    @rule()
    def keep_time(self) -> None:
        """Do what is due."""
        self.run(self.timekeeper.step())
        for job, model in list(self.models.items()):
            if model.due_ms() > self.clock_ms:
                continue
            if not model.values:
                self._forget(job)
                continue
            if model.hold:
                self._ended(job, model.values)
            model.values = {}

    @rule()
    def keep_time_on_a_broken_disk(self) -> None:
        """What is due and cannot be written changes nothing."""

        def broken(_: object) -> None:
            raise JournalUnavailableError("io_error", "broken")

        write, self.journal.write = self.journal.write, broken  # type: ignore[method-assign, assignment]
        try:
            self.run(self.timekeeper.step())
        except JournalUnavailableError:
            pass
        finally:
            self.journal.write = write  # type: ignore[method-assign]

    @rule()
    def store_states(self) -> None:
        """Write what the groups hold, as is done from time to time."""
        self.run(self.committer.write_states())

    @rule(confirmed=st.booleans())
    def send_row(self, *, confirmed: bool) -> None:
        """Deliver one row; that it is confirmed may take a while."""
        entries = self.reader.read(self.seq, 1, 1)
        if entries:
            self._arrive(entries)
        if confirmed:
            self._confirm()

    def _arrive(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.seq = entry.seq
            self.delivered += entry.samples
            for series, stamp_ms, value in samples_of(entry.body):
                self._receive(series, stamp_ms, value)

    def _confirm(self) -> None:
        if self.confirmed_seq < self.seq:
            settled = Settled(self.confirmed_seq + 1, self.seq, self.delivered, {})
            self.delivered = 0
            self.run(self.committer.confirm("t", [settled]))
            self.confirmed_seq = self.seq

    @rule(fate=st.sampled_from(["taken", "taken", "unanswered", "failed"]))
    def send_repeats(self, fate: Fate) -> None:
        """Try one request of repeats."""
        self._repeat(fate)

    def _repeat(self, fate: Fate) -> bool:
        drained = self.confirmed_seq == self.seq and not self.reader.read(self.seq, 1, 1)
        request = self.hold.request(turn(self.confirmed_seq, drained=drained))
        if request is None:
            return False
        samples = samples_of(request.block)
        assert 0 < len(samples) == request.samples <= 3
        for series, at_ms, value in samples if fate != "failed" else ():
            job = series.rpartition("/")[2]
            if job != "pushbridge":
                assert at_ms % INTERVAL_MS == 0
                held = self.models[job].held(job, at_ms)
                assert held.get(series) == value, f"{series} is no longer held, or not with {value}: {held}"
            self._receive(series, at_ms, value)
            self.newest_repeat[series] = at_ms
        if fate == "taken":
            self.hold.sent()
        return True

    def _receive(self, series: Series, stamp_ms: int, value: float | None) -> None:
        if series.startswith("timed"):
            return
        known = self.received.setdefault(series, {})
        if stamp_ms in known:
            assert known[stamp_ms] == value, f"{series} at {stamp_ms} had {known[stamp_ms]}, has {value}"
            assert stamp_ms >= self.newest_repeat.get(series, 0), f"{series} went back behind a repeat"
        else:
            assert stamp_ms > max(known, default=0), f"{series} at {stamp_ms} comes after {max(known)}"
        known[stamp_ms] = value

    @rule()
    def catch_up(self) -> None:
        """Deliver everything: whoever holds something has it at the newest point, and every end is there once."""
        while entries := self.reader.read(self.seq, 1 << 40, 1 << 40):
            self._arrive(entries)
        self._confirm()
        while self._repeat("taken"):
            pass
        tick = self.committer.newest_tick
        for job, model in self.models.items():
            if key_of((("job", job),)) in tick.keys and self._stamp_ms(job) < tick.at_ms:
                for series, value in model.held(job, tick.at_ms).items():
                    assert self.received[series].get(tick.at_ms) == value, f"{series} has no repeat at {tick.at_ms}"
        markers = {series: list(points.values()).count(None) for series, points in self.received.items()}
        assert {series: count for series, count in markers.items() if count} == self.ends

    @rule()
    def kill(self) -> None:
        """Kill the agent and start it again."""
        self.close()
        self.open()

    @precondition(lambda self: hasattr(self, "journal"))
    @invariant()
    def same_groups(self) -> None:
        """Each group holds what the model does, and the journal has one marker for every end."""
        for job in "xyz":
            model, group = self.models.get(job, Model()), self.committer.groups.get(key_of((("job", job),)))
            values = {
                spell_head(head): value
                for part in group.parts
                for head, value in zip(part.shape.heads, part.values, strict=True)
            }
            assert values == {spell(name, job): value for name, value in model.values.items()}
            assert (group.live, group.push_ms, group.failure_ms) == (
                model.live,
                round(model.push_s * 1000),
                round(model.failure_s * 1000),
            )
            if model.values:
                assert (group.expires_ms, group.hold) == (model.expires_ms, model.hold)
        with JournalReader(self.journal.path) as reader:
            for entry in reader.read(self.seen_seq, 1 << 40, 1 << 40):
                self.seen_seq = entry.seq
                self.journaled.update(series for series, _, value in samples_of(entry.body) if value is None)
        assert self.journaled == self.ends

    def teardown(self) -> None:
        """Remove the files."""
        if hasattr(self, "journal"):
            self.close()
            self.loop.close()
            shutil.rmtree(self.directory)


def spell_head(head: bytes) -> Series:
    """Name the series of a head."""
    labels = dict(labels_of(head))
    return f"{labels['__name__']}/{labels.get('n', '')}/{labels['job']}"


TestHold = HoldMachine.TestCase
TestHold.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
