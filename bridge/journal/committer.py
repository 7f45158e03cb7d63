"""Group commit: everything that arrived while one transaction was being written shares the next.

Owns the only access to the journal's writing side, and the order in which pushes take effect.
Statements run on the event loop, where they cost microseconds; only the commit, which waits for the
disk, runs in a thread, so that the loop reads and parses the next pushes meanwhile. Groups and cursors
become visible when they are on disk, never before.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, Literal, Protocol

import structlog

from bridge.encode import encode_change, encode_group
from bridge.errors import JournalFullError, JournalUnavailableError, PushRefusedError
from bridge.groups import Change, Group, Groups
from bridge.journal.ledger import Ledger, confirm
from bridge.journal.rows import Batch, CursorRow, GroupRow, Record
from bridge.journal.store import Journal

_log = structlog.get_logger(__name__)
_TRIM_ROWS = 1000
_FIRST_DROP_ROWS = 4
_IDLE_TURNS = 10
"""Turns of the event loop without a new push, some 50 µs, before a transaction is written."""
_ENOUGH_OPERATIONS = 6
"""So many pushes are not waited with: while the disk has them, the loop reads and parses the next ones."""
_STATES_AT_ONCE = 500
_LARGEST_SHARE = 0.5
"""Of the journal, for one transaction: nothing is given up for what would hardly fit into an empty one."""
_FOREVER_MS = 1 << 62
WhenFull = Literal["reject", "drop_oldest"]


class CommitObserver(Protocol):
    """What metrics want to know about commits; called on the loop."""

    def committed(self, operations: int, seconds: float) -> None:
        """One transaction with this many pushes and confirmations is durable."""

    def commit_failed(self, reason: str) -> None:
        """One transaction did not get onto the disk."""


@dataclass(slots=True)
class Staging:
    """One transaction being put together: what is on disk, with this batch's changes over it."""

    now_ms: int
    committed: Groups
    ledger: Ledger
    groups: dict[bytes, Group] = field(default_factory=dict)
    cursors: dict[str, CursorRow] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    due: set[bytes] = field(default_factory=set)
    """Groups whose state is written for its own sake."""
    state_seq: int = 0

    def group(self, key: bytes) -> Group:
        """The group as this transaction will leave it."""
        return self.groups.get(key) or self.committed.get(key)

    def add(self, change: Change) -> None:
        """Add what a push does: rows for delivery and the group's new state."""
        self.records.extend(encode_change(change))
        self.groups[change.group.id.key] = change.group

    def confirm(self, target: str, seq: int, delivered: int, dropped: Mapping[str, int]) -> None:
        """Move a target's cursor."""
        cursor = self.cursors.get(target) or self.ledger.cursors[target]
        self.cursors[target] = confirm(cursor, seq, delivered, dropped)

    def write_states(self, keys: Iterable[bytes], state_seq: int) -> None:
        """Store what these groups hold; with them the stored groups know every row up to `state_seq`."""
        self.due.update(keys)
        self.state_seq = max(self.state_seq, state_seq)

    def batch(self) -> tuple[Batch, list[bytes]]:
        """What the journal is to write, and the groups whose state it is not: their rows tell it."""
        rows: list[GroupRow] = []
        untold: list[bytes] = []
        for key, group in self.groups.items():
            stored = self.committed.find(key)
            if stored is not None and key not in self.due and group.has_form_of(stored):
                untold.append(key)
            else:
                rows.append(encode_group(group, stored))
        rows.extend(
            encode_group(self.committed.get(key), self.committed.find(key)) for key in self.due - self.groups.keys()
        )
        return Batch(tuple(self.records), tuple(rows), tuple(self.cursors.values()), self.state_seq), untold


Operation = Callable[[Staging], Any]


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
        now_ms: Callable[[], int],
        when_full: WhenFull,
        observer: CommitObserver,
    ) -> None:
        """Own `journal` from now on; `groups` and `ledger` change only here.

        `replayed` are groups that know more than what is stored of them.
        """
        self.groups = groups
        self.ledger = ledger
        self._journal = journal
        self._now_ms = now_ms
        self._when_full = when_full
        self._observer = observer
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._appended = asyncio.Event()
        self._unwritten = dict.fromkeys(replayed)
        """Groups whose newest rows tell more than their stored state."""
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

    async def confirm(self, target: str, seq: int, delivered: int, dropped: Mapping[str, int]) -> None:
        """Move a target's cursor, durably; what `Sender` calls."""
        await self.submit(lambda staging: staging.confirm(target, seq, delivered, dropped))

    async def wait_for_rows(self, after_seq: int) -> None:
        """Return when there are committed rows after `after_seq`."""
        while self._journal.end_seq <= after_seq:
            self._appended.clear()
            await self._appended.wait()

    async def run(self) -> None:
        """Commit until `close`, then what is left, then return."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._gather()
                waiting = [self._queue.popleft() for _ in range(len(self._queue))]
                await self._commit(waiting)
            if self._closing:
                self._thread.shutdown()
                return

    async def _gather(self) -> None:
        """Let the loop turn until no more pushes come in: half as many transactions cost less than the wait."""
        size = idle = 0
        while idle < _IDLE_TURNS and size < _ENOUGH_OPERATIONS:
            idle = idle + 1 if len(self._queue) == size else 0
            size = len(self._queue)
            await asyncio.sleep(0)

    def close(self) -> None:
        """Let `run` finish what was submitted and return."""
        self._closing = True
        self._wake.set()

    async def probe(self) -> None:
        """Find out whether the disk takes writes again, so that readiness does not wait for a push that never comes."""
        await self.submit(lambda _: self._journal.touch())

    async def write_states(self) -> None:
        """Store what the groups hold, a part at a time, so that the rows that told it may go."""
        state_seq, keys = self._journal.end_seq, list(self._unwritten)
        if state_seq == self._journal.state_seq:
            return
        for start in range(0, len(keys), _STATES_AT_ONCE):
            await self.submit(partial(Staging.write_states, keys=keys[start : start + _STATES_AT_ONCE], state_seq=0))
        await self.submit(partial(Staging.write_states, keys=(), state_seq=state_seq))

    async def trim(self, retention_ms: int) -> int:
        """Delete delivered rows older than this; gives how many, at most a thousand at a time."""
        before_ms = self._now_ms() - retention_ms
        deleted = int(await self.submit(lambda _: self._trim(before_ms)))
        self.groups.forget_ended(before_ms)
        return deleted

    def _trim(self, before_ms: int) -> int:
        through_seq = min(self.ledger.floor(self._journal.end_seq), self._journal.state_seq)
        return self._journal.trim(before_ms, through_seq, _TRIM_ROWS)

    async def _commit(self, waiting: list[_Waiting]) -> None:
        """Write one transaction; make room if need be; else go one by one, so that a giant push harms nobody."""
        attempt = await self._try(waiting)
        while attempt.full and self._may_fit(attempt) and await self._forget_history():
            attempt = await self._try(waiting)
        # Dropped and written in one transaction: nothing is given up for a push that is refused in the end.
        rows = _FIRST_DROP_ROWS
        while attempt.full and self._may_fit(attempt) and self._when_full == "drop_oldest" and attempt.all_dropped:
            attempt = await self._try(waiting, rows)
            rows *= 2
        if attempt.error is None:
            return
        waiting = [item for item in waiting if not item.done.done()]
        if len(waiting) > 1:
            for item in waiting:
                await self._commit([item])
            return
        if not attempt.full or self._may_fit(attempt):
            self.failure = str(attempt.error)
        self._observer.commit_failed(attempt.error.reason)
        for item in waiting:
            item.done.set_exception(attempt.error)

    def _may_fit(self, attempt: "_Attempt") -> bool:
        # The rows, and as much again for the groups' state.
        size_bytes = 2 * sum(len(record.body) for record in attempt.staging.records)
        return size_bytes <= self._journal.max_bytes * _LARGEST_SHARE

    async def _try(self, waiting: list[_Waiting], drop_rows: int = 0) -> "_Attempt":
        staging = Staging(self._now_ms(), self.groups, self.ledger)
        results: list[tuple[_Waiting, Any]] = []
        dropped: list[tuple[int, int]] = []
        try:
            if drop_rows:
                staging.write_states(self._unwritten, self._journal.end_seq)
                dropped = self._journal.drop_oldest(drop_rows)
                staging.cursors = self.ledger.drop(dropped, "journal_full")
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
        if dropped:
            totals = {target: dict(cursor.dropped) for target, cursor in staging.cursors.items()}
            _log.error("samples_dropped", reason="journal_full", rows=len(dropped), totals=totals)
        for item, result in results:
            if not item.done.done():
                item.done.set_result(result)
        return _Attempt(staging, None, all_dropped=True)

    async def _write(self, staging: Staging, operations: int) -> None:
        started = perf_counter()
        batch, untold = staging.batch()
        self._journal.write(batch)
        wrote = await asyncio.get_running_loop().run_in_executor(self._thread, self._journal.commit)
        self.groups.publish(staging.groups.values())
        self.ledger.publish(staging.cursors)
        for row in batch.groups:
            self._unwritten.pop(row.key, None)
        self._unwritten.update(dict.fromkeys(untold))
        if wrote and not self._journal.full:
            self.failure = None
        self._observer.committed(operations, perf_counter() - started)
        if staging.records:
            self._appended.set()

    async def _forget_history(self) -> bool:
        """Delete delivered rows; False when there are none."""
        staging = Staging(self._now_ms(), self.groups, self.ledger)
        staging.write_states(self._unwritten, self._journal.end_seq)
        try:
            await self._write(staging, 0)
            freed = self._trim(_FOREVER_MS)
            await asyncio.get_running_loop().run_in_executor(self._thread, self._journal.commit)
        except (JournalFullError, JournalUnavailableError) as error:
            self._journal.rollback()
            _log.error("journal_make_room_failed", error=str(error))
            return False
        return freed > 0
