"""Confirmations on their way to disk, so that sending does not wait for each fsync.

Owns how many may wait, how often they are written, and that none is lost or written out of order. Sending and the
journal itself are given in or stand elsewhere.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from bridge.errors import JournalFullError, JournalUnavailableError
from bridge.journal.rows import DeadLetter, Settled

MAX_UNCONFIRMED = 64
"""Stretches that may wait for the journal to write their confirmation; a crash sends these again."""

_PAUSE_SHARE = 3
"""So many times as long as a write took none follows: fewer pushes have to wait for one that is on its way."""
_MOST_PAUSE_S = 0.25

Confirm = Callable[[str, Sequence[Settled]], Awaitable[None]]
"""(target, what became of the rows, in order); returns when that is durable."""


class Confirmations:
    """What is settled and not on disk yet, of one target.

    What piles up during one write goes out with the next; a write that fails is repeated with its numbers, because
    a later sequence number alone would lose the counts.
    """

    def __init__(
        self,
        target: str,
        cursor: int,
        confirm: Confirm,
        failed: Callable[[str, int, Exception], Awaitable[None]],
        *,
        clock_s: Callable[[], float],
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        """Begin behind `cursor`; `failed(action, attempt, error)` logs a failed write and waits.

        `clock_s` is monotonic; `pause` sleeps so many seconds, but not when the sender is to stop.
        """
        self._target = target
        self.confirmed_seq = cursor
        """Everything up to here is confirmed, durably."""
        self._confirm = confirm
        self._failed = failed
        self._clock_s, self._pause = clock_s, pause
        self._settled: list[Settled] = []
        self._unconfirmed = 0
        self._closed = False
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def waits(self) -> bool:
        """Whether something is not confirmed yet."""
        return self._unconfirmed > 0

    async def all_confirmed(self) -> None:
        """Return when nothing waits for its confirmation."""
        await self._empty.wait()

    async def room(self) -> None:
        """Return when fewer than `MAX_UNCONFIRMED` stretches wait for their confirmation."""
        await self._room.wait()

    def add(self, settled: Settled) -> None:
        """Take over one settled stretch."""
        self._settled.append(settled)
        self._unconfirmed += 1
        self._empty.clear()
        self._work.set()
        if self._unconfirmed >= MAX_UNCONFIRMED:
            self._room.clear()

    def close(self) -> None:
        """Let `run` return once everything taken over is confirmed."""
        self._closed = True
        self._work.set()

    async def run(self) -> None:
        """Write until `close`."""
        while True:
            await self._work.wait()
            if not self._settled:
                return
            settled, self._settled = self._settled, []
            if not self._closed:
                self._work.clear()
            started_s = self._clock_s()
            await self._write(settled)
            pause_s = min(_PAUSE_SHARE * (self._clock_s() - started_s), _MOST_PAUSE_S)
            self.confirmed_seq = settled[-1].last_seq
            self._unconfirmed -= len(settled)
            self._room.set()
            if not self._unconfirmed:
                self._empty.set()
            if pause_s > 0 and not self._closed:
                await self._pause(pause_s)

    async def _write(self, settled: Sequence[Settled]) -> None:
        attempt = 0
        while True:
            try:
                await self._confirm(self._target, settled)
            except (JournalUnavailableError, JournalFullError) as error:
                if isinstance(error, JournalFullError) and len(settled) > 1:
                    # What fits is history then, and makes room for the rest.
                    half = len(settled) // 2
                    await self._write(settled[:half])
                    settled = settled[half:]
                    continue
                attempt += 1
                await self._failed("confirm", attempt, error)
                if isinstance(error, JournalFullError):
                    settled = [_without_bodies(one) for one in settled]
            else:
                return


def _without_bodies(settled: Settled) -> Settled:
    """Leave out what dead letters hold and keep their number: a full journal must not stop delivery."""
    samples: Counter[tuple[int, bool, str]] = Counter()
    for letter in settled.letters:
        samples[letter.status, letter.maybe_stored, letter.tenant] += letter.samples
    letters = tuple(
        DeadLetter(settled.first_seq, count, status, "(not kept: the journal was full)", maybe_stored, b"", tenant)
        for (status, maybe_stored, tenant), count in samples.items()
    )
    return replace(settled, letters=letters)
