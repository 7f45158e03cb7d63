"""Several requests in flight, and the order of every series kept: a group's rows go through one queue at a time.

A group that has nothing under way goes where there is least to do: a backlog takes as long as the longest queue. Owns
the queues, how much may wait in them, and the change of their number. What is sent how is the courier's
business, what becomes of the rows the window's.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

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
    queue: "asyncio.Queue[Request | None]" = field(default_factory=asyncio.Queue)
    left: int = 0
    """Requests that wait or are in flight."""
    samples: int = 0
    """Taken and not settled."""

    def put(self, requests: Sequence[Request]) -> None:
        self.left += len(requests)
        for request in requests:
            self.queue.put_nowait(request)


@dataclass(slots=True)
class _Place:
    shard: _Shard
    samples: int = 0
    """Of the group, taken and not settled."""


class Shards:
    """The queues of one target, each with one request in flight."""

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
    ) -> None:
        """`settle` gives None when the sender is to stop; `settled` and `progress` are told of every other end.

        `capacity` bounds the samples of each shard that are taken and not settled.
        """
        self._settle = settle
        self._settled = settled
        self._limits = max_samples, max_body_bytes
        self._capacity = max(capacity, max_samples)
        self._shards: list[_Shard] = []
        self._active = number
        self._taken = 0
        self._places: dict[bytes, _Place] = {}
        """Where the groups are that have something under way."""
        self._progress = progress
        self._suspects: dict[bytes, int] = {}
        """Groups of which something was refused lately, and how many rows still have to pass."""
        self._running: list[asyncio.Task[None]] = []
        self._gate = asyncio.Lock()

    @property
    def number(self) -> int:
        """How many there are."""
        return self._active

    @property
    def idle(self) -> bool:
        """Whether everything taken is settled."""
        return self._taken == 0

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to send, in tasks of this group."""
        self._tasks = tasks
        self._grow()

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
        self._taken += row.samples
        shard.put(requests)

    def _least_busy(self) -> _Shard:
        return min(self._shards[: self._active], key=_samples) if self._active > 1 else self._shards[0]

    def flush(self) -> None:
        """Send what is there, full or not."""
        for shard in self._shards:
            shard.put(shard.packer.flush())

    def flush_idle(self) -> None:
        """Send what is there in shards that have nothing to do."""
        for shard in self._shards:
            if not shard.left:
                shard.put(shard.packer.flush())

    @property
    def at_rest(self) -> bool:
        """Whether no shard has anything to do."""
        return not any(shard.left for shard in self._shards)

    @property
    def full(self) -> bool:
        """Whether no more may be taken."""
        return self._taken >= self._active * self._capacity

    async def emptied(self) -> None:
        """Send what is there and return when all of it is settled."""
        self.flush()
        while not self.idle:
            self._progress.clear()
            await self._progress.wait()

    async def resize(self, number: int) -> None:
        """Have another number, once all is settled: otherwise a group's rows would be in two queues."""
        await self.emptied()
        self._active = number
        self._grow()

    async def finish(self) -> None:
        """Let what is in flight end and send no more."""
        for shard in self._shards:
            while not shard.queue.empty():
                shard.queue.get_nowait()
            shard.queue.put_nowait(None)
        await asyncio.gather(*self._running)

    def _grow(self) -> None:
        while len(self._shards) < self._active:
            shard = _Shard(Packer(*self._limits))
            self._shards.append(shard)
            self._running.append(self._tasks.create_task(self._run(shard)))

    async def _run(self, shard: _Shard) -> None:
        while (request := await shard.queue.get()) is not None:
            for part in separate(request, self._suspects) if self._suspects else (request,):
                await self._turn()
                refusals = await self._settle(part)
                if refusals is None:
                    return
                self._leave(shard, part)
                self._settled(part, refusals)
                if refusals or self._suspects:
                    self._watch(part, refusals)
                self._progress.set()
            shard.left -= 1
            self._progress.set()

    def _leave(self, shard: _Shard, request: Request) -> None:
        self._taken -= request.samples
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
        async with self._gate:
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
