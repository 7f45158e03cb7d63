"""Group commit: everything that arrived while one transaction was being written shares the next.

Owns the only access to the journal's writing side, and the order in which pushes take effect.
Statements run on the event loop, where they cost microseconds; only the commit, which waits for the
disk, runs in a thread, so that the loop reads and parses the next pushes meanwhile. Groups and cursors
become visible when they are on disk, never before.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Literal, Protocol

import structlog

from bridge.errors import JournalFullError, JournalUnavailableError, PushRefusedError
from bridge.hold import Tick
from bridge.journal import letter_table
from bridge.journal.ledger import Ledger
from bridge.journal.letter_table import LetterQuestion
from bridge.journal.news import Milestones, News
from bridge.journal.rows import DeadLetter, Settled
from bridge.journal.staging import Operation, Staging
from bridge.journal.store import Journal
from bridge.reasons import JOURNAL_FULL
from bridge.registry import Groups
from bridge.schedule import Schedule

_log = structlog.get_logger(__name__)
_TRIM_ROWS = 1000
_FIRST_DROP_ROWS = 4
_IDLE_TURNS = 10
"""Turns of the event loop without a new push, some 50 µs, before a transaction is written."""
_IDLE_S = 0.002
"""The same where turns are long, because a target catches up."""
_ENOUGH_OPERATIONS = 6
"""So many pushes are not waited with: while the disk has them, the loop reads and parses the next ones."""
_STATES_AT_ONCE = 500
_LARGEST_SHARE = 0.5
"""Of the journal, for one transaction: nothing is given up for what would hardly fit into an empty one."""
_FOREVER_MS = 1 << 62
_TELL_INTERVAL_MS = 30_000
KEY_LIFE_MS = 24 * 3600 * 1000
"""How long an idempotency key is remembered (design.md section 8)."""
WhenFull = Literal["reject", "drop_oldest"]


class CommitObserver(Protocol):
    """What metrics want to know about commits; called on the loop."""

    def committed(self, operations: int, seconds: float) -> None:
        """One transaction with this many pushes and confirmations is durable."""

    def commit_failed(self, reason: str) -> None:
        """One transaction did not get onto the disk."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    operation: Operation
    done: "asyncio.Future[Any]"


@dataclass(frozen=True, slots=True)
class _Attempt:
    """How one try to write a transaction went."""

    staging: Staging
    error: JournalFullError | JournalUnavailableError | None
    all_dropped: bool
    """Whether the journal had as many rows to drop as were asked for."""

    @property
    def full(self) -> bool:
        return isinstance(self.error, JournalFullError)


class Committer:
    """Applies operations in the order of `submit`, each in one transaction with its neighbours."""

    def __init__(
        self,
        journal: Journal,
        groups: Groups,
        ledger: Ledger,
        *,
        replayed: Iterable[bytes] = (),
        schedule: Schedule | None = None,
        now_ms: Callable[[], int],
        when_full: WhenFull,
        observer: CommitObserver,
    ) -> None:
        """Own `journal` from now on; `groups`, `ledger` and `schedule` change only here.

        `replayed` are groups that know more than what is stored of them.
        """
        self.groups = groups
        self.ledger = ledger
        self.schedule = schedule or Schedule()
        self._journal = journal
        self._now_ms = now_ms
        self.when_full = when_full
        """What becomes of pushes that do not fit; may be changed at any time."""
        self._observer = observer
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._news = News()
        self._settled = Milestones()
        self.known_seq = journal.end_seq
        """Newest row that `groups` know of. The disk may be ahead for a moment; nobody may act on what it has more."""
        self.newest_tick = self._tick(journal.tick_ms)
        """The newest point of the grid."""
        self._unwritten = dict.fromkeys(replayed)
        """Groups whose newest rows tell more than their stored state."""
        self._next_told_ms = self._next_dropped_ms = 0
        self.failure: str | None = None
        """Why the newest commit failed, None when it did not: readiness follows it."""

    async def submit(self, operation: Operation) -> Any:
        """Run `operation` on the next transaction and return its result once that is on disk.

        An operation stages all or nothing: it may raise PushRefusedError before it stages anything.
        Raises JournalFullError or JournalUnavailableError when the transaction could not be written;
        then nothing has changed.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(operation, done))
        self._wake.set()
        return await done

    async def confirm(self, target: str, settled: Sequence[Settled]) -> None:
        """Move a target's cursor, durably; what `Sender` calls."""
        await self.submit(lambda staging: staging.confirm(target, settled))

    async def tick(self, at_ms: int) -> None:
        """Begin a point of the grid, durably: repeats with this time may be sent, and nothing older follows."""
        await self.submit(lambda staging: staging.tick(at_ms))

    async def wait_for_work(self, after_seq: int, tick: Tick) -> None:
        """Return when there are committed rows after `after_seq`, or a newer point of the grid."""
        while self.known_seq <= after_seq and self.newest_tick is tick:
            await self._news.wait()

    async def wait_for_cursor(self, target: str, seq: int) -> None:
        """Return when a target has settled every row up to `seq`; at once for one that is not known."""
        cursor = self.ledger.cursors.get(target)
        if cursor is not None and cursor.seq < seq:
            await self._settled.reach(target, seq)

    async def run(self) -> None:
        """Commit until `close`, then what is left, then what the groups hold."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._gather()
                waiting = [self._queue.popleft() for _ in range(len(self._queue))]
                await self._commit(waiting)
            if self._closing:
                await self._store_rest()
                self._thread.shutdown()
                return

    async def _gather(self) -> None:
        """Let the loop turn until no more pushes come in: half as many transactions cost less than the wait."""
        size = idle = 0
        newest_s = perf_counter()
        while idle < _IDLE_TURNS and size < _ENOUGH_OPERATIONS and perf_counter() - newest_s < _IDLE_S:
            if len(self._queue) == size:
                idle += 1
            else:
                idle, size, newest_s = 0, len(self._queue), perf_counter()
            await asyncio.sleep(0)

    def close(self) -> None:
        """Let `run` finish what was submitted, store what the groups hold, and return."""
        self._closing = True
        self._wake.set()

    async def probe(self) -> None:
        """Find out whether the disk takes writes again, so that readiness does not wait for a push that never comes."""
        await self.submit(lambda _: self._journal.touch())

    async def write_states(self) -> None:
        """Store what the groups hold, a part at a time, so that the rows that told it may go."""
        # Asked for in a transaction's turn: while one is on its way the journal may have rows of groups that are not
        # in `_unwritten` yet.
        state_seq, keys = await self.submit(lambda _: (self._journal.end_seq, list(self._unwritten)))
        if state_seq == self._journal.state_seq:
            return
        for start in range(0, len(keys), _STATES_AT_ONCE):
            await self.submit(partial(Staging.write_states, keys=keys[start : start + _STATES_AT_ONCE], state_seq=0))
        await self.submit(partial(Staging.write_states, keys=(), state_seq=state_seq))

    async def trim(self, retention_ms: int) -> int:
        """Delete delivered rows older than this, and notes; gives how many, at most a thousand of a kind at a time."""
        before_ms = self._now_ms() - retention_ms

        def operation(_: Staging) -> int:
            return self._trim_notes(before_ms) + self._trim(before_ms)

        deleted = int(await self.submit(operation))
        self.groups.forget_ended(before_ms)
        return deleted

    async def trim_runs(self, life_ms: int) -> None:
        """Forget runs that began longer ago than this."""
        before_ms = self._now_ms() - life_ms
        await self.submit(lambda _: self._journal.trim_runs(before_ms))

    async def trim_letters(self, retention_ms: int) -> None:
        """Forget dead letters that are older."""
        before_ms = self._now_ms() - retention_ms
        trim = partial(letter_table.trim, before_ms=before_ms)
        await self.submit(lambda _: self._journal.change_letters(trim))

    async def delete_letters(self, wanted: LetterQuestion) -> int:
        """Forget these dead letters; gives how many there were."""
        delete = partial(letter_table.delete, wanted=wanted)
        deleted: int = await self.submit(lambda _: self._journal.change_letters(delete))
        return deleted

    async def settle_letters(self, taken: Sequence[int], left: Sequence[DeadLetter]) -> None:
        """Forget the dead letters that were taken after all, and note what is left of others; no total changes."""
        settle = partial(letter_table.settle, taken=taken, left=left)
        await self.submit(lambda _: self._journal.change_letters(settle))

    def _trim(self, before_ms: int) -> int:
        through_seq = min(self.ledger.floor(self._journal.end_seq), self._journal.state_seq)
        return self._journal.trim(before_ms, through_seq, _TRIM_ROWS, ended_before_ms=before_ms)

    def _trim_notes(self, before_ms: int) -> int:
        # A push that comes again with its key asks for its deliveries as long as the key is known.
        keys_before_ms = self._now_ms() - KEY_LIFE_MS
        return self._journal.trim_notes(keys_before_ms, min(before_ms, keys_before_ms), _TRIM_ROWS)

    async def _commit(self, waiting: list[_Waiting]) -> None:
        """Write one transaction; make room if need be; else go one by one, so that a giant push harms nobody."""
        attempt = await self._try(waiting)
        while attempt.full and self._may_fit(attempt) and await self._forget_history():
            attempt = await self._try(waiting)
        # Dropped and written in one transaction: nothing is given up for a push that is refused in the end.
        rows = _FIRST_DROP_ROWS
        while attempt.full and self._may_fit(attempt) and self.when_full == "drop_oldest" and attempt.all_dropped:
            attempt = await self._try(waiting, rows)
            rows *= 2
        if attempt.error is None:
            return
        waiting = [item for item in waiting if not item.done.done()]
        if len(waiting) > 1:
            for item in waiting:
                await self._commit([item])
            return
        error = attempt.error
        if not attempt.full:
            self.failure = str(error)
        elif self._may_fit(attempt):
            error = self._held_up(error)
            self.failure = str(error)
        self._observer.commit_failed(error.reason)
        for item in waiting:
            item.done.set_exception(error)

    def _held_up(self, error: PushRefusedError) -> JournalFullError:
        """Name who keeps the journal full, for those who push and, seldom, in the log."""
        self._note_holders()
        holders = ", ".join(self.ledger.held_by)
        if (now_ms := self._now_ms()) >= self._next_told_ms:
            self._next_told_ms = now_ms + _TELL_INTERVAL_MS
            _log.error("journal_full", when_full=self.when_full, held_by=holders, error=str(error))
        cause = f"; its oldest pushes wait for target {holders}" if holders else ""
        return JournalFullError(error.reason, f"{error}{cause}")

    def _note_holders(self) -> None:
        with suppress(JournalUnavailableError):
            self.ledger.held_by = tuple(self.ledger.holders(self._journal.oldest_seq()))

    def _may_fit(self, attempt: "_Attempt") -> bool:
        # The rows, and as much again for the groups' state.
        size_bytes = 2 * sum(len(record.body) for record in attempt.staging.records)
        return size_bytes <= self._journal.max_bytes * _LARGEST_SHARE

    async def _try(self, waiting: list[_Waiting], drop_rows: int = 0) -> "_Attempt":
        staging = self._staging()
        results: list[tuple[_Waiting, Any]] = []
        dropped: list[tuple[int, int]] = []
        try:
            if drop_rows:
                staging.write_states(self._unwritten, self._journal.end_seq)
                self.ledger.dropping = True
                dropped = self._journal.drop_oldest(drop_rows)
                staging.cursors = self.ledger.drop(dropped, JOURNAL_FULL)
            for item in waiting:
                if item.done.done():
                    continue
                try:
                    results.append((item, item.operation(staging)))
                except (JournalFullError, JournalUnavailableError):
                    raise
                except PushRefusedError as error:
                    item.done.set_exception(error)
            await self._write(staging, len(results))
        except (JournalFullError, JournalUnavailableError) as error:
            self._journal.rollback()
            return _Attempt(staging, error, len(dropped) == drop_rows)
        finally:
            self.ledger.dropping = False
        if dropped:
            self._note_holders()
            self._tell_dropped({target: dict(cursor.dropped) for target, cursor in staging.cursors.items()})
        for item, result in results:
            if not item.done.done():
                item.done.set_result(result)
        return _Attempt(staging, None, all_dropped=True)

    def _tell_dropped(self, totals: Mapping[str, Mapping[str, int]]) -> None:
        """Say at once, and then seldom, what was dropped; of what senders have read they tell themselves."""
        if totals and (now_ms := self._now_ms()) >= self._next_dropped_ms:
            self._next_dropped_ms = now_ms + _TELL_INTERVAL_MS
            _log.error("samples_dropped", reason=JOURNAL_FULL, totals=totals)

    def _tick(self, at_ms: int) -> Tick:
        return Tick(at_ms, self.known_seq, tuple([group.id.key for group in self.groups.live()]))

    def _staging(self) -> Staging:
        tick_ms = self.newest_tick.at_ms
        return Staging(self._now_ms(), self.groups, self.ledger, self._journal, tick_ms, self.schedule)

    async def _write(self, staging: Staging, operations: int) -> None:
        started = perf_counter()
        batch, untold = staging.batch()
        self._journal.write(batch)
        wrote = await asyncio.get_running_loop().run_in_executor(self._thread, self._journal.commit)
        self.groups.publish(staging.groups.values())
        self.ledger.publish(staging.cursors, staging.deliveries.values())
        if self.ledger.held_by and staging.cursors:
            self._note_holders()
        self.known_seq = self._journal.end_seq
        self.schedule.publish(staging.runs)
        for row in batch.groups:
            self._unwritten.pop(row.key, None)
        self._unwritten.update(dict.fromkeys(untold))
        if wrote and not self._journal.full:
            self.failure = None
        self._observer.committed(operations, perf_counter() - started)
        if staging.ticked:
            self.newest_tick = self._tick(staging.tick_ms)
        for target, cursor in staging.cursors.items():
            self._settled.advance(target, cursor.seq)
        if staging.records or staging.ticked:
            self._news.tell()

    async def _forget_history(self) -> bool:
        """Delete delivered rows; False when there are none."""
        # In one transaction, so that the states find the room that the rows leave.
        floor = self.ledger.floor(self._journal.end_seq)
        try:
            freed = self._trim_notes(_FOREVER_MS)
            freed += self._journal.trim(_FOREVER_MS, floor, _TRIM_ROWS, ended_before_ms=0)
            if freed:
                await self._store_states()
            else:
                self._journal.rollback()
        except (JournalFullError, JournalUnavailableError) as error:
            self._journal.rollback()
            _log.error("journal_make_room_failed", error=str(error))
            return False
        return freed > 0

    async def _store_states(self) -> None:
        staging = self._staging()
        staging.write_states(self._unwritten, self._journal.end_seq)
        await self._write(staging, 0)

    async def _store_rest(self) -> None:
        if self._journal.state_seq == self._journal.end_seq:
            return
        try:
            await self._store_states()
        except (JournalFullError, JournalUnavailableError) as error:
            self._journal.rollback()
            _log.warning("states_not_stored", why="the next start reads them from the rows", error=str(error))
