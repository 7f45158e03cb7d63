"""Tenants of one target side by side: one that gets slow, or gets nothing through, is not waited for by the others.

Its rows are left in the journal then, and read again once half of what it has in hand is settled. Owns how much each
may have in hand and which rows were left. The queues of a tenant are `shards`; reading the journal is the sender's
business.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bridge.delivery.batch import Request
from bridge.delivery.rewrite import Row
from bridge.delivery.shards import Settle, Shards, Ways
from bridge.delivery.window import Refusal

PATIENCE_S = 0.25
"""So long all tenants wait for one that has all in hand that it may have, or for the answer to its repeats."""


class Left(NamedTuple):
    """A row that was left in the journal."""

    tenant: str
    seq: int
    samples: int


@dataclass(slots=True)
class _Lane:
    shards: Shards
    left: deque[Left] = field(default_factory=deque)
    seqs: deque[int] = field(default_factory=deque)
    """Of the rows from the first that is not settled on; kept where there are tenants."""
    slow: bool = False
    """Whether others have waited for long while it had all in hand that it may have."""
    kept_back: bool = False
    """Whether no more of it may be sent for now."""

    @property
    def lags(self) -> bool:
        return self.slow or self.kept_back or bool(self.left)

    @property
    def forgettable(self) -> bool:
        return self.shards.forgettable and not self.lags


class Lanes:
    """The tenants of one target that have something under way; "" is one, and the only one where no rule gives any."""

    def __init__(
        self,
        settle: Settle,
        settled: Callable[[Request, Sequence[Refusal]], None],
        *,
        number: int,
        max_samples: int,
        max_body_bytes: int,
        capacity: int,
        progress: asyncio.Event,
        has_tenants: bool,
        is_settled: Callable[[int], bool],
    ) -> None:
        """`settle` gives None when the sender is to stop; `settled` and `progress` are told of every other end.

        `number` is that of each tenant's shards, `capacity` bounds the samples of each shard that are taken and not
        settled; tenants share it. `is_settled` tells whether a row is.
        """
        self._ways = Ways(settle, self._note, progress, self.beside, asyncio.Lock())
        self._settled = settled
        self._number = number
        self._limits = max_samples, max_body_bytes
        self._capacity = max(capacity, max_samples)
        self._progress = progress
        self._has_tenants = has_tenants
        self._is_settled = is_settled
        self._lanes: dict[str, _Lane] = {}
        self._left_rows = 0
        self._running: set[asyncio.Task[None]] = set()

    @property
    def number(self) -> int:
        """How many shards each tenant has."""
        return self._number

    @property
    def idle(self) -> bool:
        """Whether everything taken is settled."""
        return not any(lane.shards.taken or lane.left for lane in self._lanes.values())

    @property
    def full(self) -> bool:
        """Whether somebody has all in hand that it may have, and is waited for."""
        room = self._room()
        return any(lane.shards.taken >= room and not lane.lags for lane in self._lanes.values())

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to send, in tasks of this group."""
        self._tasks = tasks

    def put(self, group: bytes, seq: int, row: Row) -> None:
        """Take a row; it is sent when a request is full, or with `flush`.

        Raise ValueError, with nothing taken, for a damaged one.
        """
        lane = self._lane(row.tenant)
        lane.shards.put(group, seq, row)
        if self._has_tenants and (not lane.seqs or lane.seqs[-1] < seq):
            lane.seqs.append(seq)

    def wait_no_longer(self) -> None:
        """Have nobody wait any more for those who have all in hand that they may have."""
        room = self._room()
        for lane in self._lanes.values():
            lane.slow = lane.slow or (self._has_tenants and lane.shards.taken >= room)

    def leave(self, tenant: str, seq: int, samples: int) -> bool:
        """Leave a row in the journal when its tenant has no room for it; false when it is to be `put`."""
        lane = self._lanes.get(tenant)
        if lane is None or not lane.lags:
            return False
        lane.left.append(Left(tenant, seq, samples))
        self._left_rows += 1
        lane.seqs.append(seq)
        return True

    def next_left(self) -> Left | None:
        """Give a row that was left and may be read again, None when there is none; it comes again until `take_back`."""
        if self._left_rows:
            room = self._room()
            for lane in self._lanes.values():
                if lane.left and not (lane.slow or lane.kept_back) and lane.shards.taken < room:
                    return lane.left[0]
        return None

    def take_back(self, left: Left) -> None:
        """Know that a row that was left is read again."""
        self._lanes[left.tenant].left.popleft()
        self._left_rows -= 1

    def keep_back(self, tenant: str) -> None:
        """Leave the rows of a tenant that come from now on in the journal, until `go_on`."""
        self._lane(tenant).kept_back = True

    def go_on(self, tenant: str) -> None:
        """Send rows of a tenant again."""
        if tenant in self._lanes:
            self._lanes[tenant].kept_back = False
        self._progress.set()

    def lags(self, tenant: str) -> bool:
        """Whether others do not wait for this tenant."""
        return tenant in self._lanes and self._lanes[tenant].lags

    def told_of_slowest(self) -> dict[str, str]:
        """What a log line says of whose row is the oldest that is not settled; nothing where there are no tenants."""
        oldest = min(((lane.seqs[0], tenant) for tenant, lane in self._lanes.items() if lane.seqs), default=None)
        return {"tenant": oldest[1]} if oldest is not None else {}

    def has_passed(self, tenant: str, seq: int) -> bool:
        """Whether all that was taken or left of a tenant up to this row is settled."""
        lane = self._lanes.get(tenant)
        if lane is None:
            return True
        # A row that was left may turn out to have nothing to be sent: no request is its end.
        self._pass(lane)
        return not lane.seqs or lane.seqs[0] > seq

    def flush(self) -> None:
        """Send what is there, full or not."""
        for shards in self._all():
            shards.flush()

    def flush_resting(self) -> bool:
        """Send what is there of tenants of whom nothing is in flight; false when there is none."""
        resting = [shards for shards in self._all() if shards.taken and shards.at_rest]
        for shards in resting:
            shards.flush()
        return bool(resting)

    def flush_idle(self) -> None:
        """Send what is there in shards that have nothing to do."""
        for shards in self._all():
            shards.flush_idle()

    @property
    def waited_for(self) -> bool:
        """Whether something is under way of a tenant that does not lag."""
        return any(lane.shards.taken and not lane.lags for lane in self._lanes.values())

    def resize(self, number: int) -> None:
        """Have another number of shards for each tenant; a group stays where it is while it has something under way."""
        self._number = number
        for shards in self._all():
            shards.resize(number)

    async def emptied(self) -> None:
        """Send what is there and return when all of it is settled."""
        self.flush()
        while not self.idle:
            self._progress.clear()
            await self._progress.wait()

    async def finish(self) -> None:
        """Let what is in flight end and send no more."""
        for shards in self._all():
            shards.clear()
        await asyncio.gather(*self._running)

    def _all(self) -> Iterable[Shards]:
        return [lane.shards for lane in self._lanes.values()]

    def _lane(self, tenant: str) -> _Lane:
        lane = self._lanes.get(tenant)
        if lane is None:
            self._forget()
            max_samples, max_body_bytes = self._limits
            shards = Shards(self._ways, self._number, max_samples=max_samples, max_body_bytes=max_body_bytes)
            lane = self._lanes[tenant] = _Lane(shards)
        return lane

    def _forget(self) -> None:
        for tenant in [one for one, lane in self._lanes.items() if lane.forgettable]:
            del self._lanes[tenant]

    def _room(self) -> int:
        """What a tenant may have in hand, in samples."""
        sharing = sum(lane.shards.taken > 0 for lane in self._lanes.values())
        return max(self._limits[0], self._number * self._capacity // max(1, sharing))

    def _note(self, request: Request, refusals: Sequence[Refusal]) -> None:
        self._settled(request, refusals)
        if not self._has_tenants:
            return
        lane = self._lanes[request.tenant]
        lane.slow = lane.slow and lane.shards.taken > self._room() // 2
        self._pass(lane)

    def _pass(self, lane: _Lane) -> None:
        while lane.seqs and self._is_settled(lane.seqs[0]):
            lane.seqs.popleft()

    def beside(self, work: Coroutine[None, None, None]) -> None:
        """Have something done beside all else, and awaited by `finish`."""
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
