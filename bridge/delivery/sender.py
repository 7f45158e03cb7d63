"""One target's way through the journal: read, join, send, confirm, move on.

Owns order (one request in flight, the same bytes until the receiver takes or refuses them) and the
account: every sample read is confirmed as delivered or as dropped for a reason. Reading and writing the
journal, HTTP and metrics are given in; what a status means is `outcome`, how long to wait `backoff`.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Protocol

from bridge.delivery.backoff import MAX_BACKOFF_S, MIN_BACKOFF_S, backoff_s, delay_s
from bridge.delivery.batch import Batch, Fate, Request, plan_batch, settle
from bridge.delivery.confirmations import Confirm, Confirmations
from bridge.delivery.outcome import Delivered, Outcome, Rejected, RetryLater
from bridge.delivery.rewrite import TargetRules
from bridge.delivery.throttle import ThrottledLog
from bridge.errors import JournalUnavailableError
from bridge.journal.rows import Entry

GATHER_S = 0.05
"""A request that was not full is followed by the next one no sooner: a request costs as much as several pushes."""


class Reader(Protocol):
    """The journal as a sender sees it."""

    def read(self, after_seq: int, max_samples: int, max_bytes: int) -> list[Entry]:
        """Return entries behind `after_seq` in order, up to the limits (bytes as stored), none when there are none.

        At least one entry when there is one, even when it alone is over a limit. Raises
        JournalUnavailableError when the disk cannot be read.
        """
        ...


class Client(Protocol):
    """One POST (`bridge.delivery.client`)."""

    async def send(self, block: bytes, attempt: int, tenant: str) -> Outcome:
        """Send a snappy block of a tenant; `attempt` is 0 for the first try. Raises nothing but cancellation."""
        ...


class Observer(Protocol):
    """What metrics want to know; called on the loop, must not block or raise."""

    def request_finished(
        self, target: str, status: int | None, latency_s: float, samples: int, sent_bytes: int
    ) -> None:
        """Count one POST; `status` is None when there was no answer."""
        ...

    def retried(self, target: str, samples: int) -> None:
        """Count samples that are sent again."""
        ...

    def repeated(self, target: str, reason: str, samples: int) -> None:
        """Count repeats that the target has, or that it refused for a reason."""
        ...


class HeldRequest(Protocol):
    """The bytes of one POST of repeats."""

    @property
    def block(self) -> bytes:
        """A snappy block."""
        ...

    @property
    def samples(self) -> int:
        """How many samples it holds; 0 says that there is nothing to send."""
        ...

    @property
    def tenant(self) -> str:
        """Whose samples these are, "" when the target's own headers say it."""
        ...


class Hold(Protocol):
    """What is repeated for this target (`bridge.hold`)."""

    def request(self, cursor: int, *, drained: bool) -> HeldRequest | None:
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
        hand_out: Callable[[str, int], None] = lambda _target, _seq: None,
        wait_for_work: Callable[[int], Coroutine[None, None, None]],
        hold: Hold,
        client: Client,
        observer: Observer,
        clock_s: Callable[[], float],
        sleep: Callable[[float], Coroutine[None, None, None]],
        random_01: Callable[[], float],
        cursor: int = 0,
        max_samples_per_send: int = 2000,
        max_body_bytes: int = 8 << 20,
        min_backoff_s: float = MIN_BACKOFF_S,
        max_backoff_s: float = MAX_BACKOFF_S,
        rules: TargetRules | None = None,
    ) -> None:
        """Start behind `cursor`, the newest confirmed sequence number.

        `hand_out(target, seq)` is told what has been taken before anything else may run.
        `wait_for_work(seq)` returns once the journal has something behind `seq`, or `hold` something new. `url` is
        for logs only.
        `clock_s` is monotonic; `random_01` gives numbers from 0 to 1.
        """
        self._name = name
        self._reader = reader
        self._hand_out = hand_out
        self._wait_for_work = wait_for_work
        self._hold = hold
        self._held_failures = 0
        self._next_repeat_s = 0.0
        self._client = client
        self._observer = observer
        self._clock_s = clock_s
        self._sleep = sleep
        self._random_01 = random_01
        self._seq = cursor
        self._next_read_s = 0.0
        self._max_samples = max_samples_per_send
        self._max_body_bytes = max_body_bytes
        self._rules = rules or TargetRules()
        self._backoff_s = min_backoff_s, max_backoff_s
        self._stopping = asyncio.Event()
        self._log = ThrottledLog(name, url, clock_s)
        self._confirmations = Confirmations(name, cursor, confirm, self._journal_failed)

    async def run(self) -> None:
        """Deliver until `stop` or cancellation.

        After `stop` it returns once the last batch is confirmed. After cancellation whatever was under way
        is unconfirmed, so the next start sends it again. Anything unexpected from the parts given in
        leaves as an ExceptionGroup.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._confirmations.run())
            await self._deliver()
            self._confirmations.close()

    def stop(self) -> None:
        """Ask `run` to finish: the batch in hand is sent on, but a failed request is not waited for again."""
        self._stopping.set()

    async def _deliver(self) -> None:
        while not self._stopping.is_set():
            await self._confirmations.room()
            await self._repeat(drained=False)
            batch = await self._next_batch()
            if batch is None:
                continue
            fates: list[Fate] = []
            if batch.damaged:
                self._log.error("journal_entries_damaged", last_seq=batch.last_seq, samples=batch.damaged)
            for request in batch.requests:
                fate = await self._settle(request)
                if fate is None:
                    return
                fates.append(fate)
            for settled in settle(batch, fates):
                self._confirmations.add(settled)
            self._seq = batch.last_seq

    async def _repeat(self, *, drained: bool) -> bool:
        """Send the next repeats that are due; False when there are none.

        One try: what failed is tried later, with what the groups are by then, and the journal does not wait for it.
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
        outcome = await self._post(request, self._held_failures)
        if isinstance(outcome, RetryLater):
            self._held_failures += 1
            wait_s = delay_s(self._held_failures, outcome.after_s, self._random_01(), *self._backoff_s)
            self._log_retry(outcome, self._held_failures, wait_s, request.samples)
            self._next_repeat_s = self._clock_s() + wait_s
            if outcome.after_s is not None:
                await self._unless_stopped(self._sleep(wait_s))
            return True
        self._held_failures, self._next_repeat_s = 0, 0.0
        self._hold.sent()
        reason = outcome.reason if isinstance(outcome, Rejected) else ""
        if isinstance(outcome, Rejected):
            self._log.error("repeats_rejected", status=outcome.status, words=outcome.words, samples=request.samples)
        self._observer.repeated(self._name, reason, request.samples)
        return True

    async def _post(self, request: HeldRequest, attempt: int) -> Outcome:
        started_s = self._clock_s()
        outcome = await self._client.send(request.block, attempt, request.tenant)
        latency_s = self._clock_s() - started_s
        self._observer.request_finished(self._name, outcome.status, latency_s, request.samples, len(request.block))
        return outcome

    async def _next_batch(self) -> Batch | None:
        """Return what comes next, or None after waiting for it, for a broken disk or for `stop`."""
        # On the loop's thread on purpose. sqlite3 gives up the GIL for every row, and a worker thread gets it
        # back only after a switch interval (5 ms) while the loop is busy: 2000 rows would take seconds. Here they
        # take a few milliseconds, the limits bound each read, and a request comes between any two of them.
        while (wait_s := self._next_read_s - self._clock_s()) > 0:
            if not await self._repeat(drained=False):
                await self._unless_stopped(self._sleep(wait_s))
        try:
            entries = self._reader.read(self._seq, self._max_samples, self._max_body_bytes)
        except JournalUnavailableError as error:
            await self._unless_stopped(self._journal_failed("read", 1, error))
            return None
        if not entries:
            if self._confirmations.waits:
                await self._unless_stopped(self._confirmations.all_confirmed())
            elif not await self._repeat(drained=True):
                pause_s = self._next_repeat_s - self._clock_s()
                pauses = [self._sleep(pause_s)] if pause_s > 0 else []
                await self._unless_stopped(self._wait_for_work(self._seq), *pauses)
            return None
        full = sum(entry.samples for entry in entries) >= self._max_samples // 2
        self._next_read_s = 0.0 if full else self._clock_s() + GATHER_S
        if entries[0].samples > self._max_samples:
            self._hand_out(self._name, entries[0].seq)
            # Cutting up a large entry is plain Python over every series, so it must not hold the loop.
            return await asyncio.to_thread(
                plan_batch, entries[:1], self._max_samples, self._max_body_bytes, self._rules
            )
        batch = plan_batch(entries, self._max_samples, self._max_body_bytes, self._rules)
        self._hand_out(self._name, batch.last_seq)
        return batch

    async def _settle(self, request: Request) -> Fate | None:
        """Send one request until its fate is known; None when stopped before."""
        attempt = 0
        while True:
            outcome = await self._post(request, attempt)
            if isinstance(outcome, Delivered):
                return Fate(delivered=request.samples)
            if isinstance(outcome, Rejected):
                return await self.settle_rejected(request, outcome)
            attempt += 1
            wait_s = delay_s(attempt, outcome.after_s, self._random_01(), *self._backoff_s)
            self._log_retry(outcome, attempt, wait_s, request.samples)
            await self._unless_stopped(self._sleep(wait_s))
            if self._stopping.is_set():
                return None
            self._observer.retried(self._name, request.samples)

    async def settle_rejected(self, request: Request, rejected: Rejected) -> Fate:
        """Decide about a request that was refused for good: all of it is dropped, with the status as reason."""
        self._log.error(
            "remote_write_rejected",
            status=rejected.status,
            words=rejected.words,
            samples=request.samples,
            result="these samples are dropped for this target",
        )
        return Fate(dropped={rejected.reason: request.samples}, words=rejected.words)

    def _log_retry(self, outcome: RetryLater, attempt: int, wait_s: float, samples: int) -> None:
        self._log.warning(
            "remote_write_failed",
            status=outcome.status,
            words=outcome.words,
            attempt=attempt,
            retry_in_s=round(wait_s, 3),
            samples=samples,
        )

    async def _journal_failed(self, action: str, attempt: int, error: Exception) -> None:
        """Log that the journal could not be used and wait before the next try."""
        self._log.error("journal_failed", action=action, error=str(error), attempt=attempt)
        await self._sleep(backoff_s(attempt, self._random_01(), min_s=1.0, max_s=5.0))

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
