"""One request until its fate is known: sent again while nobody knows, split when something in it is refused.

Owns retries and their pauses, the rule for statuses that may belong to the data, and what is told of a refusal.
What an answer means is `outcome`, which part to send next `split`, how long to wait `backoff`.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Literal, Protocol

from bridge.delivery.backoff import backoff_s, delay_s
from bridge.delivery.batch import Request, cut
from bridge.delivery.outcome import Delivered, Outcome, Rejected, RetryLater
from bridge.delivery.slots import Slots
from bridge.delivery.split import Bisection
from bridge.delivery.throttle import ThrottledLog
from bridge.delivery.window import Refusal
from bridge.wire.head import cut_field
from bridge.wire.points import split_field

OnRejected = Literal["split", "drop"]
_DOUBTFUL = HTTPStatus.INTERNAL_SERVER_ERROR
"""Old receivers answer so to bad data (protocol.md section 0): nobody but a probe can tell it from an outage."""
_DOUBTFUL_TRIES = 5
_TRIES_ONCE_KNOWN = 2
"""For the rest of a request of which one sample turned out to be answered so."""
_PATIENCE_PAUSES = 2
"""A single sample is not given up for a 500 sooner than after so many of the longest pauses."""
_REFUSED_PAUSES = 6
"""A target that refuses everything is asked again after so many of the longest pauses: somebody has to act first."""
_MOST_IN_FLIGHT = 50


class Client(Protocol):
    """One POST (`bridge.delivery.client`)."""

    async def send(self, block: bytes, attempt: int, tenant: str) -> Outcome:
        """Send a snappy block of a tenant; `attempt` is 0 for the first try. Raises nothing but cancellation."""
        ...


class Observer(Protocol):
    """What metrics want to know; called on the loop, must not block or raise."""

    def request_finished(self, target: str, status: int | None, latency_s: float) -> None:
        """Count one POST; `status` is None when there was no answer."""
        ...

    def retried(self, target: str, samples: int) -> None:
        """Count samples that are sent again."""
        ...

    def repeated(self, target: str, reason: str, samples: int) -> None:
        """Count repeats that the target has, or that it refused for a reason."""
        ...


class Posted(Protocol):
    """What a POST is made of."""

    @property
    def block(self) -> bytes:
        """A snappy block."""
        ...

    @property
    def samples(self) -> int:
        """How many samples it holds."""
        ...

    @property
    def tenant(self) -> str:
        """Whose samples these are, "" when the target's own headers say it."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """Time, and how it passes between tries."""

    clock_s: Callable[[], float]
    """Monotonic."""
    sleep: Callable[[float], Coroutine[None, None, None]]
    """Returns early when the sender is to stop."""
    random_01: Callable[[], float]
    min_backoff_s: float
    max_backoff_s: float

    def delay_s(self, failures: int, after_s: float | None) -> float:
        """How long to wait after so many failures, the receiver's own wish first."""
        return delay_s(failures, after_s, self.random_01(), self.min_backoff_s, self.max_backoff_s)

    def refused_s(self) -> float:
        """How long to wait with a target that refuses everything."""
        longest_s = _REFUSED_PAUSES * self.max_backoff_s
        return backoff_s(1, self.random_01(), longest_s, longest_s)


@dataclass(slots=True)
class _Doubt:
    """About the 500s that one request and its parts meet with."""

    tries: int = _DOUBTFUL_TRIES
    since_s: float | None = None
    """When the first of them came."""


class Courier:
    """Brings the requests of one target, several at the same time."""

    def __init__(
        self,
        name: str,
        *,
        client: Client,
        observer: Observer,
        log: ThrottledLog,
        pace: Pace,
        stopping: asyncio.Event,
        progress: asyncio.Event,
        on_rejected: OnRejected = "split",
        probe: Callable[[], Request] | None = None,
        most_in_flight: int = _MOST_IN_FLIGHT,
    ) -> None:
        """After `stopping` is set nothing is tried again; `progress` is told of everything that gets through or fails.

        `probe` makes a request that a receiver in order takes; without one a 500 is never the data's, and a 401 always.
        """
        self._slots = Slots(most_in_flight)
        self._name = name
        self._client = client
        self._observer = observer
        self._log = log
        self._pace = pace
        self._stopping = stopping
        self._splits = on_rejected == "split"
        self._probe = probe
        self._progress = progress
        self._trying = self._turn = self._passed_turn = 0
        self._failing: dict[int, int] = {}
        """Requests in hand that failed, and when they first did."""
        self._failing_of: Counter[str] = Counter()
        """The same by tenant."""
        self._tenants = "", ""
        """The last two of which something was taken."""
        self.troubled = False
        """Whether the newest answer was none, or a wish for patience."""
        self._told: set[str] = set()
        """Tenants of which the log says that something is sent again later, and nothing since."""
        self.latency_s = 0.0
        """Of the newest request that was taken."""

    @property
    def stuck(self) -> bool:
        """Whether nothing gets through: everything in hand is being tried again, and nothing has passed since."""
        failing = self._failing.values()
        return 0 < self._trying == len(failing) and self._passed_turn < max(failing)

    def in_trouble(self, tenant: str) -> bool:
        """Whether something of this tenant is being tried again."""
        return tenant in self._failing_of

    async def look_around(self) -> None:
        """Find out whether something gets through: what is in hand may be in trouble alone."""
        if self._probe is not None:
            await self.post(self._probe(), 0)

    async def settle(self, request: Request) -> tuple[Refusal, ...] | None:
        """Send a request until all of it is delivered or refused for good; gives what is refused, in order.

        None when it was to stop before: nobody knows then what the receiver has.
        """
        doubt = _Doubt()
        sent = await self._send(request, doubt)
        if sent is None:
            return None
        outcome, maybe_stored = sent
        return () if isinstance(outcome, Delivered) else await self._find(request, outcome, maybe_stored, doubt)

    async def judge(self, outcome: Outcome, tries: int, tenant: str) -> Outcome:
        """What an answer means that may be the data's, the tenant's or the target's fault, after so many tries."""
        if isinstance(outcome, Rejected):
            return await self._judge_refusal(outcome, tenant)
        if tries < _DOUBTFUL_TRIES:
            return outcome
        return await self._judge(outcome, tenant)

    async def _judge(self, outcome: Outcome, tenant: str) -> Outcome:
        if outcome.status != _DOUBTFUL or not isinstance(outcome, RetryLater) or not self._splits:
            return outcome
        # Of the same tenant: the trouble may be theirs alone.
        if not await self._takes(tenant):
            return outcome
        return Rejected(_DOUBTFUL, outcome.words)

    async def _judge_refusal(self, rejected: Rejected, tenant: str) -> Outcome:
        """Tell whom a 401, 404 or the like concerns: what a target refuses to everybody waits until it does not."""
        if not rejected.concerns_all or not self._splits or not self._probe:
            return rejected
        later = RetryLater(self._pace.refused_s(), rejected.status, rejected.words)
        if self._stopping.is_set():
            return later
        if await self._takes(tenant):
            return replace(rejected, of_data=True)
        newest, before = self._tenants
        if tenant and await self._takes(before if newest == tenant else newest):
            return rejected
        return later

    async def _takes(self, tenant: str) -> bool:
        """Find out whether the target takes samples of a tenant."""
        if self._probe is None:
            return False
        return isinstance(await self.post(replace(self._probe(), tenant=tenant), 0), Delivered)

    async def post(self, request: Posted, attempt: int) -> Outcome:
        """Send something once."""
        async with self._slots.one(request.tenant):
            started_s = self._pace.clock_s()
            outcome = await self._client.send(request.block, attempt, request.tenant)
            latency_s = self._pace.clock_s() - started_s
        self._observer.request_finished(self._name, outcome.status, latency_s)
        self.troubled = isinstance(outcome, RetryLater)
        if isinstance(outcome, Delivered):
            if request.tenant != self._tenants[0]:
                self._tenants = request.tenant, self._tenants[0]
            self.latency_s = latency_s
            if request.tenant in self._told:
                self._told.discard(request.tenant)
                self._log.info("remote_write_works_again", status=outcome.status, **_of(request.tenant))
            self._turn += 1
            self._passed_turn = self._turn
            self._progress.set()
        return outcome

    async def find_refused(self, request: Request, rejected: Rejected) -> tuple[Refusal, ...] | None:
        """Go on as `settle` does from the answer that the request as a whole is refused."""
        return await self._find(request, rejected, False, _Doubt())

    async def _find(
        self, request: Request, rejected: Rejected, maybe_stored: bool, doubt: _Doubt
    ) -> tuple[Refusal, ...] | None:
        if not self._splits:
            return (self._refuse(None, range(request.samples), rejected, request.tenant, maybe_stored=maybe_stored),)
        fields, tenant = request.fields(), request.tenant
        if len(fields) == 1 or rejected.concerns_all:
            every = range(len(fields))
            return await self._give_up(fields, every, rejected, tenant=tenant, maybe_stored=maybe_stored, doubt=doubt)
        search = Bisection(len(fields))
        refusals: list[Refusal] = []
        while not search.over:
            part = range(search.start, search.stop)
            sent = await self._send(cut(fields[part.start : part.stop], tenant), doubt)
            if sent is None:
                return None
            outcome, again = sent
            if isinstance(outcome, Delivered):
                search.passed()
            elif _is_decided(search, outcome):
                unsure = maybe_stored or again
                refused = await self._give_up(fields, part, outcome, tenant=tenant, maybe_stored=unsure, doubt=doubt)
                if refused is None:
                    return None
                refusals += refused
        return _mark_followed(refusals, fields)

    async def _give_up(
        self, fields: list[bytes], part: range, rejected: Rejected, *, tenant: str, maybe_stored: bool, doubt: _Doubt
    ) -> tuple[Refusal, ...] | None:
        """Refuse a part for good, unless it is one sample that is taken without its exemplars; None as in `settle`."""
        if rejected.status == _DOUBTFUL:
            doubt.tries = _TRIES_ONCE_KNOWN
        if len(part) == 1 and not rejected.concerns_all and (parts := split_field(fields[part.start])).exemplars:
            sent = await self._send(cut([parts.without_exemplars()], tenant), doubt)
            if sent is None:
                return None
            if isinstance(sent[0], Delivered):
                self._log.warning(
                    "remote_write_exemplars_refused", status=rejected.status, words=rejected.words, **_of(tenant)
                )
                return ()
        return (self._refuse(fields, part, rejected, tenant, maybe_stored=maybe_stored),)

    async def _send(self, request: Request, doubt: _Doubt) -> tuple[Delivered | Rejected, bool] | None:
        """Send until there is a clear answer, and tell whether a try before had none; None when it was to stop."""
        failures = doubtful = 0
        maybe_stored = False
        self._trying += 1
        self._turn += 1
        turn = self._turn
        try:
            while not self._stopping.is_set():
                outcome = await self.post(request, failures)
                doubtful = doubtful + 1 if outcome.status == _DOUBTFUL else 0
                if isinstance(outcome, Rejected):
                    outcome = await self._judge_refusal(outcome, request.tenant)
                elif doubtful and self._is_time_to_judge(request, doubtful, doubt):
                    outcome = await self._judge(outcome, request.tenant)
                if not isinstance(outcome, RetryLater):
                    return outcome, maybe_stored
                failures += 1
                if failures == 1:
                    self._turn += 1
                    self._failing[turn] = self._turn
                    self._failing_of[request.tenant] += 1
                self._progress.set()
                maybe_stored = maybe_stored or outcome.maybe_stored
                await self._pause(outcome, failures, request)
        finally:
            self._trying -= 1
            if self._failing.pop(turn, None) is not None:
                self._failing_of -= Counter((request.tenant,))
        return None

    def _is_time_to_judge(self, request: Request, doubtful: int, doubt: _Doubt) -> bool:
        now_s = self._pace.clock_s()
        if doubt.since_s is None:
            doubt.since_s = now_s
        patience_s = _PATIENCE_PAUSES * self._pace.max_backoff_s
        return doubtful >= doubt.tries and (request.samples > 1 or now_s >= doubt.since_s + patience_s)

    async def _pause(self, outcome: RetryLater, failures: int, request: Request) -> None:
        wait_s = self._pace.delay_s(failures, outcome.after_s)
        self.log_retry(outcome, failures, wait_s, request)
        await self._pace.sleep(wait_s)
        if not self._stopping.is_set():
            self._observer.retried(self._name, request.samples)

    def _refuse(
        self, fields: list[bytes] | None, part: range, rejected: Rejected, tenant: str, *, maybe_stored: bool
    ) -> Refusal:
        self._log.error(
            "remote_write_rejected",
            status=rejected.status,
            words=rejected.words,
            samples=len(part),
            **_of(tenant),
            result="these samples are dropped for this target"
            if fields is None
            else "kept as dead letters (repeats are not)",
        )
        kept = None if fields is None else tuple(fields[part.start : part.stop])
        return Refusal(part.start, part.stop, rejected.status, rejected.words, maybe_stored, kept)

    def log_retry(self, outcome: RetryLater, attempt: int, wait_s: float, request: Posted) -> None:
        """Tell that something is sent again later."""
        self._told.add(request.tenant)
        tell = self._log.error if outcome.is_refusal else self._log.warning
        tell(
            "remote_write_failed",
            status=outcome.status,
            words=outcome.words,
            attempt=attempt,
            retry_in_s=round(wait_s, 3),
            samples=request.samples,
            **_of(request.tenant),
        )


def _of(tenant: str) -> dict[str, str]:
    """What a log line says of whose samples these are."""
    return {"tenant": tenant} if tenant else {}


def _is_decided(search: Bisection, rejected: Rejected) -> bool:
    if rejected.concerns_all:
        search.decide()
    return rejected.concerns_all or search.refused()


def _mark_followed(refusals: list[Refusal], fields: list[bytes]) -> tuple[Refusal, ...]:
    """Mark samples that are followed by a newer one of their series in the request that was refused as a whole.

    A receiver that stores the good part may have both since then, and no longer take the older one.
    """
    if not refusals:
        return ()
    newest = {cut_field(one)[0]: at for at, one in enumerate(fields)}
    return tuple(
        replace(refusal, maybe_stored=True)
        if refusal.stop - refusal.start == 1 and newest[cut_field(fields[refusal.start])[0]] > refusal.start
        else refusal
        for refusal in refusals
    )
