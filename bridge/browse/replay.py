"""`journal replay`: rows of the journal sent once more to one target, in order, whatever its cursor and account say.

Owns the order, the retries and the count. The agent may deliver beside it; nothing in the journal changes.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bridge.browse.options import tell
from bridge.browse.reading import read_chosen
from bridge.browse.series import Choice
from bridge.config.remote_write import QueueConfig
from bridge.delivery.backoff import delay_s
from bridge.delivery.batch import Request, plan_batch
from bridge.delivery.outcome import Delivered, Outcome, Rejected, RetryLater
from bridge.delivery.rewrite import TargetRules
from bridge.journal.archive import StoredRow
from bridge.journal.rows import Entry
from bridge.wire import snappy_block
from bridge.wire.remote_write import split_series

MAX_BODY_BYTES = 8 << 20
_MOST_BYTES = 1 << 30
_TELL_EVERY_S = 30.0
_MOST_WORDS = 200
_NOT_THE_DATAS = frozenset({*range(300, 400), 401, 402, 403, 404, 405, 407, 415})
"""Statuses that speak of the address, of who asks or of the protocol, whatever the samples are."""


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
    _due_s: float = field(default=0.0, init=False)
    _next_tell_s: float = field(default=0.0, init=False)

    async def run(self, pieces: Iterable[list[StoredRow]], settled: Callable[[int], object]) -> None:
        """Send all rows; `settled` is told how many more are done. Cancellation leaves the tally exact."""
        try:
            await self._send_all(pieces, settled)
        except _RefusedAltogetherError as error:
            self.tally.stopped = str(error)

    async def _send_all(self, pieces: Iterable[list[StoredRow]], settled: Callable[[int], object]) -> None:
        for piece in pieces:
            entries = [entry for row in piece if (entry := self._entry(row)) is not None]
            while entries:
                batch = plan_batch(entries, self.queue.max_samples_per_send, MAX_BODY_BYTES, self.rules)
                self.tally.damaged += batch.damaged
                self.tally.left_out += sum(batch.dropped.values())
                for request in batch.requests:
                    await self._settle(request)
                done = [entry for entry in entries if entry.seq <= batch.last_seq]
                entries = entries[len(done) :]
                self.tally.rows += len(done)
                self.tally.last_seq = batch.last_seq
            self.tally.last_seq = piece[-1].seq
            settled(len(piece))
            await asyncio.sleep(0)

    def _entry(self, row: StoredRow) -> Entry | None:
        chosen = read_chosen(row, self.choice)
        if chosen is None:
            self.tally.damaged += row.samples
            return None
        body, samples = chosen
        return Entry(row.seq, samples, body, row.arrival_ms, group=row.group) if samples else None

    async def _settle(self, request: Request) -> None:
        """Send a request until its fate is known; one that is refused is cut in halves until the bad ones are alone."""
        outcome = await self._deliver(request)
        if isinstance(outcome, Delivered):
            self.tally.sent += request.samples
            return
        words = f"{outcome.status} {' '.join(outcome.words.split())[:_MOST_WORDS]}".strip()
        if outcome.status in _NOT_THE_DATAS:
            raise _RefusedAltogetherError(words)
        if request.samples > 1:
            for half in _halves(request):
                await self._settle(half)
            return
        if not self.tally.refused:
            tell(f"refused by the target: {words}")
        self.tally.refused[words] += request.samples

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


def _halves(request: Request) -> Sequence[Request]:
    series = split_series(snappy_block.decompress(request.block, _MOST_BYTES))
    middle = len(series) // 2
    halves = series[:middle], series[middle:]
    return [Request(snappy_block.compress(b"".join(half)), len(half), request.tenant) for half in halves]
