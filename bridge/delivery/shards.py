"""Several requests of a tenant in flight, and the order of every series: a group's rows go through one queue at a time.

A group that has nothing under way goes where there is least to do: a backlog takes as long as the longest queue. Owns
the queues and the change of their number. How many tenants there are is the lanes' business, what is sent how the
courier's, what becomes of the rows the window's.
"""

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from bridge.delivery.batch import Packer, Request, separate
from bridge.delivery.rewrite import Row
from bridge.delivery.window import Refusal

_CLEAN_ROWS = 20
"""So many rows of a suspect have to pass before it is none any more."""
_MOST_SUSPECTS = 10_000
_TURNS = 6
"""Of the loop between two requests that begin. A push takes a dozen turns; a request is a millisecond's work."""
_samples = attrgetter("samples")

Settle = Callable[[Request], Coroutine[None, None, Sequence[Refusal] | None]]


@dataclass(slots=True)
class _Shard:
    packer: Packer
    queue: deque[Request] = field(default_factory=deque)
    busy: bool = False
    """Whether a request is in flight, or one that the sender's end left behind."""
    samples: int = 0
    """Taken and not settled."""


@dataclass(slots=True)
class _Place:
    shard: _Shard
    samples: int = 0
    """Of the group, taken and not settled."""


class Ways(NamedTuple):
    """Where requests go, and what the shards of all tenants share."""

    settle: Settle
    """Gives None when the sender is to stop."""
    settled: Callable[[Request, Sequence[Refusal]], None]
    """Is told of every other end, as `progress` is."""
    progress: asyncio.Event
    start: Callable[[Coroutine[None, None, None]], object]
    """Runs something beside all else."""
    gate: asyncio.Lock


class Shards:
    """The queues of one tenant, each with one request in flight."""

    def __init__(self, ways: Ways, number: int, *, max_samples: int, max_body_bytes: int) -> None:
        """Begin with so many, each of which sends requests within the limits."""
        self._ways = ways
        self._limits = max_samples, max_body_bytes
        self._shards: list[_Shard] = []
        """As many as were needed: of a thousand tenants most need one."""
        self._active = number
        self.taken = 0
        """Samples that are taken and not settled."""
        self._places: dict[bytes, _Place] = {}
        """Where the groups are that have something under way."""
        self._suspects: dict[bytes, int] = {}
        """Groups of which something was refused lately, and how many rows still have to pass."""

    @property
    def forgettable(self) -> bool:
        """Whether nothing is under way, and nothing is to be kept in mind."""
        return self.taken == 0 and self.at_rest and not self._suspects

    def put(self, group: bytes, seq: int, row: Row) -> None:
        """Take a row; it is sent when a request is full, or with `flush`.

        Raise ValueError, with nothing taken, for a damaged one.
        """
        place = self._places.get(group) or _Place(self._least_busy())
        shard = place.shard
        requests = shard.packer.add(seq, row, group)
        self._places[group] = place
        place.samples += row.samples
        shard.samples += row.samples
        self.taken += row.samples
        self._send(shard, requests)

    def _least_busy(self) -> _Shard:
        least = min(self._shards[: self._active], key=_samples, default=None)
        if least is None or (least.samples and len(self._shards) < self._active):
            least = _Shard(Packer(*self._limits))
            self._shards.append(least)
        return least

    def flush(self) -> None:
        """Send what is there, full or not."""
        for shard in self._shards:
            self._send(shard, shard.packer.flush())

    def flush_idle(self) -> None:
        """Send what is there in shards that have nothing to do."""
        for shard in self._shards:
            if not shard.busy:
                self._send(shard, shard.packer.flush())

    @property
    def at_rest(self) -> bool:
        """Whether no shard has anything to do."""
        return not any(shard.busy for shard in self._shards)

    def resize(self, number: int) -> None:
        """Have another number for groups that have nothing under way; the others stay where they are."""
        self._active = number

    def clear(self) -> None:
        """Begin no request that waits."""
        for shard in self._shards:
            shard.queue.clear()

    def _send(self, shard: _Shard, requests: Sequence[Request]) -> None:
        shard.queue.extend(requests)
        if requests and not shard.busy:
            shard.busy = True
            self._ways.start(self._run(shard))

    async def _run(self, shard: _Shard) -> None:
        while shard.queue:
            request = shard.queue.popleft()
            for part in separate(request, self._suspects) if self._suspects else (request,):
                await self._turn()
                refusals = await self._ways.settle(part)
                if refusals is None:
                    return
                self._leave(shard, part)
                if refusals or self._suspects:
                    self._watch(part, refusals)
                self._ways.settled(part, refusals)
                self._ways.progress.set()
        shard.busy = False
        self._ways.progress.set()

    def _leave(self, shard: _Shard, request: Request) -> None:
        self.taken -= request.samples
        shard.samples -= request.samples
        for share in request.shares:
            place = self._places.get(share.group)
            if place is not None:
                place.samples -= share.samples
                # Less than none when a damaged row has more samples than it says.
                if place.samples <= 0:
                    del self._places[share.group]

    async def _turn(self) -> None:
        """Wait until no other shard has begun a request for some turns of the loop.

        Those that began together are answered together, and pushes would wait until all of them have gone on.
        """
        async with self._ways.gate:
            for _ in range(_TURNS):
                await asyncio.sleep(0)

    def _watch(self, request: Request, refusals: Sequence[Refusal]) -> None:
        """Note which groups something was refused of; what is refused as a whole says nothing of any."""
        marks = [refusal.start for refusal in refusals if refusal.stop - refusal.start == 1]
        start = 0
        for share in request.shares:
            at = bisect_left(marks, start)
            start += share.samples
            if at < len(marks) and marks[at] < start:
                self._suspects.pop(share.group, None)
                self._suspects[share.group] = _CLEAN_ROWS
            elif share.group in self._suspects:
                self._suspects[share.group] -= 1
                if not self._suspects[share.group]:
                    del self._suspects[share.group]
        while len(self._suspects) > _MOST_SUSPECTS:
            del self._suspects[next(iter(self._suspects))]
