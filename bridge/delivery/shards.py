"""Several requests in flight, and the order of every series kept: a group's rows all go through one queue.

Owns the queues, how much may wait in them, and the change of their number. What is sent how is the courier's
business, what becomes of the rows the window's.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from zlib import crc32

from bridge.delivery.batch import Packer, Request
from bridge.delivery.rewrite import Row
from bridge.delivery.window import Refusal

Settle = Callable[[Request], Coroutine[None, None, Sequence[Refusal] | None]]


@dataclass(slots=True)
class _Shard:
    packer: Packer
    queue: "asyncio.Queue[Request | None]"


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
    ) -> None:
        """`settle` gives None when the sender is to stop; `settled` is told of every other end.

        `capacity` bounds the samples of each shard that are taken and not settled.
        """
        self._settle = settle
        self._settled = settled
        self._limits = max_samples, max_body_bytes
        self._capacity = max(capacity, max_samples)
        self._shards: list[_Shard] = []
        self._active = number
        self._taken = 0
        self._changed = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []

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
        shard = self._shards[crc32(group) % self._active if self._active > 1 else 0]
        requests = shard.packer.add(seq, row)
        self._taken += row.samples
        for request in requests:
            shard.queue.put_nowait(request)

    def flush(self) -> None:
        """Send what is there, full or not."""
        for shard in self._shards:
            for request in shard.packer.flush():
                shard.queue.put_nowait(request)

    @property
    def full(self) -> bool:
        """Whether no more may be taken."""
        return self._taken >= self._active * self._capacity

    async def room(self) -> None:
        """Send what is there and return when more may be taken."""
        self.flush()
        while self.full:
            await self.change()

    async def emptied(self) -> None:
        """Send what is there and return when all of it is settled."""
        self.flush()
        while not self.idle:
            await self.change()

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

    async def change(self) -> None:
        """Return when the next request is settled."""
        self._changed.clear()
        await self._changed.wait()

    def _grow(self) -> None:
        while len(self._shards) < self._active:
            shard = _Shard(Packer(*self._limits), asyncio.Queue())
            self._shards.append(shard)
            self._running.append(self._tasks.create_task(self._run(shard)))

    async def _run(self, shard: _Shard) -> None:
        while (request := await shard.queue.get()) is not None:
            refusals = await self._settle(request)
            if refusals is None:
                return
            self._taken -= request.samples
            self._settled(request, refusals)
            self._changed.set()
