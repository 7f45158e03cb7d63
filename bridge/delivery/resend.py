"""Dead letters sent once more to their target: what it takes now is told apart from what it still refuses.

Owns when to give up, each tenant by itself, and the count per letter. How a request is sent, split and tried again is
the courier's business; nothing is written here, and no order with the journal's own rows is kept: what was refused
comes late.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace

from bridge.delivery.batch import Packer, Request
from bridge.delivery.courier import Client, Courier, Observer, Pace
from bridge.delivery.outcome import Delivered, Outcome, Rejected
from bridge.delivery.rewrite import MOST_ROW_BYTES, Row
from bridge.delivery.throttle import ThrottledLog
from bridge.delivery.window import Refusal
from bridge.journal.rows import DeadLetter
from bridge.wire import snappy_block
from bridge.wire.remote_write import split_series

MAX_BODY_BYTES = 8 << 20
_MOST_UNCLEAR = 12
"""Answers one after the other that are none; more than the courier needs to blame the data for a 500."""
_MOST_PAUSE_S = 1.0
_MOST_S = 20.0
_MOST_WORDS = 200


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach a target, and what is set for it."""

    name: str
    url: str
    """For logs only."""
    client: Client
    observer: Observer
    probe: Callable[[], Request]
    """The courier's."""
    max_samples: int
    min_backoff_s: float


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, and how it passes."""

    clock_s: Callable[[], float]
    """Monotonic."""
    sleep: Callable[[float], Coroutine[None, None, None]]
    random_01: Callable[[], float]


@dataclass(slots=True)
class Resent:
    """What became of letters."""

    taken: list[int] = field(default_factory=list)
    """Ids of those that the target has now, every sample."""
    left: list[DeadLetter] = field(default_factory=list)
    """What is left of others, with the newest words."""
    samples: int = 0
    """That the target took."""
    refused: Counter[tuple[int, str]] = field(default_factory=Counter)
    """Samples by status and words."""
    damaged: list[int] = field(default_factory=list)
    """Ids of letters that cannot be read."""
    stopped: dict[str, str] = field(default_factory=dict)
    """By tenant why the rest of its letters was not sent, in the target's words."""


async def resend(letters: Sequence[DeadLetter], way: Way, clock: Clock) -> Resent:
    """Send letters of one target until all are settled, or left because nothing of their tenant is taken at the moment.

    The tenants go side by side, so that none waits for another; the letters of each are sent in their order.
    """
    by_tenant: dict[str, list[DeadLetter]] = {}
    for letter in letters:
        by_tenant.setdefault(letter.tenant, []).append(letter)
    resent, log = Resent(), ThrottledLog(way.name, way.url, clock.clock_s)
    async with asyncio.TaskGroup() as tasks:
        for tenant, of in by_tenant.items():
            tasks.create_task(_Work(way, clock, log, tenant, resent).do(of))
    return resent


@dataclass(slots=True)
class _Letter:
    letter: DeadLetter
    waiting: int
    """Samples that are not settled."""
    fields: list[bytes] = field(default_factory=list)
    """Refused again."""
    refusal: Refusal | None = None
    """The newest."""

    @property
    def taken(self) -> int:
        """Samples that the target has now."""
        return self.letter.samples - self.waiting - len(self.fields)

    def left(self) -> DeadLetter:
        assert self.refusal is not None  # noqa: S101 - there is one wherever there are fields
        return replace(
            self.letter,
            samples=len(self.fields),
            status=self.refusal.status,
            words=self.refusal.words,
            maybe_stored=self.letter.maybe_stored or self.refusal.maybe_stored,
            body=snappy_block.compress(b"".join(self.fields)),
        )


class _Work:
    """With the letters of one tenant."""

    def __init__(self, way: Way, clock: Clock, log: ThrottledLog, tenant: str, resent: Resent) -> None:
        """`resent` is told what became of them."""
        self._tenant = tenant
        self._resent = resent
        self._packer = Packer(way.max_samples, MAX_BODY_BYTES)
        self._letters: dict[int, _Letter] = {}
        self._patience = _Patience(way.client, clock)
        self._courier = Courier(
            way.name,
            client=self._patience,
            observer=way.observer,
            log=log,
            pace=Pace(clock.clock_s, self._patience.pause, clock.random_01, way.min_backoff_s, _MOST_PAUSE_S),
            stopping=self._patience.over,
            progress=asyncio.Event(),
            probe=way.probe,
        )

    async def do(self, letters: Sequence[DeadLetter]) -> None:
        """Send them, as long as there is patience."""
        for letter in letters:
            row = _row(letter)
            if row is None:
                self._resent.damaged.append(letter.id)
                continue
            self._letters[letter.id] = _Letter(letter, letter.samples)
            for request in self._packer.add(letter.id, row):
                await self._send(request)
        for request in self._packer.flush():
            await self._send(request)

    async def _send(self, request: Request) -> None:
        if self._patience.over.is_set():
            return
        self._patience.maybe_stored = False
        refusals = await self._courier.settle(request)
        if self._patience.over.is_set():
            # What the target has of this request is not known well enough; it goes again as a whole.
            self._resent.stopped[self._tenant] = self._patience.why
            for share in request.shares:
                known = self._letters[share.seq]
                if self._patience.maybe_stored or known.taken:
                    self._resent.left.append(replace(known.letter, maybe_stored=True))
            return
        self._settle(request, refusals or ())

    def _settle(self, request: Request, refusals: Sequence[Refusal]) -> None:
        start = 0
        for share in request.shares:
            stop = start + share.samples
            known = self._letters[share.seq]
            for refusal in refusals:
                first, last = max(start, refusal.start), min(stop, refusal.stop)
                if first < last and refusal.fields is not None:
                    known.fields += refusal.fields[first - refusal.start : last - refusal.start]
                    known.refusal = refusal
                    self._resent.refused[refusal.status, refusal.words] += last - first
            known.waiting -= share.samples
            if not known.waiting:
                self._close(known)
            start = stop

    def _close(self, known: _Letter) -> None:
        self._resent.samples += known.taken
        if known.fields:
            self._resent.left.append(known.left())
        else:
            self._resent.taken.append(known.letter.id)


class _Patience:
    """A client whose patience ends: somebody waits for the answer, and the letters are safe where they are."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._unclear = 0
        self._deadline_s = clock.clock_s() + _MOST_S
        self.over = asyncio.Event()
        self.why = ""
        self.maybe_stored = False
        """Whether the target may have something of what was sent since this was set to false."""

    async def send(self, block: bytes, attempt: int, tenant: str) -> Outcome:
        outcome = await self._client.send(block, attempt, tenant)
        if isinstance(outcome, Delivered | Rejected):
            self._unclear = 0
            self.maybe_stored = self.maybe_stored or isinstance(outcome, Delivered)
            if isinstance(outcome, Rejected) and outcome.concerns_all:
                # These words are about the sign-in or the address and must not replace those about the samples.
                self._give_up(outcome.status, outcome.words)
            return outcome
        self._unclear += 1
        self.maybe_stored = self.maybe_stored or outcome.maybe_stored
        if (
            self._unclear >= _MOST_UNCLEAR
            or (outcome.after_s or 0.0) > _MOST_PAUSE_S
            or self._clock.clock_s() >= self._deadline_s
        ):
            self._give_up(outcome.status, outcome.words)
        return outcome

    async def pause(self, seconds: float) -> None:
        if not self.over.is_set():
            await self._clock.sleep(min(seconds, _MOST_PAUSE_S))

    def _give_up(self, status: int | None, words: str) -> None:
        self.why = f"{'no answer' if status is None else status}: {' '.join(words.split())[:_MOST_WORDS]}".rstrip(": ")
        self.over.set()


def _row(letter: DeadLetter) -> Row | None:
    """Give the letter as a row to be sent, None when it is damaged: no checksum covers it."""
    try:
        content = snappy_block.decompress(letter.body, MOST_ROW_BYTES)
        intact = len(split_series(content)) == letter.samples > 0
    except (ValueError, IndexError):
        return None
    return Row(b"", content, letter.samples, len(content), letter.tenant, {}) if intact else None
