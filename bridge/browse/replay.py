"""`journal replay`: rows of the journal sent once more to one target, in order, whatever its cursor and account say.

Owns the order, the retries and the count. The agent may deliver beside it; nothing in the journal changes.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from bridge.browse.options import tell
from bridge.browse.reading import read_chosen
from bridge.browse.series import Choice
from bridge.config.remote_write import QueueConfig
from bridge.delivery.backoff import delay_s
from bridge.delivery.batch import Packer, Request, cut
from bridge.delivery.outcome import Delivered, Outcome, Rejected, RetryLater
from bridge.delivery.rewrite import TargetRules, prepare
from bridge.delivery.split import Bisection
from bridge.delivery.window import Window
from bridge.journal.archive import StoredRow
from bridge.journal.rows import Entry

MAX_BODY_BYTES = 8 << 20
_TELL_EVERY_S = 30.0
_MOST_WORDS = 200


class Client(Protocol):
    """One POST (`bridge.delivery.client`)."""

    async def send(self, block: bytes, attempt: int, tenant: str) -> Outcome:
        """Send a snappy block of a tenant; `attempt` is 0 for the first try. Raises nothing but cancellation."""
        ...


class _RefusedAltogetherError(Exception):
    """The target refuses whatever it is sent; the text has its words."""


@dataclass(slots=True)
class Tally:
    """What was done so far."""

    last_seq: int = 0
    """Everything up to this row is settled."""
    rows: int = 0
    """That held something to send."""
    sent: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Samples by status and the receiver's words."""
    damaged: int = 0
    """Samples in rows that cannot be read."""
    left_out: int = 0
    """Samples that the target's own rules drop."""
    stopped: str = ""
    """Why there is no use in going on."""

    @property
    def is_complete(self) -> bool:
        """Whether everything was sent."""
        return not self.refused and not self.damaged and not self.stopped

    def summary(self, verb: str) -> str:
        """Spell it for people."""
        parts = [f"{verb} {self.sent:,} samples of {self.rows:,} rows"]
        if self.refused:
            parts.append(f"{self.refused.total():,} refused")
        if self.damaged:
            parts.append(f"{self.damaged:,} in damaged rows")
        if self.left_out:
            parts.append(f"{self.left_out:,} dropped by the target's rules")
        return "; ".join([parts[0], ", ".join(parts[1:])] if parts[1:] else parts)

    def refusals(self) -> list[str]:
        """The receiver's words, the most frequent first."""
        return [f"refused ({samples:,}): {words}" for words, samples in self.refused.most_common(5)]


@dataclass(slots=True)
class Replay:
    """One replay to one target. Without a client it only counts."""

    client: Client | None
    queue: QueueConfig
    rules: TargetRules
    choice: Choice
    rate: float | None
    """Samples per second at the most."""
    tally: Tally = field(default_factory=Tally)
    _opened: int = field(default=0, init=False)
    _due_s: float = field(default=0.0, init=False)
    _next_tell_s: float = field(default=0.0, init=False)

    async def run(self, pieces: Iterable[list[StoredRow]], settled: Callable[[int], object]) -> None:
        """Send all rows; `settled` is told how many more are done. Cancellation leaves the tally exact."""
        try:
            await self._send_all(pieces, settled)
        except _RefusedAltogetherError as error:
            self.tally.stopped = str(error)

    async def _send_all(self, pieces: Iterable[list[StoredRow]], settled: Callable[[int], object]) -> None:
        window, packer = Window(), Packer(self.queue.max_samples_per_send, MAX_BODY_BYTES)
        for piece in pieces:
            for row in piece:
                entry = self._entry(row)
                if entry is not None:
                    for request in self._pack(entry, packer, window):
                        await self._finish(request, window)
            for request in packer.flush():
                await self._finish(request, window)
            self.tally.last_seq = piece[-1].seq
            settled(len(piece))
            await asyncio.sleep(0)

    def _pack(self, entry: Entry, packer: Packer, window: Window) -> list[Request]:
        row = prepare(entry, self.rules)
        try:
            requests = packer.add(entry.seq, row) if row is not None and row.samples else []
        except ValueError:
            row = None
        if row is None:
            self.tally.damaged += entry.samples
            return []
        window.open(entry.seq, row.samples, {})
        self._opened += 1
        self.tally.left_out += sum(row.dropped.values())
        return requests

    async def _finish(self, request: Request, window: Window) -> None:
        await self._settle(request)
        window.settle(request)
        for done in window.take():
            self.tally.last_seq = done.last_seq
        self.tally.rows = self._opened - len(window)

    def _entry(self, row: StoredRow) -> Entry | None:
        chosen = read_chosen(row, self.choice)
        if chosen is None:
            self.tally.damaged += row.samples
            return None
        body, samples = chosen
        return Entry(row.seq, samples, body, row.arrival_ms, group=row.group, kinds=row.kinds) if samples else None

    async def _settle(self, request: Request) -> None:
        """Send a request until its fate is known, and one that is refused in parts until the bad ones are alone."""
        if await self._passes(request):
            return
        fields = request.fields()
        search = Bisection(len(fields))
        while len(fields) > 1 and not search.over:
            if await self._passes(cut(fields[search.start : search.stop], request.tenant)):
                search.passed()
            else:
                search.refused()

    async def _passes(self, request: Request) -> bool:
        outcome = await self._deliver(request)
        if isinstance(outcome, Delivered):
            self.tally.sent += request.samples
            return True
        words = f"{outcome.status} {' '.join(outcome.words.split())[:_MOST_WORDS]}".strip()
        if outcome.concerns_all:
            raise _RefusedAltogetherError(words)
        if request.samples == 1:
            if not self.tally.refused:
                tell(f"refused by the target: {words}")
            self.tally.refused[words] += 1
        return False

    async def _deliver(self, request: Request) -> Delivered | Rejected:
        if self.client is None:
            return Delivered(0)
        attempt = 0
        while True:
            await self._pace(request.samples)
            outcome = await self.client.send(request.block, attempt, request.tenant)
            if not isinstance(outcome, RetryLater):
                return outcome
            attempt += 1
            wait_s = delay_s(attempt, outcome.after_s, random.random(), self.queue.min_backoff, self.queue.max_backoff)
            self._tell_retry(outcome, attempt)
            await asyncio.sleep(wait_s)

    async def _pace(self, samples: int) -> None:
        if self.rate is None:
            return
        now_s = time.monotonic()
        self._due_s = max(self._due_s, now_s)
        wait_s = self._due_s - now_s
        self._due_s += samples / self.rate
        await asyncio.sleep(wait_s)

    def _tell_retry(self, outcome: RetryLater, attempt: int) -> None:
        now_s = time.monotonic()
        if attempt > 1 and now_s < self._next_tell_s:
            return
        self._next_tell_s = now_s + _TELL_EVERY_S
        status = "no answer" if outcome.status is None else str(outcome.status)
        tell(f"the target does not take it now ({status}: {outcome.words[:_MOST_WORDS]}); trying again")
