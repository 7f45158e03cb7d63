"""One target's way through the journal: read, pack, hand over, confirm, move on.

Owns what is read when, how many requests are in flight, and the turn of the repeats. What is sent how is the courier's
business, the order of a series the shards', how far the cursor may go the window's. Reading and writing the journal,
HTTP and metrics are given in.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Protocol

from bridge.delivery.backoff import MAX_BACKOFF_S, MIN_BACKOFF_S, backoff_s
from bridge.delivery.batch import Request
from bridge.delivery.confirmations import Confirm, Confirmations
from bridge.delivery.courier import Client, Courier, Observer, OnRejected, Pace, Posted
from bridge.delivery.outcome import Rejected, RetryLater
from bridge.delivery.rewrite import TargetRules, prepare
from bridge.delivery.scaling import average, wanted_shards
from bridge.delivery.shards import Shards
from bridge.delivery.throttle import ThrottledLog
from bridge.delivery.window import Refusal, Window
from bridge.errors import JournalUnavailableError
from bridge.journal.rows import Entry
from bridge.reasons import DAMAGED, refusal_reason

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
MAX_ROWS = 50_000
"""From the first that is not settled on; a crash sends them again. While one request fails the others go on so far."""
_NO_RULES = TargetRules()


@dataclass(frozen=True, slots=True)
class Options:
    """What is set for a target: its queue in the words of Prometheus' queue_config, and its rules."""

    max_samples_per_send: int = 2000
    max_body_bytes: int = 8 << 20
    """Of a request, uncompressed."""
    capacity: int = 10_000
    """Samples of one shard that are read and not settled."""
    min_shards: int = 1
    max_shards: int = 50
    min_backoff_s: float = MIN_BACKOFF_S
    max_backoff_s: float = MAX_BACKOFF_S
    batch_send_deadline_s: float = 5.0
    """How long a request waits to be full while there is a backlog."""
    on_rejected: OnRejected = "split"
    rules: TargetRules = _NO_RULES
    oldest_ms: Callable[[], int] | None = None
    """Samples from before this time are dropped as they are read; None when age does not matter."""


class Reader(Protocol):
    """The journal as a sender sees it."""

    def read(self, after_seq: int, max_samples: int, max_bytes: int) -> list[Entry]:
        """Return entries behind `after_seq` in order, up to the limits (bytes as stored), none when there are none.

        At least one entry when there is one, even when it alone is over a limit. Raises
        JournalUnavailableError when the disk cannot be read.
        """
        ...


class Hold(Protocol):
    """What is repeated for this target (`bridge.hold`)."""

    def request(self, cursor: int, *, drained: bool) -> Posted | None:
        """Return what is to be sent now, the same again until `sent`; None when nothing is due.

        `drained` says that the journal has nothing behind `cursor`.
        """
        ...

    def sent(self) -> None:
        """Go on behind the newest request."""
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
        options: Options | None = None,
        probe: Callable[[], Request] | None = None,
    ) -> None:
        """Start behind `cursor`, the newest confirmed sequence number; `url` is for logs only.

        `hand_out(target, seq)` is asked, before anything else may run, whether what was read may be taken.
        `wait_for_work(seq)` returns once the journal has something behind `seq`, or `hold` something new. Rows up to
        `sent_before` may have been sent before, by one that did not come to confirm them. `clock_s` is monotonic;
        `random_01` gives numbers from 0 to 1. `probe` is the courier's.
        """
        self._name = name
        self._reader = reader
        self._hand_out = hand_out
        self._wait_for_work = wait_for_work
        self._hold = hold
        self._held_failures, self._next_repeat_s = 0, 0.0
        self._observer = observer
        self._clock_s, self._sleep, self._random_01 = clock_s, sleep, random_01
        self._seq, self._next_read_s, self._unsent = cursor, 0.0, 0
        self._options = options or Options()
        self._prepare_s = self._latency_s = self._calm_since_s = self._flushed_s = 0.0
        self._progress = asyncio.Event()
        self._stopping = asyncio.Event()
        self._log = ThrottledLog(name, url, clock_s)
        self._window = Window(sent_before)
        self._courier = self._make_courier(client, probe)
        self._shards = self._make_shards()
        self._confirmations = Confirmations(
            name, cursor, confirm, self._journal_failed, clock_s=clock_s, pause=self._sleep_unless_stopped
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
        )

    def _make_shards(self) -> Shards:
        options = self._options
        return Shards(
            self._courier.settle,
            self._settled,
            number=options.min_shards,
            max_samples=options.max_samples_per_send,
            max_body_bytes=options.max_body_bytes,
            capacity=options.capacity,
            progress=self._progress,
        )

    async def run(self) -> None:
        """Deliver until `stop` or cancellation.

        After `stop` it returns once what was in flight is confirmed. After cancellation whatever was under way
        is unconfirmed, so the next start sends it again. Anything unexpected from the parts given in
        leaves as an ExceptionGroup.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._confirmations.run())
            self._shards.start(group)
            await self._deliver()
            await self._shards.finish()
            self._confirmations.close()

    def stop(self) -> None:
        """Ask `run` to finish: requests in flight end, but none is tried again and none begun."""
        self._stopping.set()

    async def _deliver(self) -> None:
        while not self._stopping.is_set():
            await self._confirmations.room()
            if self._blocked:
                await self._unless_stopped(self._make_room())
                continue
            if self._shards.number > self._options.min_shards and self._clock_s() > self._calm_since_s + _CALM_S:
                await self._unless_stopped(self._shards.resize(self._options.min_shards))
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
        """Send the next repeats that are due; False when there are none.

        One try: what failed is tried later, with what the groups are by then, and the journal does not wait for it.
        Rows in flight do no harm: they are of groups that are left out, because these rows are newer than the point.
        """
        if self._stopping.is_set() or self._clock_s() < self._next_repeat_s:
            return False
        # What is not confirmed may be sent again after a crash, and would then follow the repeats.
        request = self._hold.request(self._confirmations.confirmed_seq, drained=drained)
        if request is None:
            return False
        if not request.samples:
            # The target's rules dropped what was looked at; there may be much of it.
            self._hold.sent()
            await asyncio.sleep(0)
            return True
        answer = await self._courier.post(request, self._held_failures)
        outcome = await self._courier.judge(answer, self._held_failures + 1, request.tenant)
        if isinstance(outcome, RetryLater):
            self._held_failures += 1
            wait_s = self._pace.delay_s(self._held_failures, outcome.after_s)
            self._courier.log_retry(outcome, self._held_failures, wait_s, request.samples)
            self._next_repeat_s = self._clock_s() + wait_s
            if isinstance(answer, RetryLater) and answer.after_s is not None:
                await self._sleep_unless_stopped(wait_s)
            return True
        refused = 0
        if isinstance(outcome, Rejected):
            one = Request(request.block, request.samples, request.tenant)
            for refusal in await self._courier.find_refused(one, outcome) or ():
                refused += refusal.stop - refusal.start
                self._observer.repeated(self._name, refusal_reason(refusal.status), refusal.stop - refusal.start)
        self._held_failures, self._next_repeat_s = 0, 0.0
        self._hold.sent()
        if refused < request.samples:
            self._observer.repeated(self._name, "", request.samples - refused)
        return True

    async def _read_next(self) -> None:
        """Take what comes next, or wait for it, for a broken disk or for `stop`."""
        # On the loop's thread on purpose. sqlite3 gives up the GIL for every row, and a worker thread gets it
        # back only after a switch interval (5 ms) while the loop is busy: 2000 rows would take seconds. Here they
        # take a few milliseconds, the limits bound each read, and a request comes between any two of them.
        while (wait_s := self._next_read_s - self._clock_s()) > 0:
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
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    def _take_all(self, entries: Sequence[Entry]) -> int:
        oldest_ms = self._options.oldest_ms() if self._options.oldest_ms is not None else None
        for entry in entries:
            self._take(entry, oldest_ms)
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
        self._shards.flush()
        if self._unsent < self._options.max_samples_per_send:
            self._next_read_s = self._clock_s() + GATHER_S
        self._unsent = 0

    def _take(self, entry: Entry, oldest_ms: int | None) -> None:
        row = prepare(entry, self._options.rules, oldest_ms)
        if row is not None:
            try:
                if row.samples:
                    self._shards.put(entry.group, entry.seq, row)
                self._window.open(entry.seq, row.samples, row.dropped)
            except ValueError:
                pass
            else:
                return
        self._log.error("journal_entries_damaged", last_seq=entry.seq, samples=entry.samples)
        self._window.open(entry.seq, 0, {DAMAGED: entry.samples})

    @property
    def _blocked(self) -> bool:
        # What is read while nothing gets through could not be dropped any more when the journal is full.
        return self._shards.full or self._courier.stuck or len(self._window) >= MAX_ROWS

    async def _make_room(self) -> None:
        """Wait until more may be read, and have more shards when that is what is missing."""
        full, failures = self._shards.full, 0
        while self._blocked:
            # Others may still join what is not full yet, so it is sent only where it has waited for long.
            if self._shards.at_rest:
                self._shards.flush()
            elif self._courier.stuck or self._clock_s() >= self._flushed_s + self._options.batch_send_deadline_s:
                self._flushed_s = self._clock_s()
                self._shards.flush_idle()
            self._progress.clear()
            await self._progress.wait()
            failures = failures + 1 if self._courier.stuck else 0
            if failures == _FAILURES_BEFORE_A_LOOK:
                failures = 0
                await self._courier.look_around()
        self._calm_since_s = self._clock_s()
        self._latency_s = average(self._latency_s, self._courier.latency_s)
        options, now = self._options, self._shards.number
        wanted = wanted_shards(now, self._latency_s, self._prepare_s, options.min_shards, options.max_shards)
        if full and wanted != now and not self._courier.troubled:
            await self._shards.resize(wanted)

    async def _wait_for_rows(self) -> None:
        """Return when there may be rows, or a repeat that can be sent."""
        if self._window or self._confirmations.waits:
            await self._unless_stopped(self._all_confirmed(), self._wait_for_work(self._seq))
            return
        if await self._repeat(drained=True):
            return
        if (pause_s := self._next_repeat_s - self._clock_s()) > 0:
            # There is something new to repeat, but not yet: waiting for it would return at once.
            await self._sleep_unless_stopped(min(pause_s, GATHER_S))
        else:
            await self._unless_stopped(self._wait_for_work(self._seq))

    async def _all_confirmed(self) -> None:
        await self._shards.emptied()
        await self._confirmations.all_confirmed()

    async def _journal_failed(self, action: str, attempt: int, error: Exception) -> None:
        """Log that the journal could not be used and wait before the next try."""
        self._log.error("journal_failed", action=action, error=str(error), attempt=attempt)
        await self._sleep(backoff_s(attempt, self._random_01(), min_s=1.0, max_s=5.0))

    async def _sleep_unless_stopped(self, seconds: float) -> None:
        await self._unless_stopped(self._sleep(seconds))

    async def _unless_stopped(self, *waiting: Coroutine[None, None, None]) -> None:
        """Await the first of several things, but no longer than until `stop`."""
        tasks = [asyncio.create_task(one) for one in (*waiting, self._until_stopped())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _until_stopped(self) -> None:
        await self._stopping.wait()
