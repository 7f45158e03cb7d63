"""One target's way through the journal: read, pack, hand over, confirm, move on.

Owns what is read when, and how many requests are in flight. What is sent how is the courier's business, what each
tenant has in hand the lanes', the order of a series the shards', how far the cursor may go the window's. Reading and
writing the journal, HTTP and metrics are given in.
"""

import asyncio
from collections.abc import Callable, Container, Coroutine, Mapping, Sequence
from typing import Protocol

from bridge.delivery.backoff import backoff_s
from bridge.delivery.batch import Request
from bridge.delivery.confirmations import Confirm, Confirmations
from bridge.delivery.courier import Client, Courier, Observer, Pace
from bridge.delivery.first_of import first_of
from bridge.delivery.lanes import PATIENCE_S, Lanes
from bridge.delivery.options import Options
from bridge.delivery.repeats import Hold, Repeats
from bridge.delivery.rewrite import prepare
from bridge.delivery.scaling import average, wanted_shards
from bridge.delivery.throttle import ThrottledLog
from bridge.delivery.window import Refusal, Window
from bridge.errors import JournalUnavailableError
from bridge.journal.rows import Entry
from bridge.reasons import DAMAGED, JOURNAL_FULL

GATHER_S = 0.05
"""A request that was not full is followed by the next one no sooner: a request costs as much as several pushes."""
PIECE_SAMPLES = 250
"""Read at once: together with what is done about them a few ms, in which nothing else runs."""
_TURNS = 12
"""Turns of the loop between two pieces: pushes wait for some before they are written, not for as many pieces."""
_DROPPING_S = 0.005
_FAILURES_BEFORE_A_LOOK = 5
_CALM_S = 10.0
"""So long after the last backlog the shards for it are given up."""
_TOLD_AFTER_S = 1.0
"""A backlog of small rows that drains has as many in hand for a moment."""
MAX_ROWS = 50_000
"""From the first that is not settled on; a crash sends them again. While one request fails the others go on so far."""


class Reader(Protocol):
    """The journal as a sender sees it."""

    def read(self, after_seq: int, max_samples: int, max_bytes: int) -> list[Entry]:
        """Return entries behind `after_seq` in order, up to the limits (bytes as stored), none when there are none.

        At least one entry when there is one, even when it alone is over a limit. Raises
        JournalUnavailableError when the disk cannot be read.
        """
        ...


class Sender:
    """Delivers the journal to one target, in order, until stopped."""

    def __init__(
        self,
        name: str,
        url: str,
        *,
        reader: Reader,
        confirm: Confirm,
        hand_out: Callable[[str, int], bool] = lambda _target, _seq: True,
        wait_for_work: Callable[[int], Coroutine[None, None, None]],
        hold: Hold,
        client: Client,
        observer: Observer,
        clock_s: Callable[[], float],
        sleep: Callable[[float], Coroutine[None, None, None]],
        random_01: Callable[[], float],
        cursor: int = 0,
        sent_before: int = 0,
        delivered_before: Container[int] = (),
        options: Options | None = None,
        probe: Callable[[], Request] | None = None,
    ) -> None:
        """Start behind `cursor`, the newest confirmed sequence number; `url` is for logs only.

        `hand_out(target, seq)` is asked, before anything else may run, whether what was read may be taken.
        `wait_for_work(seq)` returns once the journal has something behind `seq`, or `hold` something new. Rows up to
        `sent_before` may have been sent before, by one that did not come to confirm them; those of `delivered_before`
        the target has. `clock_s` is monotonic;
        `random_01` gives numbers from 0 to 1. `probe` is the courier's.
        """
        self._name = name
        self._reader = reader
        self._hand_out = hand_out
        self._wait_for_work = wait_for_work
        self._observer = observer
        self._clock_s, self._sleep, self._random_01 = clock_s, sleep, random_01
        self._seq, self._next_read_s, self._unsent = cursor, 0.0, 0
        self._options = options or Options()
        self._prepare_s = self._latency_s = self._calm_since_s = self._flushed_s = 0.0
        self._progress = asyncio.Event()
        self._stopping = asyncio.Event()
        self._log = ThrottledLog(name, url, clock_s)
        self._window = Window(sent_before)
        self._delivered_before = delivered_before
        self._courier = self._make_courier(client, probe)
        self._has_tenants = self._options.rules.tenant_of is not None
        self._lanes = self._make_lanes()
        self._confirmations = Confirmations(
            name, cursor, confirm, self._journal_failed, clock_s=clock_s, pause=self._sleep_unless_stopped
        )
        self._repeats = Repeats(
            name,
            hold,
            self._courier,
            observer,
            self._pace,
            has=self._has_all,
            lanes=self._lanes if self._has_tenants else None,
        )

    def _make_courier(self, client: Client, probe: Callable[[], Request] | None) -> Courier:
        options = self._options
        self._pace = Pace(
            self._clock_s, self._sleep_unless_stopped, self._random_01, options.min_backoff_s, options.max_backoff_s
        )
        return Courier(
            self._name,
            client=client,
            observer=self._observer,
            log=self._log,
            pace=self._pace,
            stopping=self._stopping,
            progress=self._progress,
            on_rejected=options.on_rejected,
            probe=probe,
            most_in_flight=options.max_shards,
        )

    def _make_lanes(self) -> Lanes:
        options = self._options
        return Lanes(
            self._courier.settle,
            self._settled,
            number=options.min_shards,
            max_samples=options.max_samples_per_send,
            max_body_bytes=options.max_body_bytes,
            capacity=options.capacity,
            progress=self._progress,
            has_tenants=self._has_tenants,
            is_settled=self._window.is_settled,
        )

    async def run(self) -> None:
        """Deliver until `stop` or cancellation.

        After `stop` it returns once what was in flight is confirmed. After cancellation whatever was under way
        is unconfirmed, so the next start sends it again. Anything unexpected from the parts given in
        leaves as an ExceptionGroup.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._confirmations.run())
            self._lanes.start(group)
            await self._deliver()
            await self._lanes.finish()
            self._confirmations.close()

    def stop(self) -> None:
        """Ask `run` to finish: requests in flight end, but none is tried again and none begun."""
        self._stopping.set()

    @property
    def delivered_ahead(self) -> list[int]:
        """Rows beyond the cursor that the target has, in order."""
        return self._window.delivered()

    async def _deliver(self) -> None:
        while not self._stopping.is_set():
            await self._confirmations.room()
            await self._take_back()
            if self._blocked:
                await self._unless_stopped(self._make_room())
                continue
            if self._lanes.number > self._options.min_shards and self._clock_s() > self._calm_since_s + _CALM_S:
                await self._unless_stopped(self._resize(self._options.min_shards))
                continue
            await self._repeat(drained=False)
            await self._read_next()

    def _settled(self, request: Request, refusals: Sequence[Refusal]) -> None:
        self._window.settle(request, refusals)
        self._confirm()

    def _confirm(self) -> None:
        for settled in self._window.take():
            self._confirmations.add(settled)

    async def _repeat(self, *, drained: bool) -> bool:
        return not self._stopping.is_set() and await self._repeats.send_next(drained=drained)

    def _has_all(self, tenant: str, seq: int) -> bool:
        # What is not confirmed may be sent again after a crash, and would then follow the repeats. But of tenants one
        # may have no confirmation for long, for the sake of another.
        if self._confirmations.confirmed_seq >= seq:
            return True
        return self._has_tenants and self._seq >= seq and self._lanes.has_passed(tenant, seq)

    async def _take_back(self) -> None:
        """Read some rows again that were left in the journal while their tenant was in trouble."""
        oldest_ms = self._oldest_ms()
        taken = 0
        while taken < PIECE_SAMPLES and (left := self._lanes.next_left()) is not None:
            try:
                entries = self._reader.read(left.seq - 1, 1, 1)
            except JournalUnavailableError as error:
                await self._unless_stopped(self._journal_failed("read", 1, error))
                break
            self._lanes.take_back(left)
            if entries and entries[0].seq == left.seq:
                self._take(entries[0], oldest_ms, self._window.reopen)
            else:
                self._window.reopen(left.seq, 0, {JOURNAL_FULL: left.samples})
            taken += max(left.samples, 1)
        if taken:
            self._unsent += taken
            self._confirm()
            await self._give_way()

    async def _read_next(self) -> None:
        """Take what comes next, or wait for it, for a broken disk or for `stop`."""
        # On the loop's thread on purpose. sqlite3 gives up the GIL for every row, and a worker thread gets it
        # back only after a switch interval (5 ms) while the loop is busy: 2000 rows would take seconds. Here they
        # take a few milliseconds, the limits bound each read, and a request comes between any two of them.
        while (wait_s := self._next_read_s - self._clock_s()) > 0:
            if self._stopping.is_set() or self._lanes.next_left() is not None:
                return
            if not await self._repeat(drained=False):
                await self._sleep_unless_stopped(wait_s)
        started_s = self._clock_s()
        most, taken = min(PIECE_SAMPLES, self._options.max_samples_per_send), 0
        # A large row may end a read early, which is not the end of the journal.
        while taken <= most // 2:
            try:
                entries = self._reader.read(self._seq, most, self._options.max_body_bytes)
            except JournalUnavailableError as error:
                await self._unless_stopped(self._journal_failed("read", 1, error))
                return
            if not entries:
                await self._end_of_journal()
                return
            if not self._hand_out(self._name, entries[-1].seq):
                await self._sleep_unless_stopped(_DROPPING_S)
                return
            taken += self._take_all(entries)
        one_s = (self._clock_s() - started_s) * self._options.max_samples_per_send / taken
        self._prepare_s = average(self._prepare_s, one_s)
        await self._give_way()

    async def _give_way(self) -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    def _oldest_ms(self) -> int | None:
        return self._options.oldest_ms() if self._options.oldest_ms is not None else None

    def _take_all(self, entries: Sequence[Entry]) -> int:
        oldest_ms, tenant_of = self._oldest_ms(), self._options.rules.tenant_of
        for entry in entries:
            if entry.seq in self._delivered_before:
                self._window.open_delivered(entry.seq, entry.samples)
            elif tenant_of and entry.samples and self._lanes.leave(tenant_of(entry.group), entry.seq, entry.samples):
                self._window.open(entry.seq, entry.samples, {})
            else:
                self._take(entry, oldest_ms, self._window.open)
        self._seq = entries[-1].seq
        self._confirm()
        samples = sum(entry.samples for entry in entries)
        self._unsent += samples
        if self._unsent >= self._options.max_samples_per_send:
            self._calm_since_s = self._clock_s()
        return max(samples, len(entries))

    async def _end_of_journal(self) -> None:
        """Send what was read, or wait for more."""
        if not self._unsent:
            await self._wait_for_rows()
            return
        self._lanes.flush()
        if self._unsent < self._options.max_samples_per_send:
            self._next_read_s = self._clock_s() + GATHER_S
        self._unsent = 0

    def _take(self, entry: Entry, oldest_ms: int | None, note: Callable[[int, int, Mapping[str, int]], None]) -> None:
        """Have a row sent, and `note` how many of its samples are, and why others are not."""
        row = prepare(entry, self._options.rules, oldest_ms)
        if row is not None:
            try:
                if row.samples:
                    self._lanes.put(entry.group, entry.seq, row)
                note(entry.seq, row.samples, row.dropped)
            except ValueError:
                pass
            else:
                return
        self._log.error("journal_entries_damaged", last_seq=entry.seq, samples=entry.samples)
        note(entry.seq, 0, {DAMAGED: entry.samples})

    @property
    def _blocked(self) -> bool:
        return self._lanes.full or self._stuck or len(self._window) >= MAX_ROWS

    @property
    def _stuck(self) -> bool:
        # What is read while nothing gets through could not be dropped any more when the journal is full. One tenant's
        # trouble says nothing of another, whose rows may be the next; most are left in the journal then.
        return self._courier.stuck and not self._has_tenants

    async def _make_room(self) -> None:
        """Wait until more may be read, and have more shards when that is what is missing."""
        full, failures, since_s = self._lanes.full, 0, self._clock_s()
        while self._blocked and self._lanes.next_left() is None:
            # Others may still join what is not full yet, so it is sent only where it has waited for long.
            late = self._clock_s() >= self._flushed_s + self._options.batch_send_deadline_s
            if not self._lanes.flush_resting() and (self._stuck or late):
                self._flushed_s = self._clock_s()
                self._lanes.flush_idle()
            await self._next_progress()
            if (waited_s := self._clock_s() - since_s) >= PATIENCE_S:
                self._lanes.wait_no_longer()
            if waited_s >= _TOLD_AFTER_S and len(self._window) >= MAX_ROWS:
                words = "so many pushes are ahead of one that the target does not take; no more is read before it does"
                self._log.error("remote_write_waits", rows=MAX_ROWS, words=words, **self._lanes.told_of_slowest())
            failures = failures + 1 if self._stuck else 0
            if failures == _FAILURES_BEFORE_A_LOOK:
                failures = 0
                await self._courier.look_around()
        self._calm_since_s = self._clock_s()
        self._latency_s = average(self._latency_s, self._courier.latency_s)
        options, now = self._options, self._lanes.number
        wanted = wanted_shards(now, self._latency_s, self._prepare_s, options.min_shards, options.max_shards)
        if full and wanted != now and not self._courier.troubled:
            await self._resize(wanted)

    async def _wait_for_rows(self) -> None:
        """Return when there may be rows, or a repeat that can be sent."""
        under_way = bool(self._window) or self._confirmations.waits
        if await self._repeat(drained=not under_way):
            return
        if not under_way and (pause_s := self._repeats.pause_s) > 0:
            # There is something new to repeat, but not yet: waiting for it would return at once.
            await self._sleep_unless_stopped(min(pause_s, GATHER_S))
            return
        waits = [self._wait_for_work(self._seq)]
        if under_way:
            waits.append(self._all_confirmed())
        if self._has_tenants:
            waits.append(self._tenants_may_go_on())
        await self._unless_stopped(*waits)

    async def _all_confirmed(self) -> None:
        await self._lanes.emptied()
        await self._confirmations.all_confirmed()

    async def _resize(self, number: int) -> None:
        # In a backlog every group has something under way, and the new shards would get nothing.
        self._lanes.flush()
        since_s = self._clock_s()
        while self._lanes.waited_for and not (self._has_tenants and self._clock_s() >= since_s + PATIENCE_S):
            await self._next_progress()
        self._lanes.resize(number)

    async def _next_progress(self) -> None:
        self._progress.clear()
        await first_of(self._progress.wait(), *([self._sleep(PATIENCE_S)] if self._has_tenants else []))

    async def _tenants_may_go_on(self) -> None:
        if self._repeats.waiting:
            await self._next_progress()
        while not self._repeats.waiting and self._lanes.next_left() is None:
            self._progress.clear()
            await self._progress.wait()

    async def _journal_failed(self, action: str, attempt: int, error: Exception) -> None:
        """Log that the journal could not be used and wait before the next try."""
        self._log.error("journal_failed", action=action, error=str(error), attempt=attempt)
        await self._sleep(backoff_s(attempt, self._random_01(), min_s=1.0, max_s=5.0))

    async def _sleep_unless_stopped(self, seconds: float) -> None:
        await self._unless_stopped(self._sleep(seconds))

    async def _unless_stopped(self, *waiting: Coroutine[None, None, object]) -> None:
        """Await the first of several things, but no longer than until `stop`."""
        await first_of(*waiting, self._stopping.wait())
